"""A real export: words in and pixels out of ONNX Runtime, as in torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from zoo_latent.tasks import build

import zoo
from zoo import plugins
from zoo.build.export import export_bundle
from zoo.formats.manifest import Training
from zoo.hookspecs import Tolerance
from zoo.run.comparison import compare

from .models import ASSETS, made, plain, text

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = plain(tasks=["generate", "inpaint"])
    parts, _ = made(config)
    out = tmp_path_factory.mktemp("latent") / "words"
    export_bundle(
        out=out,
        name="words",
        version=1,
        family="latent",
        loaded=plugins.load("latent"),
        config=config,
        module=parts,
        assets=ASSETS,
        summary="Random weights",
        license="Apache-2.0",
        training=Training(),
    )
    return out


@pytest.mark.parametrize("words", ["red apple", "THE sun, it's 7!", "", "猫 🍎 é"])
@torch.no_grad()
def test_a_text_draws_in_the_graph_what_it_draws_in_torch(folder, words):
    model = zoo.load(str(folder))
    parts, c = made(plain())
    drawn = model.generate(text=words, style="round", seed=4, steps=3, guidance=2.0)["image"]
    expected = build("generate", parts, c)(
        torch.tensor([4]), torch.tensor(3), text(words), text(""), torch.tensor([1]), torch.tensor([2.0])
    )
    port = model.manifest.tasks["generate"].outputs["image"]
    assert compare(port, expected.numpy(), drawn, Tolerance()).verdict != "differs"


def test_the_loop_outside_of_its_graph_gives_the_same(folder):
    model = zoo.load(str(folder))
    whole = model.generate(text="red apple", style="old", seed=4, steps=2, guidance=2.0)["image"]
    state = model.run("generate_begin", text="red apple", seed=4, steps=2)
    x, previous = state["x"], state["previous_x0"]
    read = {name: state[name] for name in ("context", "there", "pooled")}
    for row in state["plan"][:2]:
        done = model.run("generate_step", x=x, previous_x0=previous, row=row, style="old", guidance=2.0, **read)
        x, previous = done["next_x"], done["x0"]
    picture = model.run("generate_end", x=x)["image"]
    assert np.abs(picture.astype(int) - whole.astype(int)).max() <= 1


def test_weights_of_codec_text_and_denoiser_are_files_of_their_own(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"codec.safetensors", "text.safetensors", "denoiser.safetensors", "vocab.json", "merges.txt"} <= names
