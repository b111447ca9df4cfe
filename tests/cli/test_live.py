"""`zoo live`: a picture for each line of stdin, at once, with the model open."""

import io
import json
import os
import signal
import sys
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from PIL import Image

from tests.children import started
from tests.tiny_tasks import studio

from .commands import zoo


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    studio(tmp_path / "studio")


def level(path: str | io.BytesIO) -> int:
    """The grey level of a picture of the studio, which has one: 31 seed + 7 label + 20."""
    return int(np.asarray(Image.open(path)).flat[0])


def test_each_line_replaces_the_picture():
    done = zoo("live", "./studio", "generate", "--seed", 3, stdin=b"1\n\nSneaker\n")
    assert done.code == 0 and done.out == "live.png\nlive.png\n", done.err
    assert level("live.png") == (31 * 3 + 7 + 20) % 256 and not list(Path().glob(".live*"))
    again = zoo("again", "live.png", "--model", "./studio", "--out", "again.png")
    assert again.out.startswith("identical "), again.err
    done = zoo("live", "./studio", "generate", stdin=b"1")
    assert done.out == "live-2.png\n", "without --out nothing is overwritten"


def test_json_lines_give_json_lines():
    lines = b'{"label": 1, "seed": [5, 9], "steps": 2}\n{"label": "bag"}\n{"seed": 6, "steps": 20}'
    done = zoo("live", "./studio", "generate", "--set", "seed=4", "--json", "--out", "x-{index}.png", stdin=lines)
    first, wrong, second = map(json.loads, done.out.splitlines())
    assert (first["line"], first["index"], first["paths"]) == (1, 0, ["x-0.png"]) and first["ms"] >= 0
    assert wrong["line"] == 2 and wrong["error"].startswith("label 'bag' is not a class") and wrong["dropped"] == 0
    assert (second["line"], second["index"], second["paths"], second["seed"]) == (3, 1, ["x-1.png"], 6)
    assert level("x-0.png") == (31 * 5 + 7 + 2) % 256 and level("x-1.png") == (31 * 6 - 7 + 20) % 256


WRONG = {
    b"\xff": "the line is not UTF-8",
    b'{"seed": 1': "the line is not JSON: ",
    b'{"sed": 1}': "generate has no input 'sed'; it takes ",
    b'{"seed": "x"}': "seed must be a whole number, or a list of these",
    b'{"seed": true}': "seed must be a whole number",
    b'{"seed": 1e300}': "seed must be a whole number",
    b'{"label": {}}': "label must be text or a number, or a list of these",
    b'{"label": []}': "label must be text or a number",
    b'{"seed": -1}': "seed",
    b'{"seed": [1, 99999999999999999999]}': "seed is 99999999999999999999; it must be 0 ..",
    b'{"steps": 51}': "steps is 51; it must be 1 .. 50",
    b'{"guidance": NaN}': "guidance contains NaN",
    b"trainers": "label 'trainers' is not a class of this model",
    b"[" * 100_000: "label '[[",
    b'{"a":' * 100_000: "the line is not JSON: ",
    b"x" * (3 << 20): "the line has more than 1 MiB",
}


def test_a_wrong_line_is_one_line_and_the_next_is_drawn():
    lines = b"".join(line + b"\nShirt\n" for line in WRONG)
    done = zoo("live", "./studio", "generate", "--seed", 1, "--out", "x.png", stdin=lines)
    assert done.code == 0 and done.out == "x.png\n" * len(WRONG)
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == len(WRONG)
    for number, (said, expected) in enumerate(zip(errors, WRONG.values(), strict=True)):
        assert said.startswith(f"Error: line {2 * number + 1}: {expected}"), said


def test_other_tasks_take_files_and_print_values():
    Image.new("L", (8, 8), 65).save("a.png")
    done = zoo("live", "./studio", "classify", stdin=b'a.png\nnothing.png\n{"image": ["a.png", "a.png"]}\n')
    one, two = map(json.loads, done.out.splitlines())
    assert len(one["label"]) == 1 and two["label"] == one["label"] * 2
    assert "Error: line 2: " in done.err and not list(Path().glob("live*"))


def test_stdout_gets_the_pictures():
    done = zoo("live", "./studio", "generate", "--seed", 2, "--out", "-", stdin=b"0\n2\n")
    start = done.data.rindex(b"\x89PNG")
    assert start > 0 and level(io.BytesIO(done.data[start:])) == (31 * 2 + 14 + 20) % 256


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out", "x.txt"), "the name must end in .png"),
        (("--out", "none/x.png"), "the folder none does not exist"),
        (("--out", "{stem}.png"), "--out contains {stem}; here it may contain {index}, {i}, {seed}"),
        (("--out", "-", "--json"), "--json and --out - both write to stdout"),
        (("--seed", 1, "--set", "seed=2"), "name the seed twice"),
        (("--set", "step=2"), "--set step=…: generate takes "),
    ],
)
def test_what_is_wrong_with_all_lines_is_said_before_the_first(words, says):
    done = zoo("live", "./studio", "generate", *words, stdin=b"1\n")
    assert done.code not in (0, 1) and says in done.err and not list(Path().glob("*.png"))


def begin(*words: str):
    environment = os.environ | {"ZOO_ISOLATE": "0"}
    command = [sys.executable, "-m", "zoo", "live", "./studio", "generate", "--seed", "1", *words]
    return started(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, env=environment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("latest", [(), ("--latest",)])
def test_a_line_is_answered_while_stdin_is_open_and_a_signal_ends_it(number, latest):
    with begin(*latest) as child:
        child.stdin.write("1\n")
        child.stdin.flush()
        assert child.stdout.readline() == "live.png\n"
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 0 and err.endswith("\nstopped\n") and "Traceback" not in err, err


def test_lines_that_were_left_out_before_a_wrong_one_are_counted():
    with begin("--latest", "--json") as child:
        out, err = child.communicate("0\n" * 2000 + "x\n", timeout=60)
    events = [json.loads(line) for line in out.splitlines()]
    assert child.returncode == 0 and "error" in events[-1], err
    assert len(events) + sum(event["dropped"] for event in events) == 2001


def test_of_lines_that_came_together_the_newest_is_drawn():
    with begin("--latest", "--json") as child:
        out, err = child.communicate("0\n" * 2000 + "2\n", timeout=60)
    events = [json.loads(line) for line in out.splitlines()]
    assert child.returncode == 0, err
    assert events[-1]["line"] == 2001 and len(events) < 2001
    assert len(events) + sum(event["dropped"] for event in events) == 2001
    assert level("live.png") == (31 + 14 + 20) % 256
