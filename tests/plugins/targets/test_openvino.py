"""OpenVINO: what it runs, the noise that its host draws, and what is left out because its integers have 32 bits."""

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import zoo
from tests.tiny_tasks import studio
from zoo import load

from .hosts import need

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    need("" if importlib.util.find_spec("openvino") else "openvino")
    place = tmp_path_factory.mktemp("openvino")
    done = zoo("export", studio(place / "studio"), "--target", "openvino", "-o", place / "out")
    assert done.code == 0, done.err
    return place / "out"


def call(folder, *words):
    return subprocess.run([sys.executable, "run.py", *map(str, words)], cwd=folder, capture_output=True, text=True)


def test_what_it_can_run_gives_the_golden_outputs(folder):
    done = zoo("verify", folder, "--run-host", "--json")
    assert done.code == 0, done.err
    (report,) = json.loads(done.out)
    assert [row["task"] for row in report["host"]] == ["reconstruct", "encode", "decode", "classify"]
    assert report["ran_by"].startswith("OpenVINO 20")


def test_a_task_with_a_seed_is_left_out_and_says_why(folder, tmp_path):
    report = {r["task"]: r for r in json.loads((folder / "export.json").read_bytes())["report"]}
    assert not report["generate"]["runs"] and "64-bit integers in 32 bits" in report["generate"]["reason"]
    assert report["generate"]["reason"].endswith("what depends on the seed is not the noise of docs/noise.md, stream 0")
    done = zoo("export", studio(tmp_path / "s"), "--target", "openvino", "-o", tmp_path / "out", "--task", "generate")
    assert done.code == 10 and "openvino cannot run generate: it computes 64-bit integers in 32 bits" in done.err


def test_its_integers_do_have_32_bits():
    """Why: the day that this fails, every task can be shipped, and none needs a host that draws noise."""
    need("" if importlib.util.find_spec("openvino") else "openvino")
    import onnx
    import openvino

    text = """<ir_version: 8, opset_import: ["" : 17]> g (int64[n] x) => (int64[n] y)
      <int64 k = {65536}> { z = Mul(x, k)  y = Div(z, k) }"""
    model = openvino.Core().read_model(onnx.parser.parse_model(text).SerializeToString())
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert next(iter(compiled({"x": np.array([70_000])}).values()))[0] != 70_000


@pytest.mark.parametrize(
    "words, says",
    [
        (["reconstruct", "--image", "small.pgm"], "image is 7x8.*8 pixels"),
        (["classify"], "image is missing"),
        (["generate", "--seed", 1], "no task 'generate'"),
    ],
)
def test_bad_input_is_an_error(folder, tmp_path, words, says):
    (tmp_path / "small.pgm").write_bytes(b"P5\n7 8\n255\n" + bytes(56))
    words = [str(tmp_path / word) if str(word).endswith(".pgm") else word for word in words]
    done = call(folder, *words)
    assert done.returncode == 1 and re.search(f"Error: .*{says}", done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_one_call_gives_the_picture(folder, tmp_path):
    pixels = np.arange(8 * 12, dtype=np.uint8).reshape(8, 12)
    (tmp_path / "a.pgm").write_bytes(b"P5\n12 8\n255\n" + pixels.tobytes())
    done = call(folder, "reconstruct", "--image", tmp_path / "a.pgm", "--out", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)


# --- A sampler: the host draws its noise ------------------------------------------------------------------------------


def test_a_library_held_back_to_sse_is_not(folder, tmp_path, monkeypatch):
    """OpenVINO fails with it, so it must compute as without it, and say so."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    done = call(folder, "verify")
    assert done.returncode == 0 and "ONEDNN_MAX_CPU_ISA=SSE41 is ignored" in done.stderr, done.stderr


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    need("" if importlib.util.find_spec("openvino") else "openvino")
    out = tmp_path_factory.mktemp("sampler") / "out"
    done = zoo("export", "ddpm-fashion", "--target", "openvino", "-o", out)
    assert done.code == 0, done.err
    return out


def test_a_sampler_gives_the_golden_pictures(sampler):
    done = zoo("verify", sampler, "--run-host", "--json")
    assert done.code == 0, done.err
    (report,) = json.loads(done.out)
    assert [row["task"] for row in report["host"]] == ["generate", "variations"]
    assert {row["verdict"] for row in report["host"]} <= {"identical", "within"}


def test_a_seed_gives_the_picture_that_zoo_gives(sampler, tmp_path):
    """A call of a person: the default 20 steps, a class by name, several seeds."""
    done = call(sampler, "generate", "--seed", "7,8,9,10", "--label", "sneaker", "--out", tmp_path / "there.npy")
    assert done.returncode == 0, done.stderr
    here = load("ddpm-fashion").generate(seed=[7, 8, 9, 10], label="sneaker")["image"].astype(int)
    there = np.load(tmp_path / "there.npy").astype(int)
    apart = abs(here - there)
    assert here.shape == there.shape == (4, 28, 28, 1) and apart.max() <= 2 and (apart <= 1).mean() >= 0.999


def test_the_folder_says_what_draws_the_noise(sampler):
    inputs = json.loads((sampler / "model.json").read_bytes())["tasks"]["generate"]["inputs"]
    assert list(inputs) == ["noise", "steps", "label", "guidance"]
    assert inputs["noise"]["noise"] == "normal" and inputs["noise"]["shape"] == ["batch", 1, 28, 28]
    assert "python run.py generate --seed 7 --label 7" in (sampler / "README.md").read_text()


def test_noise_in_a_loop_is_left_out_and_says_why(sampler):
    report = {r["task"]: r for r in json.loads((sampler / "export.json").read_bytes())["report"]}
    assert {name for name, r in report.items() if not r["runs"]} == {"inpaint", "upscale2", "upscale4", "denoise"}
    assert report["inpaint"]["reason"].endswith("so the host must draw the seed's noise, but a loop draws it")
    assert report["generate"]["int64_ports"] == ["steps", "label"] and "host draws it" in report["generate"]["reason"]


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "seed is missing"),
        (["--seed", -1], "seed is -1 .. -1; it must be 0 .. 9007199254740991"),
        (["--seed", 2**53], f"seed is {2**53} .. {2**53}; it must be 0"),
        (["--seed", "x"], "seed 'x' is not a number"),
        (["--noise", 1, "--seed", 1], "generate has no input 'noise'; it takes steps, label, guidance, seed"),
    ],
)
def test_a_seed_that_is_none_is_an_error(sampler, words, says):
    done = call(sampler, "generate", *words)
    assert done.returncode == 1 and says in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
