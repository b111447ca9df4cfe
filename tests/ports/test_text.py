"""The kind `text`: in Python, on the command line, in a recipe, as a manifest declares it, in exported hosts."""

import inspect
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.commands import zoo
from tests.plugins.targets.hosts import HOSTS, call, need
from zoo import load
from zoo.cli.completion import run_words
from zoo.errors import UsageError
from zoo.hookspecs import Port, Task
from zoo.ports.kinds import KINDS
from zoo.ports.text import MOST_BYTES, encoded
from zoo.run.call import gather

from .bundles import bundle

TEXT = Port(kind="text", dtype="uint8", shape=("batch", 12), examples=("a red apple", "猫"))
NEGATIVE = Port(kind="text", dtype="uint8", shape=("batch", 12), default=0)
PICTURE = Port(kind="image", dtype="uint8", shape=("batch", 2, 12, 1))
SEED = Port(kind="seed", dtype="int64", shape=("batch",))
TASK = Task(
    summary="The bytes of two texts as a picture",
    inputs={"text": TEXT, "negative": NEGATIVE, "seed": SEED},
    outputs={"image": PICTURE},
)
GRAPH = """(uint8[batch,12] text, uint8[batch,12] negative, int64[batch] seed) => (uint8[batch,2,12,1] image)
  <int64[1] row = {1}, int64[1] channel = {3}, int64[1] one = {1}> {
    first = Unsqueeze(text, row)
    rest = Unsqueeze(negative, row)
    both = Concat<axis = 1>(first, rest)
    picture = Unsqueeze(both, channel)
    number = Cast<to = 2>(seed)
    zero = Sub(number, number)
    column = Reshape(zero, shape)
    image = Add(picture, column)
  }"""
GRAPH = GRAPH.replace("int64[1] one = {1}", "int64[4] shape = {-1, 1, 1, 1}")


def written(*texts: str) -> np.ndarray:
    return np.stack([np.frombuffer(text.encode().ljust(12, b"\0"), np.uint8) for text in texts])


def seen(image: np.ndarray) -> list[tuple[str, str]]:
    """The two texts in each picture."""
    return [tuple(bytes(row).rstrip(b"\0").decode() for row in picture[..., 0]) for picture in image]


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    arrays = {"text": written("a red apple"), "negative": written(""), "seed": np.array([7])}
    image = np.stack([arrays["text"], arrays["negative"]], 1)[..., None]
    return bundle(tmp_path / "writer", "writer", TASK, GRAPH, **arrays, image=image)


def pictures(file: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(file))


# --- Python -----------------------------------------------------------------------------------------------------------


def test_python_takes_a_text_for_all_or_one_each(writer: Path):
    model = load("./writer", device="cpu")
    assert seen(model.play(text="äpfel", seed=[1, 2])["image"]) == [("äpfel", "")] * 2
    assert seen(model.play(text=["a", "猫"], negative="no")["image"]) == [("a", "no"), ("猫", "no")]
    assert seen(model.play(text=np.array(["a", "b"]), seed=1)["image"]) == [("a", ""), ("b", "")]
    assert seen(model.play(text=written("bytes"), seed=1)["image"]) == [("bytes", "")]
    as_bytes = np.array(["a", "猫"]).astype("U1")
    assert seen(model.play(text=np.char.encode(as_bytes, "utf-8"), seed=1)["image"]) == [("a", ""), ("猫", "")]
    assert seen(model.play(text="", seed=1)["image"]) == [("", "")]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("x" * 13, "text 'xxxxxxxxxxxxx…' is 13 bytes of UTF-8; this model takes at most 12"),
        ("äöüäöüä", "is 14 bytes of UTF-8"),
        ("a\0b", "text contains a zero byte, which marks the end of a text"),
        ("a\udcff", "text 'a\\udcff' is not UTF-8"),
        (3, "text is int; it must be a text, or a list of texts"),
        ([], "text is list; it must be a text, or a list of texts"),
        (["a", 3], "text is list; it must be a text, or a list of texts"),
        (np.full((1, 12), 255, np.uint8), "text is not UTF-8"),
        (np.full((1, 12), 300, np.uint16), "text is an array of uint16; it must be a text, or a list of texts"),
        (np.array([b"\xff"]), "text is not UTF-8"),
        (np.array([[97, 0, 97] + [0] * 9], np.uint8), "text contains a zero byte"),
        (np.zeros((1, 5), np.uint8), "text has the shape [1, 5]; it must be [batch, 12]"),
        (["a", "b", "c"], "seed has batch 2; the other inputs have 3"),
    ],
)
def test_python_refuses_what_is_no_text(writer: Path, value, says):
    with pytest.raises(UsageError) as error:
        load("./writer", device="cpu").play(text=value, seed=[1, 2])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_the_signature_shows_the_empty_text(writer: Path):
    model = load("./writer", device="cpu")
    shown = str(inspect.signature(model.play))
    assert "text: str | collections.abc.Sequence[str]," in shown and "negative: str" in shown and " = ''," in shown
    assert "negative=''" in repr(model)
    assert "play(text='a red apple', seed=7)" in repr(model)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12))
def test_every_text_comes_back(text: str):
    try:
        array = encoded("text", TEXT, text)[None]
    except UsageError:
        assert len(text.encode()) > 12
        return
    assert KINDS["text"].to_json(TEXT, array) == [text]
    KINDS["text"].check_array("text", TEXT, array)


# --- The command line -------------------------------------------------------------------------------------------------


def test_run_takes_texts_files_and_signs(writer: Path, tmp_path: Path):
    run = ("run", "./writer", "--seed", "1")
    assert zoo(*run, "--text", "a red apple", "-n", "2", "--out", "{i}.png").code == 0
    assert seen(pictures("0.png")[None, ..., None]) == seen(pictures("1.png")[None, ..., None]) == [("a red apple", "")]
    assert zoo(*run, "--text", "a", "--text", "@@b", "--negative", "-c", "--out", "{i}.png").code == 0
    assert seen(pictures("1.png")[None, ..., None]) == [("@b", "-c")]
    (tmp_path / "words.txt").write_text("eins\n\nzwei \n")
    assert zoo(*run, "--text", "@words.txt", "--out", "{i}.png").code == 0
    assert [seen(pictures(f"{i}.png")[None, ..., None])[0][0] for i in range(2)] == ["eins", "zwei"]
    (tmp_path / "windows.txt").write_bytes("\ufeffa\u2028b\r\nzwei\r\n".encode())
    assert zoo(*run, "--text", "@windows.txt", "--out", "{i}.png").code == 0
    assert [seen(pictures(f"{i}.png")[None, ..., None])[0][0] for i in range(2)] == ["a\u2028b", "zwei"]


def test_each_picture_has_its_line_of_a_file_in_every_batch(writer: Path, tmp_path: Path):
    """The file is read once, so that it may be a pipe, and each batch takes its lines."""
    (tmp_path / "words.txt").write_text("eins\nzwei\ndrei\n")
    run = ("run", "./writer", "--text", "@words.txt", "--seed", "5", "--batch-size", "1")
    assert zoo(*run, "--out", "{seed}.png").code == 0
    made = [seen(pictures(f"{seed}.png")[None, ..., None])[0][0] for seed in (5, 6, 7)]
    assert made == ["eins", "zwei", "drei"]
    (tmp_path / "6.png").unlink()
    resumed = zoo(*run, "--out", "{seed}.png", "--resume")
    assert resumed.code == 0 and seen(pictures("6.png")[None, ..., None])[0][0] == "zwei", resumed.err
    refused = zoo(*run, "-n", "4", "--out", "x-{i}.png")
    assert refused.err == "Error: 3 values of text for 4 pictures; give one for all, or 4\n" and refused.code == 2
    assert not list(tmp_path.glob("x-*"))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--text", "x" * 13], 2, "is 13 bytes of UTF-8; this model takes at most 12"),
        (["--text", b"\xff"], 2, "is not UTF-8"),
        (["--text", "@gone.txt"], 3, "gone.txt"),
        (["--text", "@"], 2, "text '@' names no file; @@ starts a text that begins with an at sign"),
        (["--text", "@latin.txt"], 4, "latin.txt is not UTF-8"),
        (["--text", "@empty.txt"], 4, "empty.txt contains no text"),
        (["--text", "@huge.txt"], 2, "this model takes at most 12"),
        ([], 2, "play needs --text TEXT"),
    ],
)
def test_run_refuses_in_one_line(writer: Path, tmp_path: Path, words, code, says):
    (tmp_path / "latin.txt").write_bytes("ä".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "huge.txt").write_text("x" * 10_000_000)
    words = [word.decode("utf-8", "surrogateescape") if isinstance(word, bytes) else word for word in words]
    done = zoo("run", "./writer", *words, "--out", "x.png")
    assert done.code == code and says in done.err and done.err.count("\n") == 1, done.err
    assert len(done.err) < 400 and not (tmp_path / "x.png").exists()


def test_again_makes_the_same_and_opens_no_file(writer: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("top")
    assert zoo("run", "./writer", "--text", "@@secret", "--seed", "3", "--out", "x.png").code == 0
    done = zoo("again", "x.png", "--model", "./writer")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    assert seen(pictures("x.png")[None, ..., None]) == [("@secret", "")]
    assert zoo("run", "./writer", "--text", "a", "--text", "b", "--seed", "3", "--out", "two.png").code == 0
    assert zoo("again", "two.png", "--model", "./writer").out.startswith("identical")


@pytest.mark.parametrize("more", [[], ["--negative", "no"], ["--negative", "no", "--negative", "no"], ["-n", "3"]])
def test_again_makes_as_many_of_the_same_text(writer: Path, more: list[str]):
    texts = ["--text", "hi"] if "-n" in more else ["--text", "hi"] * (2 if "--negative" in more else 3)
    made = zoo("run", "./writer", *texts, *more, "--seed", "3", "--out", "same.png")
    assert made.code == 0, made.err
    done = zoo("again", "same.png", "--model", "./writer")
    assert done.code == 0 and done.out.startswith("identical"), done.err or done.out


def test_help_and_info_show_limit_and_example(writer: Path):
    help = zoo("run", "./writer", "play", "--help").out
    assert "--text TEXT" in help and "at most 12 bytes of UTF-8" in help and "--text 'a red apple'" in help
    info = zoo("info", "./writer").out
    assert "at most 12 bytes of UTF-8" in info
    assert json.loads(zoo("run", "./writer", "--example", "--json", "--out", "x.png").out)


def test_texts_next_to_a_list_are_a_list(writer: Path):
    words = ("--text", "a", "--text", "b", "--negative", "no", "--seed", "3,3")
    assert zoo("run", "./writer", *words, "--sheet", "--out", "sheet.png").code == 0
    assert zoo("run", "./writer", *words, "--out", "{i}.png").code == 0
    drawn = [seen(pictures(f"{i}.png")[None, ..., None])[0] for i in range(4)]
    assert drawn == [("a", "no"), ("a", "no"), ("b", "no"), ("b", "no")]
    for file in ("sheet.png", "2.png"):
        done = zoo("again", file, "--model", "./writer")
        assert done.out.startswith("identical"), done.err


def test_a_sheet_says_the_texts(writer: Path):
    from zoo.run.products import captions

    model = load("./writer", device="cpu")
    call = gather(model, "play", {"text": ("a", "猫"), "negative": ("no",), "seed": 3}, note=lambda line: None)
    assert captions(TASK, call) == (("a", "negative no", "seed 3"), ("猫", "negative no", "seed 4"))
    call = gather(model, "play", {"text": ("",), "seed": 3}, note=lambda line: None)
    assert captions(TASK, call) == (("seed 3",),)


def test_the_tab_key_completes_examples(writer: Path):
    def found(incomplete: str) -> list[str]:
        return [item.value for item in run_words(["./writer", "play", "--text"], incomplete, task_command)]

    def task_command(bundle, name):
        from zoo.cli.run import task_command

        return task_command(bundle, name, "./writer", "./writer")

    assert found("") == ["a red apple", "猫"] and found("a r") == ["a red apple"]
    assert found("@") == ["@"]  # a file, as the shell finds it


# --- Declarations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "says"),
    [
        ({"shape": ("batch", "length")}, "the last dimension of the kind text is the longest text"),
        ({"shape": ("batch", MOST_BYTES + 1)}, "1 .. 1,048,576 bytes"),
        ({"shape": (12,)}, "have the shape [batch, bytes]"),
        ({"dtype": "int64"}, "are uint8"),
        ({"default": 1}, "no default but 0"),
        ({"minimum": 0}, "no minimum"),
        ({"examples": ("x" * 13,)}, "is longer than 12 bytes"),
        ({"classes": ("a",)}, "have no classes"),
    ],
)
def test_a_wrong_declaration_is_named(port, says):
    wrong = Port(**({"kind": "text", "dtype": "uint8", "shape": ("batch", 12)} | port))
    assert says in KINDS["text"].problem(wrong)


def test_examples_are_for_texts_only():
    wrong = Port(kind="seed", dtype="int64", shape=("batch",), examples=("a",))
    assert "have no examples" in KINDS["seed"].problem(wrong)
    assert KINDS["text"].problem(TEXT) == KINDS["text"].problem(NEGATIVE) == ""


# --- Hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python", "node", "cpp"])
def test_a_host_takes_texts_as_zoo_run_does(writer: Path, tmp_path: Path, name: str):
    host = HOSTS[name]
    need(host.missing())
    assert zoo("export", "./writer", "--target", host.target, "-o", "out").code == 0
    (tmp_path / "words.txt").write_bytes("\ufeffa\u2028b\r\n\n zwei \n".encode())
    given = {
        ("äpfel 猫",): [("äpfel 猫", "")],
        ("äpfel 猫", "--negative", "-no"): [("äpfel 猫", "-no")],
        ("",): [("", "")],
        ("eins, zwei", "--text", "@@b"): [("eins, zwei", ""), ("@b", "")],
        (f"@{tmp_path}/words.txt", "--negative", "no"): [("a\u2028b", "no"), ("zwei", "no")],
        ("x" * 12, "--text", f"@{tmp_path}/words.txt"): [("x" * 12, ""), ("a\u2028b", ""), ("zwei", "")],
    }
    for words, expected in given.items():
        done = call(host, tmp_path / "out", "play", "--text", *words, "--seed", 1, "--out", tmp_path / "h.png")
        assert done.returncode == 0, done.stderr
        assert seen(pictures("h.png").reshape(-1, 2, 12, 1)) == expected
    help = call(host, tmp_path / "out", "play", "--help").stdout
    assert "--text TEXT or @FILE, a text per line: at most 12 bytes of UTF-8" in help


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python", "node", "cpp"])
def test_a_host_refuses_in_one_line(writer: Path, tmp_path: Path, name: str):
    host = HOSTS[name]
    need(host.missing())
    assert zoo("export", "./writer", "--target", host.target, "-o", "out").code == 0
    (tmp_path / "latin.txt").write_bytes("ä".encode("latin-1"))
    (tmp_path / "cesu.txt").write_bytes(b"\xed\xa0\x80")  # half of a pair of UTF-16
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "zero.txt").write_bytes(b"a\0b")
    bad = {
        "x" * 13: "text is 13 bytes of UTF-8; it must be at most 12",
        "äöüäöüä": "text is 14 bytes of UTF-8; it must be at most 12",
        os.fsdecode(b"a\xff"): "text is not UTF-8",
        f"@{tmp_path}/latin.txt": "latin.txt is not UTF-8",
        f"@{tmp_path}/cesu.txt": "cesu.txt is not UTF-8",
        f"@{tmp_path}/empty.txt": "empty.txt contains no text",
        f"@{tmp_path}/zero.txt": "text contains a zero byte, which marks the end of a text",
        f"@{tmp_path}/gone.txt": "gone.txt",
    }
    for text, says in bad.items():
        done = call(host, tmp_path / "out", "play", "--text", text, "--seed", 1, "--out", tmp_path / "bad.png")
        assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "bad.png").exists()


# --- Commands for any model -------------------------------------------------------------------------------------------


def test_compare_and_animate_take_words_and_say_which_option_is_missing(writer: Path):
    from tests.cli.commands import zoo

    for words in (
        ("compare", "./writer", "./writer"),
        ("animate", "./writer"),
        ("animate", "./writer", "--walk", 1, 2),
    ):
        outcome = zoo(*words)
        assert outcome.code == 2 and outcome.err.endswith("draws what a text says: give one with --text TEXT\n")
    Path("lines").write_text("one\ntwo\n")
    for texts, number in ((["a"], 8), (["a", "b", "c"], 3), (["@lines"], 2)):
        options = [word for text in texts for word in ("--text", text)]
        outcome = zoo("compare", "./writer", "./writer", *options, "--seed", 1, "--out", "c.png", "--json")
        assert outcome.code == 0 and json.loads(outcome.out)["pictures"] == number, outcome.err
    outcome = zoo("compare", "./writer", "./writer", "--text", "a", "--text", "b", "-n", 3, "--seed", 1)
    assert outcome.code == 2 and "2 values of text for 3 pictures" in outcome.err
    outcome = zoo("animate", "./writer", "--text", "a")  # the text is taken; this model's task is a single graph
    assert outcome.err.endswith("writer:1 does not have the steps of play as graphs of their own\n")
