"""Tiny diffusion models with random weights, for tests."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from zoo import plugins
from zoo.hookspecs import BuildRequest, ConfigRequest

NETWORK = {
    "image_size": 8,
    "widths": [8, 8],
    "blocks": 1,
    "attention_levels": [1],
    "norm_groups": 4,
    "time_width": 16,
    "scale_shift": True,
}
"""A U-Net for 8x8 pictures that exports in seconds."""


def config_of(network: Mapping[str, Any], diffusion: Mapping[str, Any], family: str = "ddpm") -> dict[str, Any]:
    """The complete config; `tasks` among the diffusion fields is the config's own."""
    diffusion = dict(diffusion)
    tasks = {"tasks": list(diffusion.pop("tasks"))} if "tasks" in diffusion else {}
    config = {"network": dict(network), "diffusion": {"prediction": "v", "schedule": "cosine"} | diffusion} | tasks
    return dict(plugins.load(family).call("validate_config", ConfigRequest(family=family, config=config)))


def build(config: Mapping[str, Any], classes: tuple[str, ...] = (), family: str = "ddpm") -> nn.Module:
    """The config's module with random weights, none of them zero."""
    module = plugins.load(family).call("build_module", BuildRequest(family=family, config=config, classes=classes))
    return randomized(module).eval()


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights of about unit gain: fresh ones end in zeros, and would predict nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            fan_in = p[0].numel() if p.ndim > 1 else 4
            p.copy_(torch.randn(p.shape, generator=generator) / fan_in**0.5)
    return module
