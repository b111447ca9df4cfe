"""`zoo run` on many pictures: what it takes, how it names what it makes, and what it refuses before it starts."""

import csv
import gzip
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_tasks import studio
from zoo.media import sources
from zoo.run import batches, many, work
from zoo.system import paths
from zoo.system.installation import install_command

from .commands import zoo
from .test_run import error

POINTER = "a git-lfs pointer: the file itself was not uploaded, or needs `git lfs pull`"
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 12), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studio(tmp_path_factory.mktemp("many") / "studio")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures in `in/`, two of them in a subfolder, and `out/`."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for number, picture in enumerate(PICTURES):
        path = tmp_path / "in" / ("more" if number > 2 else "") / f"p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "out").mkdir()
    return tmp_path


def pixels(path: Path | str | io.BytesIO) -> np.ndarray:
    return np.asarray(Image.open(path))


def outputs() -> dict[str, np.ndarray]:
    return {path.name: pixels(path) for path in sorted(Path("out").rglob("*.png"))}


def lines(outcome) -> list[str]:
    return sorted(outcome.out.split())


def idx(pictures: np.ndarray) -> bytes:
    return b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in pictures.shape) + pictures.tobytes()


def test_a_folder_a_pattern_and_a_list_become_files_named_after_theirs(bundle: Path):
    for word in ("in", "in/**/*.png", "@list.txt"):
        names = [f"in/{'more/' if n > 2 else ''}p{n}.png" for n in range(5)]
        Path("list.txt").write_text("\n".join(names) + "\n\n")
        outcome = zoo("run", bundle, "reconstruct", word, "--out", "out/{stem}.png")
        assert (outcome.code, lines(outcome)) == (0, [f"out/p{n}.png" for n in range(5)]), word
        made = outputs()
        assert all((made[f"p{n}.png"] == PICTURES[n]).all() for n in range(5)), word
        for name in made:
            (Path("out") / name).unlink()


@pytest.mark.parametrize(("kept", "times"), [(many.MAX_KEPT, 1), (0, 2)])
def test_small_files_are_kept_from_looking_at_them_until_their_turn(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, kept: int, times: int
):
    read: list[str] = []

    def counted(path: Path, *args: int, **options: bool) -> bytes:
        read.append(path.name)
        return paths.read_file(path, *args, **options)

    monkeypatch.setattr(many, "MAX_KEPT", kept)
    monkeypatch.setattr("zoo.media.files.read_file", counted)
    assert zoo("run", bundle, "reconstruct", "in", "--out", "out/{stem}.png").code == 0
    assert {name: read.count(name) for name in read} == {f"p{n}.png": times for n in range(5)}
    assert all((picture == PICTURES[n]).all() for n, picture in enumerate(outputs().values()))


def test_a_list_may_come_from_a_file_or_from_stdin(bundle: Path):
    Path("list.txt").write_text("in/p0.png\nin/more\n")
    assert lines(zoo("run", bundle, "--from-file", "list.txt", "--out", "out/{stem}.png")) == [
        "out/p0.png", "out/p3.png", "out/p4.png",
    ]  # fmt: skip
    outcome = zoo(
        "run", bundle, "reconstruct", "in/p1.png", "--from-file", "-", "--out", "out/{i}.png", stdin=b"in/p2.png\r\n"
    )
    assert lines(outcome) == ["out/0.png", "out/1.png"] and (pixels("out/1.png") == PICTURES[2]).all()
    assert (
        error(zoo("run", bundle, "--from-file", "-", "--out", "out/{i}.png", stdin=b"\n"), 4)
        == "the list stdin is empty"
    )


def test_arrays_in_files_are_pictures_too(bundle: Path):
    np.save("a.npy", PICTURES[..., None])
    np.savez("b.npz", images=PICTURES, labels=np.arange(5))
    np.savez_compressed("c.npz", train_images=PICTURES[:2], test_images=PICTURES[2:])
    Path("t10k-images-idx3-ubyte").write_bytes(idx(PICTURES))
    Path("train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PICTURES)))
    words = ["a.npy", "b.npz", "c.npz:test_images", "t10k-images-idx3-ubyte", "train-images-idx3-ubyte.gz"]
    outcome = zoo("run", bundle, "reconstruct", *words, "--out", "out/{stem}.png", "--batch-size", 2)
    stems = ["a", "b", "c", "t10k-images-idx3-ubyte", "train-images-idx3-ubyte"]
    assert outcome.code == 0 and len(outcome.out.split()) == 23
    for stem in stems:
        shift = 2 if stem == "c" else 0
        assert all((pixels(f"out/{stem}-{n}.png") == PICTURES[n + shift]).all() for n in range(5 - shift)), stem
    said = error(zoo("run", bundle, "reconstruct", "c.npz", "--out", "out/{i}.png"), 2)
    assert said == "c.npz has several arrays; name one: c.npz:train_images or c.npz:test_images"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("none/*.png", "no file matches none/*.png"),
        ("empty", "the folder empty has no pictures (.bmp, .gif, .jpeg, .jpg, .png, .webp)"),
        ("none.npy", "none.npy does not exist"),
        ("@none.txt", "none.txt does not exist"),
        ("float.npy", "float.npy contains float32; pictures are uint8, 0 .. 255"),
        ("flat.npy", "flat.npy contains [5, 96]; pictures are uint8 [number, height, width], or that with a fourth"
                     " dimension of 1 or 3 channels"),
        ("rgb.npy", "rgb.npy contains [8, 9, 3], which looks like one picture; save it with a first dimension of 1:"
                    " array[None]"),
        ("b.npz:none", "b.npz:none: there is no such array"),
        ("lfs.npy", f"lfs.npy is not the file itself, but {POINTER}"),
        ("lfs.npz:images", f"lfs.npz is not the file itself, but {POINTER}"),
        ("lfs-idx3-ubyte.gz", f"lfs-idx3-ubyte.gz is not the file itself, but {POINTER}"),
        ("@lfs.npy", f"the list lfs.npy is not the file itself, but {POINTER}"),
        ("pipe.npy", "pipe.npy is not a plain file"),
        ("pipe.npz", "pipe.npz is not a plain file"),
        ("x-idx3-ubyte", "x-idx3-ubyte cannot be read: it does not start with the bytes 0, 0, 8, 3"),
        ("cut.npy", "cut.npy cannot be read: it ends in the middle of picture 4; --keep-going passes it over"),
    ],
)  # fmt: skip
def test_what_is_not_pictures_is_one_line(bundle: Path, word: str, said: str):
    Path("empty").mkdir()
    np.save("float.npy", PICTURES.astype(np.float32))
    np.save("flat.npy", PICTURES.reshape(5, -1))
    np.save("rgb.npy", np.zeros((8, 9, 3), np.uint8))
    np.savez("b.npz", images=PICTURES)
    Path("x-idx3-ubyte").write_bytes(b"PNG!")
    for name in ("lfs.npy", "lfs.npz", "lfs-idx3-ubyte.gz"):
        Path(name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    os.mkfifo("pipe.npy")
    os.mkfifo("pipe.npz")
    np.save("cut.npy", PICTURES)
    Path("cut.npy").write_bytes(Path("cut.npy").read_bytes()[:-1])
    outcome = zoo("run", bundle, "reconstruct", word, "--out", "out/{stem}.png")
    assert error(outcome, outcome.code) == said and outcome.code in (3, 4)
    assert outputs() == {}


def test_each_file_can_be_made_again_by_itself(bundle: Path):
    zoo("run", bundle, "generate", "-n", 5, "--seed", 7, "--label", "sneaker", "--out", "out/{label}-{seed}.png")
    assert set(outputs()) == {f"Sneaker-{seed}.png" for seed in range(7, 12)}
    recipe = json.loads(Image.open("out/Sneaker-9.png").text["zoo"])
    assert (recipe["seed"], recipe["number"], recipe["index"], recipe["options"]["label"]) == (9, None, None, 1)
    assert zoo("again", "out/Sneaker-9.png", "--model", bundle).out.startswith("identical")
    zoo("run", bundle, "reconstruct", "in", "--out", "out/{stem}.png")
    recipe = json.loads(Image.open("out/p3.png").text["zoo"])
    assert [file["name"] for file in recipe["files"]["image"]] == ["p3.png"]
    assert zoo("again", "out/p3.png", "--model", bundle, "--file", "in/more/p3.png").out.startswith("identical")


def test_one_label_per_picture_and_a_folder_per_class(bundle: Path):
    labels = [word for name in ("shirt", "sneaker", "sneaker", "2") for word in ("--label", name)]
    outcome = zoo("run", bundle, "generate", *labels, "--seed", 1, "--guidance", 0, "--out", "out/{label}/{index}.png")
    assert outcome.out.splitlines() == [
        "out/Shirt/0.png", "out/Sneaker/1.png", "out/Sneaker/2.png", "out/Ankle boot/3.png"
    ]  # fmt: skip
    assert pixels("out/Ankle boot/3.png")[0, 0] == 31 * 4 + 14 + 20
    zoo("run", bundle, "classify", "in", "--out", "out/{label}/{stem}.safetensors")
    made = sorted(path.stem for path in Path("out/Sneaker").glob("*.safetensors"))
    assert made == [f"p{n}" for n in range(5)]
    assert error(zoo("run", bundle, "generate", *labels, "-n", 3, "--out", "out/{i}.png"), 2) == (
        "4 values of label for 3 pictures; give one for all, or 3"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("in", "--out", "out/{name}.png"), "--out contains {name}; here it may contain {stem}, {index}, {i}"),
        (("in", "--out", "out/{seed}.png"), "--out contains {seed}; here it may contain {stem}, {index}, {i}"),
        (("in", "--out", "out/{}.png"), "--out contains {}; here it may contain {stem}, {index}, {i}"),
        (("generate", "--out", "{stem}.png"),
         "--out contains {stem}; here it may contain {index}, {i}, {label}, {seed}"),
        (("decode", "t.npy", "--out", "{index}.png"), "--out contains {index}; here it may contain {i}"),
        (("in", "--out", "out/{stem.png"), "--out out/{stem.png has a brace without its pair; placeholders are {stem},"
                                           " {index}, {i}, {label}, {seed}"),
        (("generate", "--out", "seed}.png"), "--out seed}.png has a brace without its pair; placeholders are {stem},"
                                             " {index}, {i}, {label}, {seed}"),
        (("classify", "in", "--out", "{index}{.csv"), "--out {index}{.csv has a brace without its pair; placeholders"),
        (("in", "in", "--out", "out/{stem}.png"),
         "--out gives in/p0.png and in/p0.png the same name, out/p0.png; add {index}"),
        (("generate", "-n", "2", "--out", "out/{label}.png", "--label", "shirt"),
         "--out gives picture 0 and picture 1 the same name, out/Shirt.png; add {index}"),
        (("in", "--out", "out/{stem}.csv"), "reconstruct gives reconstruction, which does not fit into a table;"
                                            " --out must end in .png"),
        (("in", "--resume"), "--resume needs a file or a row per picture: --out 'out/{stem}.png', or a table"),
        (("generate", "-n", "3", "--resume", "--out", "{i}.png"),
         "--resume needs --seed: another seed would give other pictures than those there"),
        (("generate", "--label", "all", "--resume", "--out", "{i}.png"),
         "--resume needs --seed: another seed would give other pictures than those there"),
        (("classify", "in", "--out", "{stem}.csv"), "--out is one file here; leave out {stem}"),
        (("in", "--out", "in/{stem}.png"), "--out would overwrite in/p0.png, which is read; give another name"),
        (("in", "--out", "out/{stem}.png", "--batch-size", "0"), "Invalid value for '--batch-size': 0 is not in the"
                                                                 " range 1<=x<=10000."),
    ],
)  # fmt: skip
def test_names_are_checked_before_anything_is_made(bundle: Path, words: tuple[str, ...], said: str):
    task = words[:1] if words[0] in ("generate", "decode", "classify") else ("reconstruct", *words[:1])
    outcome = zoo("run", bundle, *task, *words[1:])
    assert said.rstrip(".") in outcome.err and outcome.code == 2, outcome
    assert outputs() == {}


def test_a_folder_that_is_missing_is_an_error_as_always(bundle: Path):
    said = error(zoo("run", bundle, "reconstruct", "in", "--out", "none/{stem}.png"), 7)
    assert said == "the folder none does not exist; create it first, or give another --out"
    assert "the folder none does not exist" in error(zoo("run", bundle, "classify", "in", "--out", "none/t.csv"), 7)


def test_files_are_all_looked_at_before_anything_is_computed(bundle: Path):
    Path("in/p1.png").write_bytes(b"not a picture")
    Image.fromarray(PICTURES[0][:4]).save("in/more/p4.png")
    said = error(zoo("run", bundle, "reconstruct", "in", "--out", "out/{stem}.png"), 4)
    assert said == (
        "in/p1.png is not a picture that zoo can read: PNG, JPEG, WebP, GIF or BMP; there are problems with 1 more;"
        " --keep-going passes them over"
    )
    assert outputs() == {}


def test_keep_going_passes_over_what_cannot_be_read_and_says_so(bundle: Path):
    Path("in/p1.png").write_bytes(b"not a picture")
    data = Path("in/p2.png").read_bytes()
    Path("in/p2.png").write_bytes(data[:60])  # the header is whole
    Path("list.txt").write_text("in\nnone.png\n")
    outcome = zoo("run", bundle, "--from-file", "list.txt", "--keep-going", "--out", "out/{index}.png")
    assert error(outcome, 4) == "3 of 6 pictures could not be read: in/p1.png, …"
    assert sorted(outputs()) == ["0.png", "3.png", "4.png"]
    assert sum("passed over" in line for line in outcome.err.splitlines()) == 3
    assert (pixels("out/3.png") == PICTURES[3]).all()


def test_keep_going_passes_over_whatever_is_in_a_folder(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paths, "PIPE_SECONDS", 0.1)
    os.mkfifo("in/pipe.png")
    Path("in/loop.png").symlink_to("loop.png")
    Path("in/gone.png").symlink_to("nowhere")
    Path("in/empty.png").touch()
    Path("in/folder.png").mkdir()
    (Path("in") / os.fsdecode(b"odd\xff.png")).write_bytes(Path("in/p0.png").read_bytes())
    for out in ("out/{stem}.png", "t.csv"):
        outcome = zoo("run", bundle, "reconstruct" if "{" in out else "classify", "in", "--out", out, "--keep-going")
        assert "4 of 10 pictures could not be read: in/empty.png, …" in error(outcome, 4)
        assert outcome.err.count(": passed over") == 4
    assert len(list(Path("out").iterdir())) == 6 and Path("t.csv").read_bytes().count(b"\n") == 7


def test_seeds_follow_the_number_of_the_picture_even_if_some_are_there(bundle: Path):
    common = ("run", bundle, "generate", "-n", 6, "--seed", 4, "--guidance", 0, "--out", "out/{i}.png")
    zoo(*common, "--batch-size", 4)
    expected = outputs()
    for number in (1, 4):
        Path(f"out/{number}.png").unlink()
    there = Path("out/0.png").stat().st_mtime_ns
    outcome = zoo(*common, "--resume")
    assert lines(outcome) == ["out/1.png", "out/4.png"] and "4 of 6 are there; 2 are missing" in outcome.err
    assert {name: made[0, 0] for name, made in outputs().items()} == {n: p[0, 0] for n, p in expected.items()}
    assert Path("out/0.png").stat().st_mtime_ns == there
    outcome = zoo(*common, "--resume")
    assert (outcome.code, outcome.out) == (0, "") and "0 are missing" in outcome.err
    Path("out/2.png").unlink()
    assert "5 of 6 are there; 1 is missing" in zoo(*common, "--resume").err


def test_a_product_becomes_files_with_its_values_in_their_names(bundle: Path):
    words = ("--label", "all", "--seed", "3,9", "--scale", 2, "--batch-size", 2, "--out", "o/{label}-{seed}.png")
    Path("o").mkdir()
    outcome = zoo("run", bundle, "generate", *words)
    assert outcome.code == 0, outcome.err
    made = sorted(path.name for path in Path("o").iterdir())
    assert len(made) == 6 == len(outcome.out.splitlines()) and {name.rpartition("-")[2] for name in made} == {
        "3.png",
        "9.png",
    }
    for name in made:
        label, _, seed = name.removesuffix(".png").rpartition("-")
        assert (
            zoo("run", bundle, "generate", "--label", label, "--seed", seed, "--scale", 2, "--out", "one.png").code == 0
        )
        assert (pixels(f"o/{name}") == pixels("one.png")).all()
    assert "identical" in zoo("again", f"o/{made[0]}", "--model", bundle, "--out", "again.png").out


@pytest.mark.parametrize("flag", ["--sheet", "--show"])
def test_what_is_for_one_picture_is_refused_for_many(bundle: Path, flag: str):
    said = error(zoo("run", bundle, "generate", flag, "-n", 3, "--out", "o/{seed}.png"), 2)
    assert said.startswith(flag) and not Path("o").exists()


def test_pictures_of_several_sizes_are_several_batches(bundle: Path):
    Image.fromarray(PICTURES[0].repeat(2, 0)).save("in/p1.png")
    assert zoo("run", bundle, "reconstruct", "in", "--out", "out/{stem}.png").code == 0
    assert (pixels("out/p1.png") == PICTURES[0].repeat(2, 0)).all() and (pixels("out/p4.png") == PICTURES[4]).all()


def test_changes_are_reported_once_for_all(bundle: Path):
    for number in (0, 1):
        Image.fromarray(np.stack([PICTURES[0]] * 2 + [PICTURES[1]], -1)).save(f"in/p{number}.png")
    outcome = zoo("run", bundle, "reconstruct", "in", "--out", "out/{stem}.png")
    assert "in/p0.png is in colour: converted to grey; likewise 1 more" in outcome.err.splitlines()
    assert outcome.err.count("converted to grey") == 1


def test_a_grid_of_a_folder_is_that_of_its_files(bundle: Path):
    assert zoo("run", bundle, "reconstruct", "in", "--out", "a.png").out == "a.png\n"
    zoo("run", bundle, "reconstruct", *[f"in/{'more/' if n > 2 else ''}p{n}.png" for n in range(5)], "--out", "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    np.save("five.npy", PICTURES)
    zoo("run", bundle, "reconstruct", "five.npy", "--out", "c.png", "--batch-size", 2)
    assert (pixels("c.png") == pixels("a.png")).all()


def test_a_large_grid_runs_in_batches(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    common = ("run", bundle, "generate", "-n", 20, "--seed", 0, "--guidance", 0)
    zoo(*common, "--out", "one.png")
    seen: list[int] = []
    measured = batches.BatchSize.measured
    monkeypatch.setattr(batches, "MOST_AT_ONCE", 4)
    monkeypatch.setattr("zoo.run.call.MOST_AT_ONCE", 4)
    monkeypatch.setattr(batches.BatchSize, "measured", lambda size, n, s: seen.append(n) or measured(size, n, s))
    zoo(*common, "--out", "many.png")
    assert len(seen) > 1 and sum(seen) == 20
    assert Path("one.png").read_bytes() == Path("many.png").read_bytes()


def test_tokens_of_each_picture_in_a_file_of_its_own(bundle: Path):
    assert zoo("run", bundle, "encode", "in", "--out", "out/{stem}.safetensors").code == 0
    assert zoo("run", bundle, "decode", "--tokens", "out/p4.safetensors", "--out", "d.png").code == 0
    assert (pixels("d.png") == (PICTURES[4][::4, ::4] // 64 * 64).repeat(4, 0).repeat(4, 1)).all()


def test_a_table_of_labels_as_csv(bundle: Path):
    outcome = zoo("run", bundle, "classify", "in", "--out", "t.csv")
    assert (outcome.code, outcome.out) == (0, "t.csv\n")
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert list(rows[0]) == ["file", "label", *(f"probabilities.{c}" for c in ("Shirt", "Sneaker", "Ankle boot"))]
    assert [row["file"] for row in rows] == ["in/p0.png", "in/p1.png", "in/p2.png", "in/more/p3.png", "in/more/p4.png"]
    assert {row["label"] for row in rows} == {"Sneaker"}
    assert all(str(np.float32(rows[0][column])) == rows[0][column] for column in list(rows[0])[2:])
    assert sum(float(rows[0][column]) for column in list(rows[0])[2:]) == pytest.approx(1, abs=1e-5)


def test_a_table_of_tokens_as_json_lines(bundle: Path):
    assert zoo("run", bundle, "encode", "in/p0.png", "in/p1.png", "--out", "t.jsonl").code == 0
    first, second = map(json.loads, Path("t.jsonl").read_text().splitlines())
    assert first == {"file": "in/p0.png", "tokens": (PICTURES[0][::4, ::4] // 64).tolist(), "size": [8, 12]}
    assert second["file"] == "in/p1.png"


def test_a_table_as_parquet(bundle: Path):
    pq = pytest.importorskip("pyarrow.parquet")
    assert zoo("run", bundle, "classify", "in", "--out", "t.parquet", "--batch-size", 2).code == 0
    table = pq.read_table("t.parquet")
    assert table.column_names == ["file", "label", "probabilities"] and table.num_rows == 5
    assert str(table.schema.field("probabilities").type.value_type) == "float"  # as pyarrow calls float32
    assert table.column("label").to_pylist() == ["Sneaker"] * 5
    pq.write_table(table.slice(0, 3), "t.parquet")
    assert "3 of 5 are there" in zoo("run", bundle, "classify", "in", "--out", "t.parquet", "--resume").err
    assert pq.read_table("t.parquet").equals(table)


def test_parquet_without_its_package_is_one_line_with_the_command(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    said = error(zoo("run", bundle, "classify", "in", "--out", "t.parquet"), 2)
    assert said == "--out t.parquet: Parquet files need pyarrow: " + install_command("tables")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_table_goes_on_where_it_was_cut_off(bundle: Path, name: str):
    zoo("run", bundle, "classify", "in", "--out", name)
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[: whole.find(b"p3.png")])  # in the middle of a line
    outcome = zoo("run", bundle, "classify", "in", "--out", name, "--resume")
    assert "3 of 5 are there; 2 are missing" in outcome.err and Path(name).read_bytes() == whole
    Path(name).write_text("something else\n1,2\n")
    said = error(zoo("run", bundle, "classify", "in", "--out", name, "--resume"), 4)
    assert said == f"{name} is not a table that this command wrote; give another --out"
    assert Path(name).read_text() == "something else\n1,2\n"


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_the_first_line_of_another_file_is_not_taken_for_a_table_s(bundle: Path, name: str):
    """A table that was cut off in its first line is begun again; a note without an end of line stays."""
    Path(name).write_text("a note")
    said = error(zoo("run", bundle, "classify", "in", "--out", name, "--resume"), 4)
    assert said == f"{name} is not a table that this command wrote; give another --out"
    assert Path(name).read_text() == "a note"
    zoo("run", bundle, "classify", "in", "--out", "whole" + name)
    whole = Path("whole" + name).read_bytes()
    for cut in (0, 3, 9, 20):
        Path(name).write_bytes(whole[:cut])
        assert zoo("run", bundle, "classify", "in", "--out", name, "--resume").code == 0, cut
        assert Path(name).read_bytes() == whole, cut


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_table_is_not_written_into_a_pipe(bundle: Path, name: str):
    if name == "t.parquet":
        pytest.importorskip("pyarrow.parquet")
    os.mkfifo(name)
    for more in ((), ("--resume",)):
        said = error(zoo("run", bundle, "classify", "in", "--out", name, *more), 7)
        assert said == f"cannot write {name}: a table must be a plain file"
    assert Path(name).is_fifo()


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_table_of_another_task_is_not_resumed_and_stays_as_it_is(bundle: Path, name: str):
    if name == "t.parquet":
        pytest.importorskip("pyarrow.parquet")
    zoo("run", bundle, "classify", "in/p0.png", "--out", name)
    before = Path(name).read_bytes()
    said = error(zoo("run", bundle, "encode", "in", "--out", name, "--resume"), 4)
    assert said == f"{name} is not a table that this command wrote; give another --out"
    assert Path(name).read_bytes() == before


def test_stdin_is_one_of_the_pictures(bundle: Path):
    data = Path("in/p0.png").read_bytes()
    assert zoo("run", bundle, "reconstruct", "-", "--out", "out/{i}.png", stdin=data).code == 0
    assert zoo("run", bundle, "classify", "in/p1.png", "-", "--out", "t.csv", stdin=data).code == 0
    assert (pixels("out/0.png") == PICTURES[0]).all() and "\n-,Sneaker," in Path("t.csv").read_text()
    said = error(zoo("run", bundle, "reconstruct", "-", "-", "--out", "out/{i}.png", stdin=data), 2)
    assert said == "'-' (stdin) can be read only once; give a file for the other"


@pytest.mark.parametrize("words", [("-", "--from-file", "-"), ("@-", "--from-file", "-"), ("--from-file", "-")])
def test_a_list_and_a_picture_are_not_both_from_stdin(bundle: Path, words: tuple[str, ...]):
    outcome = zoo("run", bundle, "reconstruct", *words, "--out", "out/{i}.png", stdin=b"in/p0.png\n-\n")
    assert error(outcome, 2) == "'-' (stdin) can be read only once; give a file for the other"


def test_what_is_read_is_not_overwritten_whatever_links_lead_to_it(bundle: Path):
    Path("linked").symlink_to("in")
    Path("again").mkdir()
    Path("again/p0.png").symlink_to(Path("in/p0.png").absolute())
    Path("list.csv").write_text("in/p0.png\n")
    for words, read in (
        (("in", "--out", "linked/{stem}.png"), "in/p0.png"),
        (("linked/p0.png", "linked/p1.png", "--out", "in/{stem}.png"), "linked/p0.png"),
        (("again", "in/p1.png", "--out", "in/{stem}.png"), "again/p0.png"),
    ):
        said = error(zoo("run", bundle, "reconstruct", *words), 2)
        assert said == f"--out would overwrite {read}, which is read; give another name"
    for words in (("@list.csv",), ("--from-file", "list.csv"), ("@list.csv", "--resume")):
        said = error(zoo("run", bundle, "classify", *words, "--out", "list.csv"), 2)
        assert said == "--out would overwrite list.csv, which is read; give another name"
    assert Path("list.csv").read_text() == "in/p0.png\n" and (pixels("in/p0.png") == PICTURES[0]).all()
    # A link is replaced, and not what it leads to.
    assert zoo("run", bundle, "reconstruct", "in/p0.png", "in/p1.png", "--out", "again/{stem}.png").code == 0
    assert (pixels("in/p0.png") == PICTURES[0]).all() and not Path("again/p0.png").is_symlink()


def test_a_deeply_nested_line_is_not_a_table(bundle: Path):
    Path("t.jsonl").write_text("[" * 100_000 + "\n")
    said = error(zoo("run", bundle, "classify", "in", "--out", "t.jsonl", "--resume"), 4)
    assert said == "t.jsonl is not a table that this command wrote; give another --out"


def test_a_mask_from_stdin_is_for_all_batches_and_looked_at_first():
    words = ("run", "ddpm-fashion", "inpaint", "--image", "five.npy", "--steps", 1, "--seed", 2, "--batch-size", 1)
    np.save("five.npy", np.zeros((2, 28, 28), np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(np.pad(np.full((10, 10), 255, np.uint8), 9)).save(buffer, "PNG")
    outcome = zoo(*words, "--mask", "-", "--out", "out/{i}.png", stdin=buffer.getvalue())
    assert (outcome.code, sorted(outputs())) == (0, ["0.png", "1.png"])
    Path("bad.png").write_bytes(b"not a picture")
    outcome = zoo(*words, "--mask", "bad.png", "--keep-going", "--out", "out/{i}-x.png")
    assert "bad.png is not a picture" in error(outcome, 4) and len(outputs()) == 2


def test_fitted_pictures_of_all_sizes_are_one_batch(monkeypatch: pytest.MonkeyPatch):
    for number, side in enumerate((20, 28, 40)):
        Image.fromarray(np.full((side, side), 9, np.uint8)).save(f"out/f{number}.png")
    seen: list[int] = []
    many_run = work.execute
    monkeypatch.setattr(
        work,
        "execute",
        lambda model, call, *a, **k: seen.append(len(call.inputs["image"])) or many_run(model, call, *a, **k),
    )
    assert zoo("run", "vqvae-fashion", "reconstruct", "out", "--fit", "--out", "x-{stem}.png").code == 0
    assert seen == [3]


@pytest.mark.parametrize("out", [("out/{i}.png",), ("out.png",), ("out.png", "--batch-size", 2)])
def test_a_list_next_to_several_pictures_has_one_value_for_each(out: tuple):
    np.save("two.npy", np.zeros((2, 28, 28), np.uint8))
    words = ("run", "ddpm-fashion", "variations", "two.npy", "--steps", 1, "--out", *out)
    said = error(zoo(*words, "--label", "0,1", "--seed", "1,2"), 2)
    assert said == "--label and --seed are lists; with several pictures, give one list, with a value for each picture"
    said = error(zoo(*words, "--seed", "1..3"), 2)
    assert said in (
        "3 values of seed for 2 pictures; give one for all, or 2",
        "2 values of image for 3 pictures; give one for all, or 3",
    )


def test_a_placeholder_in_the_name_of_a_single_file_is_refused():
    for words in (
        ("compare", "ddpm-mnist", "ddpm-fashion", "--out", "{i}.png"),
        ("animate", "ddpm-mnist", "--out", "{i}.gif"),
    ):
        assert error(zoo(*words), 2) == "--out is one file here; leave out {i}"


def test_notes_count_pictures_and_not_batches():
    np.save("five.npy", np.full((5, 32, 32), 255, np.uint8))
    words = ("run", "vqvae-fashion", "reconstruct", "five.npy", "--out", "out/{i}.png", "--batch-size", 2)
    said = zoo(*words).err
    assert "five.npy[0] is 32x32; vqvae-fashion was trained on 28x28: --fit scales it; likewise 4 more" in said
    assert (
        "five.npy[0]: light at the edges, and what vqvae-fashion draws is dark there; --invert makes a negative;"
        in said
    )
    assert said.count("likewise 4 more") == 2


def test_a_note_about_a_file_for_all_pictures_comes_once():
    np.save("two.npy", np.zeros((2, 28, 28), np.uint8))
    Image.fromarray(np.zeros((28, 28), np.uint8)).save("mask.png")
    words = ("run", "ddpm-fashion", "inpaint", "two.npy", "--mask", "mask.png", "--steps", 1, "--seed", 1)
    said = zoo(*words, "--out", "out/{i}.png", "--batch-size", 1).err
    assert "mask.png marks nothing: its brightest pixel is 0; 128 or more is redrawn\n" in said


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_pattern_may_match_many_arrays(bundle: Path):
    Path("arrays").mkdir()
    for number in range(30):
        np.save(f"arrays/{number:02}.npy", PICTURES[number % 5][None])
    np.savez("arrays/30.npz", PICTURES[:2])
    before = open_files()
    items = sources.find(["arrays/*.np[yz]"])
    assert [item.stem for item in items] == [f"{n:02}-0" for n in range(31)] + ["30-1"]
    for _ in range(2):
        for number, item in enumerate(items[:30]):
            assert (pixels(io.BytesIO(item.read().data)) == PICTURES[number % 5]).all()
    assert (pixels(io.BytesIO(items[31].read().data)) == PICTURES[1]).all()
    assert open_files() - before <= sources.MAX_OPEN
    outcome = zoo("run", bundle, "reconstruct", "arrays/*.npy", "--out", "out/{stem}.png")
    assert outcome.code == 0 and len(outputs()) == 30


def test_the_report_as_json(bundle: Path):
    Path("in/p1.png").write_bytes(b"not a picture")
    outcome = zoo("run", bundle, "reconstruct", "in", "--keep-going", "--out", "out/{stem}.png", "--json")
    report = json.loads(outcome.out)
    assert outcome.code == 4 and report["pictures"] == 4 and report["failed"] == ["in/p1.png"]
    assert sorted(report["paths"]) == [f"out/p{n}.png" for n in (0, 2, 3, 4)]
