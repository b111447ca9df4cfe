"""`zoo run` with a published diffusion model: what a person types, and what goes wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo as package

from .commands import zoo

DRAW = ("run", "ddpm-fashion", "generate", "--steps", "2")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_label_by_name_and_by_number_and_seeds_that_follow_each_other():
    assert zoo(*DRAW, "--label", "sneaker", "-n", 3, "--seed", 7, "--out", "a-{i}.png").code == 0
    assert zoo(*DRAW, "--label", 7, "--seed", 8, "--out", "b.png").code == 0
    second, alone = pixels("a-1.png").astype(int), pixels("b.png").astype(int)
    assert second.shape == (28, 28) and np.abs(second - alone).max() <= 1  # seed 7 + 1, in a batch and alone
    assert np.abs(second - pixels("a-2.png")).max() > 50


def test_another_process_draws_the_same_picture():
    words = [sys.executable, "-m", "zoo", *DRAW, "--seed", "3", "--out"]
    for name in ("a.png", "b.png"):
        subprocess.run([*words, name], check=True, capture_output=True)
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_again_is_identical():
    zoo(*DRAW, "--label", "bag", "-n", 2, "--seed", 1, "--guidance", 2, "--out", "bags.png")
    outcome = zoo("again", "bags.png")
    assert outcome.code == 0 and "identical" in outcome.out + outcome.err


def test_a_masked_part_is_drawn_anew():
    zoo(*DRAW, "--label", "coat", "--seed", 1, "--out", "coat.png")
    Image.fromarray(np.pad(np.full((10, 10), 255, np.uint8), 9)).save("mask.png")
    words = ("run", "ddpm-fashion", "inpaint", "--image", "coat.png", "--mask", "mask.png", "--steps", 2, "--seed", 2)
    assert zoo(*words, "--out", "mended.png").code == 0
    changed = np.abs(pixels("mended.png").astype(int) - pixels("coat.png"))
    assert np.pad(changed[9:19, 9:19], 9).sum() == changed.sum() > 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--label", "snaeker"], "label 'snaeker' is not a class of this model; did you mean 'sneaker'?"),
        (["--label", "10"], "label is 10; it must be -1 .. 9"),
        (["--steps", "0"], "steps is 0; it must be 1 .. 1000"),
        (["--steps", "1001"], "steps is 1001; it must be 1 .. 1000"),
        (["--guidance", "21"], "guidance is 21; it must be 0.0 .. 20.0"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(words, line):
    outcome = zoo("run", "ddpm-fashion", "generate", *words, "--out", "x.png")  # no seed: none is drawn and told either
    assert outcome.code == 2 and outcome.err == f"Error: {line}\n"
    assert not Path("x.png").exists()


def test_a_mask_of_another_size_is_one_line():
    Image.fromarray(np.zeros((28, 28), np.uint8)).save("coat.png")
    Image.fromarray(np.zeros((10, 10), np.uint8)).save("mask.png")
    words = ("run", "ddpm-fashion", "inpaint", "--image", "coat.png", "--mask", "mask.png", "--seed", 2)
    outcome = zoo(*words, "--out", "x.png")
    line = "the mask mask.png is 10x10 pixels and coat.png is 28x28; they must have the same size"
    assert outcome.code == 4 and outcome.err == f"Error: {line}\n"
    assert not Path("x.png").exists()


@pytest.mark.slow
def test_the_card_s_golden_cases_come_out_here():
    outcome = zoo("verify", "ddpm-fashion", "--replay", "--json")
    assert outcome.code == 0 and "differs" not in outcome.out


def test_no_picture_is_like_another():
    drawn = package.load("ddpm-fashion").generate(seed=np.arange(4), steps=2, label=-1)["image"]
    assert len({picture.tobytes() for picture in drawn}) == 4
