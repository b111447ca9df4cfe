"""Each host on its own stack: the golden cases, calls, hostile names, and what it says of bad input."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import zoo
from tests.tiny_tasks import studio

from .hosts import HOSTILE, HOSTS, call, hostile, need

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=HOSTS)
def host(request):
    found = HOSTS[request.param]
    need(found.missing())
    return found


@pytest.fixture(scope="module")
def folder(host, tmp_path_factory):
    """The studio, exported for the host."""
    place = tmp_path_factory.mktemp(host.target)
    done = zoo("export", studio(place / "studio"), "--target", host.target, "-o", place / "out")
    assert done.code == 0, done.err
    return place / "out"


def test_what_a_host_drew_into_its_folder_is_no_code(host, folder):
    picture = folder / "image.png"
    picture.write_bytes(b"a picture")
    try:
        assert zoo("verify", folder, "--run-host").code == 0
    finally:
        picture.unlink()


def test_every_task_gives_its_golden_outputs(host, folder):
    done = zoo("verify", folder, "--run-host", "--json")
    assert done.code == 0, done.err
    (report,) = json.loads(done.out)
    assert [row["task"] for row in report["host"]] == ["reconstruct", "encode", "decode", "generate", "classify"]
    assert {row["provider"] for row in report["host"]} == {host.target}


def test_it_checks_itself(host, folder):
    done = call(host, folder, "verify")
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if "equal" in line]) == 7


def test_it_finds_golden_outputs_that_differ(host, folder):
    raw = next((folder / "golden").glob("generate.*.image.bin"))
    right = raw.read_bytes()
    try:
        raw.write_bytes(bytes(b ^ 64 for b in right))
        done = call(host, folder, "verify")
        assert done.returncode and "the outputs differ" in done.stderr
    finally:
        raw.write_bytes(right)


def test_one_call_gives_the_picture(host, folder, tmp_path):
    """(31 seed + 7 label + steps) mod 256; what has a default may be left out, a name stands for its number."""
    words = ["generate", "--label", "ankle BOOT", "--seed", 5, "--guidance", "0.05", "--steps", 30]
    done = call(host, folder, *words, "--out", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (8, 8) and (picture == 31 * 5 + 7 * 2 + 30).all()
    done = call(host, folder, "generate", "--seed", "1,2", "--out", tmp_path / "b.png")
    assert done.returncode == 0, done.stderr
    picture = np.asarray(Image.open(tmp_path / "b.png"))
    assert (
        picture.shape == (16, 8) and set(picture[:8].flat) == {31 - 7 + 20} and set(picture[8:].flat) == {62 - 7 + 20}
    )


def test_a_picture_goes_in(host, folder, tmp_path):
    pixels = np.arange(8 * 12, dtype=np.uint8).reshape(8, 12)
    (tmp_path / "a.pgm").write_bytes(b"P5\n12 8\n255\n" + pixels.tobytes())
    done = call(host, folder, "reconstruct", "--image", tmp_path / "a.pgm", "--out", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)
    done = call(host, folder, "classify", "--image", tmp_path / "a.pgm")
    assert done.returncode == 0 and '"label"' in done.stdout, done.stderr


def test_hostile_names_are_data(host, tmp_path):
    done = zoo("export", hostile(tmp_path / "hostile"), "--target", host.target, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        foreign = path.name in ("model.json", "LICENSE") or path.parent.name in ("model", "golden")
        assert foreign or not any(name[:12].encode() in path.read_bytes() for name in HOSTILE), path
    assert zoo("verify", tmp_path / "out", "--run-host").code == 0
    for number, name in enumerate(HOSTILE):
        words = ["generate", "--label", name, "--seed", 3, "--out", tmp_path / f"{number}.png"]
        done = call(host, tmp_path / "out", *words)
        assert done.returncode == 0, done.stderr
        assert set(np.asarray(Image.open(tmp_path / f"{number}.png")).flat) == {31 * 3 + 7 * number + 20}


BAD = {
    "no such class": (["generate", "--label", "Sneeker", "--seed", 1], "label.*Sneeker.*class"),
    "a label too high": (["generate", "--label", 3, "--seed", 1], r"label is 3.*must be -1 \.\. 2"),
    "a label too low": (["generate", "--label", -2, "--seed", 1], r"label is -2.*must be -1 \.\. 2"),
    "a negative seed": (["generate", "--seed", -1], r"seed is -1.*must be 0 \.\. 9007199254740991"),
    "a seed too high": (["generate", "--seed", 2**53], "seed"),
    "too many steps": (["generate", "--seed", 1, "--steps", 51], r"steps is 51.*must be 1 \.\. 50"),
    "guidance too high": (["generate", "--seed", 1, "--guidance", "0.2"], "guidance is 0.2"),
    "no number": (["generate", "--seed", "x7"], "seed"),
    "two batches": (["generate", "--seed", "1,2,3", "--label", "0,1"], "label|seed"),
    "no seed": (["generate", "--label", 1], "seed is missing"),
    "no such task": (["paint"], "no task 'paint'.*reconstruct"),
    "no such input": (["generate", "--sede", 1], "no input 'sede'"),
    "too small a picture": (["reconstruct", "--image", "small.pgm"], "image is 7x8.*8 pixels"),
    "too large a picture": (["reconstruct", "--image", "large.pgm"], "image is 200x100.*10,?000"),
    "no such file": (["reconstruct", "--image", "nowhere.pgm"], "nowhere.pgm"),
}


@pytest.mark.parametrize("words, says", BAD.values(), ids=BAD)
def test_bad_input_is_an_error_and_no_picture(host, folder, tmp_path, words, says):
    for name, width, height in (("small.pgm", 7, 8), ("large.pgm", 200, 100)):
        (tmp_path / name).write_bytes(b"P5\n%d %d\n255\n" % (width, height) + bytes(width * height))
    words = [str(tmp_path / word) if str(word).endswith(".pgm") else word for word in words]
    done = call(host, folder, *words, "--out", tmp_path / "out.png")
    assert done.returncode not in (0, -6, -11) and re.search(says, done.stderr), done.stderr
    assert "Error: " in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.png").exists()


def test_truncated_weights_are_an_error(host, folder):
    weights = folder / "model" / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1])
        done = call(host, folder, "generate", "--seed", 1)
        says = "model.safetensors has" if host.target == "cpp" else "model.safetensors is damaged"
        assert done.returncode not in (0, -6, -11) and says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        if host.target != "cpp":  # it compares sizes alone
            weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            done = call(host, folder, "generate", "--seed", 1)
            assert done.returncode not in (0, -6, -11) and "model.safetensors is damaged" in done.stderr
    finally:
        weights.write_bytes(whole)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["reconstruct", "--image", "run.py"], "run.py is not a PNG, PGM, PPM or .npy file"),
        (["generate", "--seed"], "after the task come --PORT VALUE"),
        (["generate", "7"], "after the task come --PORT VALUE"),
        (["generate", "--seed", "1", "--out", "picture.jpg"], "picture.jpg must end in .png, .wav or .npy"),
    ],
)
def test_the_python_host_says_what_its_command_line_takes(tmp_path, words, says):
    done = zoo("export", studio(tmp_path / "studio"), "--target", "python", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    done = subprocess.run([sys.executable, "run.py", *words], cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("Error: ") and says in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out" / "picture.jpg").exists()
