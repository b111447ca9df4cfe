"""Reads the scheduler of a diffusers pipeline as our schedule and sampler."""

from pathlib import Path

import msgspec
from zoo_diffusion.config import DiffusionConfig
from zoo_diffusion.layouts.common import read_json
from zoo_diffusion.layouts.scheduler import diffusers_schedule, require

from zoo.errors import InvalidFileError

SCHEDULERS = ("DDIMScheduler", "PNDMScheduler")
"""The classes that are computed here."""


def read_schedule(folder: Path, *, learned: bool = False) -> tuple[DiffusionConfig, tuple[str, ...]]:
    """The schedule of a pipeline's folder, and notes on what differs.

    Args:
        learned: whether the network also predicts the variance.

    Raises:
        InvalidFileError: the file is missing, or has a class or field that is not supported.
    """
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    if config is None:
        raise InvalidFileError("scheduler/scheduler_config.json is missing")
    kind, notes = config.get("_class_name"), ()
    require(config, "scheduler_config.json", _class_name=SCHEDULERS)
    clean_end = config.get("set_alpha_to_one", kind == "DDIMScheduler")  # the default of each class
    own = {"steps_offset": config.get("steps_offset", 0), "clean_end": clean_end}
    rest = {name: value for name, value in config.items() if name not in ("steps_offset", "set_alpha_to_one")}
    if kind == "PNDMScheduler":
        notes = ("draws with DDIM at the timesteps of PNDMScheduler, whose own steps are not computed here",)
        rest = {name: value for name, value in rest.items() if name != "skip_prk_steps"}
        rest |= {"_class_name": "DDIMScheduler", "clip_sample": False}
    diffusion = msgspec.to_builtins(diffusers_schedule(rest, learned=learned))
    diffusion |= {"sampler": "ddim", "default_steps": 50, "default_guidance": 7.5, **own}
    try:
        return msgspec.convert(diffusion, DiffusionConfig), notes
    except msgspec.ValidationError as e:
        raise InvalidFileError(f"scheduler_config.json is one that this family does not support: {e}") from None
