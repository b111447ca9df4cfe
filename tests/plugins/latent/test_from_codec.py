"""From pictures to a codec to a model that draws from words, by the commands that the docs name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo

from .models import CAPTIONS, STYLES

WORDS = ("--set", "text.width=16", "--set", "text.depth=1", "--set", "text.heads=2", "--set", "text.bytes=32")
FAST = ("--steps", "2", "--batch-size", "4", "--hold-out", "0", "--license", "CC0-1.0")


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zoo", "train", *words, "--data", "d.npz"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "d.npz",
        images=rng.integers(0, 256, (8, 16, 16, 3), np.uint8),
        text=np.array([*CAPTIONS, *CAPTIONS]),
        style=np.arange(8) % 3,
        style_classes=np.array(STYLES),
    )
    done = train(folder, "klvae", "--preset", "tiny", "--out", "codec", "--set", "codec.widths=[8,16]", *FAST)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_model_is_trained_on_the_latents_of_a_codec(folder):
    done = train(
        folder, "latent", "--preset", "tiny", "--from", "./codec", "--out", "model", *FAST, *WORDS,
        "--set", "labels.name=style", "--set", 'tasks=["generate"]',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model, codec = zoo.load(str(folder / "model")).manifest, zoo.load(str(folder / "codec")).manifest
    assert (model.name, model.version) == ("model", 1) and model.training.parent.startswith("codec:1@sha256:")
    assert model.config["codec"] == codec.config["codec"]  # not that of the preset
    assert model.files["codec.safetensors"] == codec.files["codec.safetensors"]  # one file in the store
    ports = model.tasks["generate"].inputs
    assert ports["style"].classes == tuple(STYLES) and ports["text"].shape == ("batch", 32)
    command = [sys.executable, "-m", "zoo", "run", "./model", "generate", "--text", "red apple", "--style", "round"]
    drawn = subprocess.run([*command, "--out", "a.png"], cwd=folder, capture_output=True, text=True, timeout=100)
    assert drawn.returncode == 0 and (folder / "a.png").is_file(), drawn.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, reason",
    [
        (
            (),
            "latent trains on a part of a model that was made before: give --from MODEL, of the family klvae or vqgan",
        ),
        (("--from", "judge-fashion"), "belongs to the family 'judge', not to 'latent', nor to klvae or vqgan or vqvae"),
    ],
)
def test_a_training_without_a_codec_is_refused_before_it_begins(folder, words, reason):
    done = train(folder, "latent", "--out", "other", *words)
    assert done.returncode == 2 and reason in done.stderr and not (folder / "other").exists()
    assert done.stderr.count("\n") == 1
