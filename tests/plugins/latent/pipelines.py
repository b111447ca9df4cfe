"""Small pipelines with random weights, made by diffusers, and what they draw."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from zoo_latent.config import read_config
from zoo_latent.pipelines import import_checkpoint
from zoo_latent.plugin import build_module
from zoo_latent.tasks import Generate

from zoo.build import foreign
from zoo.hookspecs import BuildRequest, Imported, ImportRequest

from .clip_files import ASSETS, VOCABULARY

PROMPTS = ("a red cat in the rain", "the blue dog")
STEPS = 5
NUMBERS = json.loads(ASSETS[VOCABULARY])


def scheduler(**changes):
    """DDIM, as Stable Diffusion 1 has it."""
    from diffusers import DDIMScheduler

    own = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**(own | changes))


def vae(**changes):
    from diffusers import AutoencoderKL

    own = {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "sample_size": 16,
        "scaling_factor": 0.5,
    }
    return AutoencoderKL(**(own | changes))


def tokenizer(folder: Path, pad: str = "<|endoftext|>"):
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    for name, data in ASSETS.items():
        (folder / name).write_bytes(data)
    return CLIPTokenizer.from_pretrained(folder, model_max_length=16, pad_token=pad)


def text_encoder(*, projection: int = 0, std: float = 0.3, **changes):
    """CLIP's text encoder, whose weights are so large that the words matter; with `projection` outputs for the text."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    own = {
        "vocab_size": len(NUMBERS),
        "max_position_embeddings": 16,
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": NUMBERS["<|startoftext|>"],
        "eos_token_id": NUMBERS["<|endoftext|>"],
        "pad_token_id": NUMBERS["<|endoftext|>"],
    }
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    model = kind(CLIPTextConfig(**(own | {"projection_dim": projection or 32} | changes)))
    shaken(model, std)
    return model.eval()


def shaken(module: nn.Module, std: float) -> nn.Module:
    """The module with random weights of a deviation, so that no part of it is without effect."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def saved(pipeline, folder: Path):
    """The pipeline, in a folder that our tests read; tokenizers as in older releases, by two files."""
    pipeline.save_pretrained(folder)
    for place in folder.glob("tokenizer*"):
        for name, data in ASSETS.items():
            (place / name).write_bytes(data)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def imported(folder: Path) -> Imported:
    found = foreign.read(folder)
    read = import_checkpoint(
        ImportRequest(family="latent", path=found.path, tensors=found.tensors, config=found.config)
    )
    assert read is not None
    return read


def built(folder: Path, kind=Generate):
    """A task of the imported pipeline."""
    found = imported(folder)
    module = build_module(BuildRequest(family="latent", config=found.config, assets=found.assets))
    module.load_state_dict(found.state_dict)
    return kind(module.eval(), read_config(found.config)[0])


def texts(*prompts: str) -> Tensor:
    """Values of a port."""
    rows = [list(text.encode()) for text in prompts]
    return torch.tensor([row + [0] * (64 - len(row)) for row in rows], dtype=torch.uint8)


def assert_same_pixels(ours: Tensor, theirs: np.ndarray) -> None:
    """Both pictures, within one level at 99.9 % of the pixels.

    Args:
        ours: uint8 [2, height, width, channels].
        theirs: the same, 0 .. 1.
    """
    levels = np.round(theirs * 255).astype(int)
    assert levels.std() > 5, "a picture of one colour would hide differences"
    assert np.abs(levels[0] - levels[1]).max() > 5, "pictures that are alike would hide what they are drawn from"
    assert levels.shape == tuple(ours.shape)
    assert (np.abs(ours.numpy().astype(int) - levels) <= 1).mean() >= 0.999


def changed(folder: Path, tmp_path: Path, file: str, **changes) -> Path:
    """A copy of a folder with other fields in one of its configs; None removes one."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / file).read_text()) | changes
    (other / file).write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
    return other
