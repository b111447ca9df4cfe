"""A real export: words in and pixels out of ONNX Runtime, as in torch."""

import numpy as np
import pytest
import torch
from zoo_latent.tasks import build

import zoo
from zoo.hookspecs import Tolerance
from zoo.run.comparison import compare

from .models import made, plain, text

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("words", ["red apple", "THE sun, it's 7!", "", "猫 🍎 é"])
@torch.no_grad()
def test_a_text_draws_in_the_graph_what_it_draws_in_torch(exported, words):
    model = zoo.load(str(exported))
    parts, c = made(plain())
    drawn = model.generate(text=words, style="round", seed=4, steps=3, guidance=2.0)["image"]
    expected = build("generate", parts, c)(
        torch.tensor([4]), torch.tensor(3), text(words), text(""), torch.tensor([1]), torch.tensor([2.0])
    )
    port = model.manifest.tasks["generate"].outputs["image"]
    assert compare(port, expected.numpy(), drawn, Tolerance()).verdict != "differs"


def test_the_loop_outside_of_its_graph_gives_the_same(exported):
    model = zoo.load(str(exported))
    whole = model.generate(text="red apple", style="old", seed=4, steps=2, guidance=2.0)["image"]
    state = model.run("generate_begin", text="red apple", seed=4, steps=2)
    x, previous = state["x"], state["previous_x0"]
    read = {name: state[name] for name in ("context", "there", "pooled")}
    for row in state["plan"][:2]:
        done = model.run("generate_step", x=x, previous_x0=previous, row=row, style="old", guidance=2.0, **read)
        x, previous = done["next_x"], done["x0"]
    picture = model.run("generate_end", x=x)["image"]
    assert np.abs(picture.astype(int) - whole.astype(int)).max() <= 1


def test_weights_of_codec_text_and_denoiser_are_files_of_their_own(exported):
    names = {path.name for path in exported.iterdir()}
    assert {"codec.safetensors", "text.safetensors", "denoiser.safetensors", "vocab.json", "merges.txt"} <= names
