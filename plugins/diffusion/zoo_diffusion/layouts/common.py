"""What the layouts share."""

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from zoo.build.keys import Keys
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Imported

from ..config import DDPMConfig, DiTConfig, read_config
from ..dit import DiT
from ..unet import UNet


def need(tensors: Mapping[str, Tensor], layout: str, *names: str) -> None:
    """Refuses a checkpoint without the tensors from which its architecture is read."""
    if missing := [name for name in names if name not in tensors]:
        raise InvalidFileError(f"{layout}: the checkpoint is incomplete: {', '.join(missing)} missing")


def sides(size: Any) -> tuple[int, int]:
    """Height and width of diffusers' `sample_size`."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """The number of blocks `prefix.0.`, `prefix.1.`, …"""
    prefix += "."
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix))


def residual(keys: Keys, source: str, target: str, names: Mapping[str, str]) -> None:
    """A residual block, by their and our names of its layers; not every block has a `skip`."""
    for theirs, ours in names.items():
        if ours != "skip" or keys.has(f"{source}.{theirs}"):
            keys.move(f"{source}.{theirs}", f"{target}.{ours}")


def imported(layout: str, config: DDPMConfig | DiTConfig, keys: Keys, notes: tuple[str, ...] = ()) -> Imported:
    """The checkpoint whose tensors `keys` has taken, compared with the config's own module."""
    family = "dit" if isinstance(config, DiTConfig) else "ddpm"
    try:
        config = read_config(family, msgspec.to_builtins(config))
    except UsageError as e:
        raise InvalidFileError(f"{layout}, but one that this family does not support: {e}") from None
    outputs = 2 if config.diffusion.variance == "learned" else 1
    with torch.device("meta"):
        if isinstance(config, DiTConfig):
            module = DiT(config.network, outputs=outputs)
        else:
            module = UNet(config.network, outputs=outputs)
    state, _ = keys.finish(module)
    image = config.network
    if image.num_classes and not image.null_label:
        notes += ("has no null label, so no guidance",)
    if image.image_channels not in (1, 3):
        notes += (f"draws latents with {image.image_channels} channels; their decoder is a separate model",)
    return Imported(layout=layout, config=msgspec.to_builtins(config), state_dict=state, notes=notes)
