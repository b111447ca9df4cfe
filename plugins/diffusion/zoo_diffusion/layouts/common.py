"""What the layouts share."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from zoo.build.keys import Keys
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Imported
from zoo.text import one_line, safe_text, stand_in

from ..config import DDPMConfig, DiTConfig, read_config
from ..dit import DiT
from ..unet import UNet

MAX_JSON_BYTES = 1 << 20


def need(tensors: Mapping[str, Tensor], layout: str, *names: str) -> None:
    """Refuses a checkpoint without the tensors from which its architecture is read."""
    if missing := [name for name in names if name not in tensors]:
        raise InvalidFileError(f"{layout}: the checkpoint is incomplete: {', '.join(missing)} missing")


def sides(size: Any) -> tuple[int, int]:
    """Height and width of diffusers' `sample_size`."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


DECODERS = ("vqvae", "vae", "movq", "autoencoder", "first_stage_model")
"""Names of the decoder in a diffusers pipeline of latents."""


def is_latent(path: Path, channels: int) -> bool:
    """Whether a network of a diffusers pipeline draws latents: the pipeline also has their decoder.

    Args:
        path: the network's weights, or their folder.
        channels: of the network's input. Pixels have 1 or 3, but so have the latents of some decoders.
    """
    folder = path if path.is_dir() else path.parent
    index = read_json(folder.parent / "model_index.json") or {}
    for name in DECODERS:
        config = read_json(folder.parent / name / "config.json")
        if name in index if config is None else config.get("latent_channels", channels) == channels:
            return True
    return "LDM" in str(index.get("_class_name"))


def read_json(file: Path) -> dict[str, Any] | None:
    """A small config next to the weights; None if there is none. InvalidFileError if it cannot be read."""
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
        data = file.read_bytes()
        if known := stand_in(data):
            raise ValueError(f"it is {known}")
        tree = json.loads(data)
        if not isinstance(tree, dict):
            raise ValueError("it contains no fields")
        return tree
    except (OSError, ValueError, RecursionError) as e:
        kind = "a scheduler's config" if file.name.startswith("scheduler") else "a config"
        raise InvalidFileError(f"{safe_text(file)} is not {kind}: {one_line(e)}") from None


def labels(config: Mapping[str, Any], rows: int, layout: str) -> tuple[int, bool, tuple[str, ...]]:
    """The number of classes, whether the last row of the label table is "no label", and what the user should know.

    A network trained for guidance has a row more than classes; without it, as many. The rows alone do not say which,
    so `num_classes` in the config decides.
    """
    if not rows:
        return 0, False, ()
    classes = config.get("num_classes")
    if classes in (None, "", 0):
        note = f'its {rows} label rows are taken as {rows} classes; if the last one is "no label", write '
        return rows, False, (f'{note}{{"num_classes": {rows - 1}}} into its config.json',)
    if classes not in (rows, rows - 1):
        raise InvalidFileError(f"{layout}: num_classes is {safe_text(classes)}, but its label table has {rows} rows")
    return classes, rows > classes, ()


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
    if not image.pictures:
        notes += (f"draws latents with {image.image_channels} channels; their decoder is a separate model",)
    return Imported(layout=layout, config=msgspec.to_builtins(config), state_dict=state, notes=notes)
