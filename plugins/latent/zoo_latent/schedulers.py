"""Reads the scheduler of a diffusers pipeline as our process, sampler and timesteps.

Every field is used, refused in one line, or irrelevant to its class.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from zoo_diffusion.config import K_DIFFUSION, DiffusionConfig
from zoo_diffusion.layouts.common import read_json
from zoo_diffusion.layouts.scheduler import diffusers_schedule, require

from zoo.errors import InvalidFileError

WHERE = "scheduler_config.json"


class Kind(NamedTuple):
    """A class of diffusers' schedulers."""

    sampler: str
    spacing: str  # that of a file without one
    spacings: tuple[str, ...] = ("leading", "trailing", "linspace")
    required: Mapping[str, Any] = {}
    """Values that a field must have; the first of a tuple is the class's default."""
    defaults: Mapping[str, Any] = {}
    """Of the class, where they are not those of the other classes."""
    moot: tuple[str, ...] = ()
    """Fields without effect here."""


KINDS = {
    "DDIMScheduler": Kind("ddim", "leading", ("leading", "trailing")),
    "PNDMScheduler": Kind(
        "plms", "leading", ("leading",), required={"skip_prk_steps": True}, defaults={"skip_prk_steps": False}
    ),
    "EulerDiscreteScheduler": Kind(
        "euler", "linspace", required={"interpolation_type": "linear", "timestep_type": "discrete"}
    ),
    "EulerAncestralDiscreteScheduler": Kind("euler_ancestral", "linspace"),
    "HeunDiscreteScheduler": Kind(
        "heun", "linspace", required={"clip_sample": False}, defaults={"beta_start": 0.00085, "beta_end": 0.012}
    ),
    "DPMSolverMultistepScheduler": Kind(
        "dpm++2m",
        "linspace",
        ("linspace", "trailing"),
        required={
            "solver_order": 2,
            "solver_type": "midpoint",
            "final_sigmas_type": "zero",
            "lambda_min_clipped": float("-inf"),
            "rescale_betas_zero_snr": False,
            "variance_type": None,
        },
        moot=("steps_offset", "lower_order_final", "euler_at_final", "flow_shift", "time_shift_type"),
    ),
    "UniPCMultistepScheduler": Kind(
        "unipc",
        "linspace",
        ("linspace", "trailing"),
        required={
            "solver_order": 2,
            "solver_type": "bh2",
            "predict_x0": True,
            "lower_order_final": True,
            "disable_corrector": ([],),
            "solver_p": None,
            "sigma_min": None,
            "sigma_max": None,
            "final_sigmas_type": "zero",
            "rescale_betas_zero_snr": False,
        },
        moot=("steps_offset", "flow_shift", "time_shift_type"),
    ),
    "LCMScheduler": Kind(
        "lcm",
        "leading",
        required={"original_inference_steps": 50, "timestep_scaling": 10.0},
        moot=("steps_offset", "set_alpha_to_one", "timestep_spacing"),
    ),
}
STEPS = {"ddim": 50, "plms": 51, "heun": 59, "lcm": 4}
"""Passes of the network for diffusers' usual 50 or 30 steps; of others 30."""
SCHEDULERS = tuple(KINDS)
"""The classes that are computed here."""
UNSCALED = tuple(name for name, kind in KINDS.items() if kind.sampler not in K_DIFFUSION)
"""Those that start at noise of variance 1, for pipelines that start there whatever the scheduler says."""
FLOW = ("FlowMatchEulerDiscreteScheduler",)
"""The class of rectified flows."""

LEFT = {"skip_prk_steps": ("PNDMScheduler",), "set_alpha_to_one": ("DDIMScheduler", "PNDMScheduler", "LCMScheduler")}
"""Fields that stay in a file when another class takes its place, and the classes that look at them."""

_OWN = ("steps_offset", "set_alpha_to_one", "use_karras_sigmas", "final_sigmas_type", "algorithm_type")
_FLOW_MOOT = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")


def read_schedule(folder: Path, *, learned: bool = False) -> DiffusionConfig:
    """The schedule of a pipeline's folder.

    Args:
        learned: whether the network also predicts the variance.

    Raises:
        InvalidFileError: the file is missing, or has a class or field that is not supported.
    """
    config = read_json(folder / "scheduler" / WHERE)
    if config is None:
        raise InvalidFileError(f"scheduler/{WHERE} is missing")
    require(config, WHERE, _class_name=SCHEDULERS)
    name = config.get("_class_name", SCHEDULERS[0])
    kind = KINDS[name]
    left = LEFT.keys() - {field for field, names in LEFT.items() if name in names}
    config = {**kind.defaults, **{field: value for field, value in config.items() if field not in left}}
    require(config, WHERE, **kind.required)
    config = {field: value for field, value in config.items() if field not in kind.moot and field not in kind.required}
    require(config, WHERE, timestep_spacing=(kind.spacing, *kind.spacings))
    require(config, WHERE, final_sigmas_type=("zero", "sigma_min"), algorithm_type=("dpmsolver++", "sde-dpmsolver++"))
    own: dict[str, Any] = {
        "sampler": kind.sampler,
        "spacing": config.get("timestep_spacing", kind.spacing),
        "steps_offset": config.get("steps_offset", 0),
        "karras": config.get("use_karras_sigmas") or False,
        "clean_end": config.get("set_alpha_to_one", name != "PNDMScheduler")  # the default of each class
        and config.get("final_sigmas_type", "zero") == "zero",
        "default_steps": STEPS.get(kind.sampler, 30),
        "default_guidance": 1.0 if kind.sampler == "lcm" else 7.5,
    }
    if config.get("algorithm_type") == "sde-dpmsolver++":
        own["sampler"] = "dpm++2m_sde"
    rest = {field: value for field, value in config.items() if field not in _OWN}
    rest |= {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
    if name in ("DDIMScheduler", "LCMScheduler"):
        rest.setdefault("clip_sample", name == "DDIMScheduler")  # the default of each class
    else:
        rest["clip_sample"] = False
    diffusion = msgspec.to_builtins(diffusers_schedule(rest, learned=learned)) | own
    return _converted(diffusion)


def read_flow(config: Mapping[str, Any]) -> DiffusionConfig:
    """A `FlowMatchEulerDiscreteScheduler` of a pipeline, such as Stable Diffusion 3's.

    Raises:
        InvalidFileError: a field is not supported.
    """
    require(config, WHERE, _class_name=FLOW)
    known = ("num_train_timesteps", "shift", *_FLOW_MOOT)
    off = [field for field in config if field not in known and not field.startswith("_")]
    require(config, WHERE, **dict.fromkeys(off, (False, None)))
    return _converted(
        {
            "prediction": "flow",
            "num_timesteps": config.get("num_train_timesteps", 1000),
            "shift": config.get("shift", 1.0),
            "sampler": "euler",
            "spacing": "linspace",
            "clip": False,
            "default_steps": 28,
            "default_guidance": 7.0,
        }
    )


def _converted(diffusion: Mapping[str, Any]) -> DiffusionConfig:
    try:
        return msgspec.convert(dict(diffusion), DiffusionConfig)
    except msgspec.ValidationError as e:
        raise InvalidFileError(f"{WHERE} is one that this family does not support: {e}") from None
