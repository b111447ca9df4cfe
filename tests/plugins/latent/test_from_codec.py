"""From pictures to a codec to a model that draws from words, by the commands that the docs name."""

from pathlib import Path

import numpy as np
import pytest

import zoo
from tests.cli.commands import Outcome
from tests.cli.commands import zoo as command

from .models import CAPTIONS, STYLES

WORDS = ("--set", "text.width=16", "--set", "text.depth=1", "--set", "text.heads=2", "--set", "text.bytes=32")
FAST = ("--steps", "2", "--batch-size", "4", "--hold-out", "0", "--license", "CC0-1.0")


def called(folder: Path, *words: str) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return command(*words)


def train(folder: Path, *words: str) -> Outcome:
    return called(folder, "train", *words, "--data", "d.npz")


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
    assert done.code == 0, done.err
    return folder


@pytest.mark.slow
def test_a_model_is_trained_on_the_latents_of_a_codec(folder):
    done = train(
        folder, "latent", "--preset", "tiny", "--from", "./codec", "--out", "model", *FAST, *WORDS,
        "--set", "labels.name=style", "--set", 'tasks=["generate"]',
    )  # fmt: skip
    assert done.code == 0, done.err
    model, codec = zoo.load(str(folder / "model")).manifest, zoo.load(str(folder / "codec")).manifest
    assert (model.name, model.version) == ("model", 1) and model.training.parent.startswith("codec:1@sha256:")
    assert model.config["codec"] == codec.config["codec"]  # not that of the preset
    assert model.files["codec.safetensors"] == codec.files["codec.safetensors"]  # one file in the store
    ports = model.tasks["generate"].inputs
    assert ports["style"].classes == tuple(STYLES) and ports["text"].shape == ("batch", 32)
    drawn = called(folder, "run", "./model", "generate", "--text", "red apple", "--style", "round", "--out", "a.png")
    assert drawn.code == 0 and (folder / "a.png").is_file(), drawn.err


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
    assert done.code == 2 and reason in done.err and not (folder / "other").exists()
    assert done.err.count("\n") == 1
