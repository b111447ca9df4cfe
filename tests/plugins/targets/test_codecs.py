"""What hosts make of a codec: text as bytes in each of them, and one line about a codec that they do not implement."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.commands import zoo
from tests.ports.bundles import bundle
from zoo.hookspecs import Port, Task
from zoo.ports.kind import Kind
from zoo.ports.kinds import KINDS
from zoo.site import Site

from .hosts import HOSTS, call, missing_node, need
from .test_web import Asked, serving

pytestmark = pytest.mark.slow


class Phrase(Kind):
    """Text in UTF-8, padded with zeros."""

    name = "phrase"
    dtype = "uint8"
    shape = "[batch, length]"
    meaning = "text"
    since = "0.1"
    ranks = (2,)
    codec = "bytes"
    field = "text"


GRAPH = """(uint8[batch,length] text, int64[batch] seed) => (int64[batch] sum, uint8[batch,length] back)
  <int64[1] last = {1}> {
    levels = Cast<to = 7>(text)
    bytes = ReduceSum<keepdims = 0>(levels, last)
    sum = Add(bytes, seed)
    back = Identity(text)
}"""


@pytest.fixture
def teller(tmp_path, monkeypatch):
    """A bundle that adds up the bytes of a text and the seed."""
    monkeypatch.setitem(KINDS, Phrase.name, Phrase())
    text = Port(kind="phrase", dtype="uint8", shape=("batch", "length"))
    number = Port(kind="label", dtype="int64", shape=("batch",))
    seed = Port(kind="seed", dtype="int64", shape=("batch",))
    task = Task(summary="Adds up", inputs={"text": text, "seed": seed}, outputs={"sum": number, "back": text})
    golden = np.frombuffer(b"abc\0de\0\0", np.uint8).reshape(2, 4)
    seeds = np.array([1, 2])
    total = golden.astype(np.int64).sum(axis=1) + seeds
    return bundle(tmp_path / "teller", "teller", task, GRAPH, text=golden, seed=seeds, sum=total, back=golden)


def export(teller, target):
    out = teller.parent / target
    done = zoo("export", teller, "--target", target, "-o", out)
    assert done.code == 0, done.err
    return out


@pytest.fixture(params=HOSTS)
def host(request):
    found = HOSTS[request.param]
    need(found.missing())
    return found


def numbers(line):
    """The numbers of an output as a host prints it; Node gives the shape too."""
    (value,) = json.loads(line).values()
    return np.ravel(value["data"] if isinstance(value, dict) else value).tolist()


def test_text_goes_in_as_it_is_and_as_a_file(host, teller, tmp_path):
    out = export(teller, host.target)
    done = zoo("verify", out, "--run-host")
    assert done.code == 0, done.err
    (tmp_path / "file.txt").write_bytes(b"from a file\n second\n")
    np.save(tmp_path / "texts.npy", np.frombuffer(b"no\0yes", np.uint8).reshape(2, 3))
    given = {
        "über, 7": ["über, 7".encode()],  # a comma separates nothing
        "": [b"\0"],
        f"@{tmp_path / 'file.txt'}": [b"from a file", b"second\0\0\0\0\0"],
        str(tmp_path / "texts.npy"): [b"no\0", b"yes"],
    }
    for text, rows in given.items():
        seeds = range(5, 5 + len(rows))
        done = call(host, out, "play", "--text", text, "--seed", ",".join(map(str, seeds)))
        assert done.returncode == 0, done.stderr
        total, back = map(numbers, done.stdout.splitlines())
        assert total == [sum(row) + seed for row, seed in zip(rows, seeds, strict=True)]
        assert bytes(back) == b"".join(rows)
    done = call(host, out, "play", "--text", "one for two", "--seed", "1,2", "--out", tmp_path / "sum.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "sum.npy").tolist() == [sum(b"one for two") + 1, sum(b"one for two") + 2]
    assert bytes(numbers(done.stdout)) == b"one for two" * 2  # the second output is printed
    done = call(host, out, "play", "--text", "@nowhere.txt", "--seed", "1")
    assert done.returncode == 1 and "nowhere.txt" in done.stderr and done.stderr.count("\n") == 1


TEXTS = ["a", "long", ""]


def test_python_pads_texts_to_the_longest(teller):
    code = f"""
import json, numpy as np
from run import run
outputs = run("play", text={TEXTS}, seed=1)
print(json.dumps([outputs["sum"].tolist(), outputs["back"].tolist()]))
for wrong in (7, [1], np.zeros((1, 2)), np.zeros((3, 0), np.uint8)):
    try: run("play", text=wrong, seed=[1, 2, 3])
    except (TypeError, ValueError) as error: print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=export(teller, "python"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    padded(done.stdout, ["TypeError", "TypeError", "TypeError", "ValueError"])


def test_node_pads_texts_to_the_longest(teller):
    need(missing_node())
    out = export(teller, "node")
    source = f"""
import {{ run }} from "./run.mjs";
const {{ sum, back }} = await run("play", {{ text: {json.dumps(TEXTS)}, seed: 1 }});
const rows = [0, 1, 2].map((i) => Array.from(back.data.slice(4 * i, 4 * i + 4)));
console.log(JSON.stringify([Array.from(sum.data, Number), rows]));
const cut = {{ dtype: "uint8", shape: [5], data: new Uint8Array(0) }};
for (const text of [7, [1], cut, {{ ...cut, shape: [3, 0] }}])
  await run("play", {{ text, seed: [1, 2, 3] }}).catch((error) => console.log(error.name));
"""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", source], cwd=out, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    padded(done.stdout, ["TypeError", "TypeError", "RangeError", "RangeError"])
    one = "string | Uint8Array"
    assert f'text: {one} | ({one})[] | Tensor<"uint8">; seed: ' in (out / "run.d.mts").read_text()


def padded(printed, errors):
    first, *rest = printed.splitlines()
    total, back = json.loads(first)
    assert total == [sum(text.encode()) + 1 for text in TEXTS]
    assert [bytes(row) for row in back] == [b"a\0\0\0", b"long", b"\0\0\0\0"]
    assert rest == errors


def test_a_text_of_a_fixed_length_is_filled_up_and_never_cut(host, teller, tmp_path):
    out = export(teller, host.target)
    path = out / "model.json"
    path.write_text(path.read_text().replace('"length"', "8"))
    done = call(host, out, "play", "--text", "short", "--seed", "1")
    assert bytes(numbers(done.stdout.splitlines()[1])) == b"short\0\0\0", done.stderr
    done = call(host, out, "play", "--text", "far too long", "--seed", "1")
    assert done.returncode == 1 and "text is 12 bytes of UTF-8; it must be at most 8\n" in done.stderr


def test_the_page_has_a_place_for_text(teller, chromium, tmp_path):
    out = export(teller, "web")
    done = zoo("verify", out, "--run-host")
    assert done.code == 0, done.err
    with serving(Site(out)) as url:
        asked = Asked(chromium, f"{url}?device=wasm")
        asked.page.fill("#port-text", "über")
        asked.page.fill("#port-seed", "5")
        asked.page.select_option("#port-seed-many", "4")
        asked.go()
        expected = [str(sum("über".encode()) + seed) for seed in (5, 6, 7, 8)]
        assert asked.page.locator("#outputs pre").first.text_content() == ", ".join(expected)
        asked.page.close()
        assert asked.errors == []


def test_a_page_that_does_not_know_the_field_takes_a_file(teller, chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(Phrase, "field", "parchment")
    (tmp_path / "file.txt").write_bytes(b"from a file")
    with serving(Site(export(teller, "web"))) as url:
        asked = Asked(chromium, f"{url}?device=wasm")
        asked.page.set_input_files("#port-text", tmp_path / "file.txt")
        asked.page.locator("#ports pre", has_text="uint8 [11]").wait_for()
        asked.page.fill("#port-seed", "1")
        asked.go()
        assert asked.page.locator("#outputs pre").first.text_content() == str(sum(b"from a file") + 1)
        asked.page.close()


# --- A codec that a host does not know --------------------------------------------------------------------------------

UNKNOWN = "port text has the codec 'runes', which this host does not know: export the model again with zoo 9.9 or newer"


@pytest.fixture
def later(teller, monkeypatch):
    """The bundle, where the kind is that of a later zoo, with a codec of its own."""
    monkeypatch.setattr(Phrase, "codec", "runes")
    monkeypatch.setattr(Phrase, "since", "9.9")
    return teller


def test_an_unknown_codec_is_one_line(host, later):
    out = export(later, host.target)
    for words in (["verify"], ["play", "--text", "x", "--seed", "1"], ["play"]):
        done = call(host, out, *words)
        assert (done.returncode, done.stderr) == (1, f"Error: {UNKNOWN}\n")
    done = zoo("verify", out, "--run-host")
    assert done.code == 10 and UNKNOWN in done.err and done.err.count("\n") == 1


def test_an_unknown_codec_on_the_page_is_one_line(later, chromium):
    out = export(later, "web")
    with serving(Site(out)) as url:
        asked = Asked(chromium, f"{url}?device=wasm")
        assert asked.status() == f"Error: {UNKNOWN}" and asked.page.is_disabled("#go")
        asked.page.close()
        assert asked.errors == []
    done = zoo("verify", out, "--run-host")
    assert done.code == 10 and UNKNOWN in done.err and done.err.count("\n") == 1
