"""Small latent models with words and styles, without training."""

import torch
from zoo_latent.config import LatentConfig, read_config
from zoo_latent.plugin import build_module
from zoo_latent.plugin import validate_config as validated
from zoo_latent.tasks import Parts
from zoo_latent.text import learnt

from zoo.hookspecs import BuildRequest, ConfigRequest

CAPTIONS = ("red apple", "green apple", "a red heart", "the sun")
ASSETS = learnt(CAPTIONS, 600)
STYLES = ["flat", "round", "old"]
CODEC = {"widths": [8, 8], "blocks": 1, "latent_channels": 4, "code_size": 4, "norm_groups": 4}
TEXT = {"vocabulary": 600, "length": 8, "bytes": 24, "width": 16, "depth": 1, "heads": 2}
NETWORK = {
    "image_size": 8, "widths": [16], "blocks": 1, "attention_levels": [0], "heads": 2, "norm_groups": 4,
    "time_width": 16, "feed_forward": 1.0,
}  # fmt: skip
DIFFUSION = {"schedule": "cosine", "prediction": "v", "clip": False, "default_steps": 3, "default_guidance": 2.0}


def plain(**changes: object) -> dict:
    """A complete config: 16x16 pictures, with words and styles unless changed."""
    network = {**NETWORK, "num_classes": len(STYLES)}
    config = {
        "codec": CODEC, "text": TEXT, "labels": {"name": "style", "classes": STYLES}, "network": network,
        "diffusion": DIFFUSION,
    }  # fmt: skip
    return dict(validated(ConfigRequest(family="latent", config={**config, **changes})))


def made(config: dict) -> tuple[Parts, LatentConfig]:
    """The module of a config, whose every weight has an effect."""
    torch.manual_seed(0)
    parts = build_module(BuildRequest(family="latent", config=config, assets=ASSETS)).eval()
    for parameter in parts["denoiser"].conv_out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # it starts as zeros
    return parts, read_config(config)[0]


def text(*texts: str, width: int = 24) -> torch.Tensor:
    """A port's bytes."""
    return torch.stack([torch.tensor([*t.encode().ljust(width, b"\0")], dtype=torch.uint8) for t in texts])
