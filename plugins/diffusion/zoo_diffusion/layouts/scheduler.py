"""Reads diffusers' scheduler_config.json as our schedule.

Every field is used, refused in one line, or irrelevant here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import InvalidFileError
from zoo.text import safe_text

from ..config import DiffusionConfig, Prediction, Sampler, Schedule, Spacing
from ..ports import SAMPLERS
from .common import read_json

LAYOUT = "scheduler_config.json"

SCHEDULERS: dict[str, tuple[Sampler, tuple[Spacing, ...]]] = {
    "DDPMScheduler": ("ddpm", ("leading", "trailing")),
    "DDIMScheduler": ("ddim", ("leading", "trailing")),
    "DPMSolverMultistepScheduler": ("dpm++2m", ("linspace", "trailing")),
}
"""Our sampler, and the spacings (default first) that give the same timesteps as our spacing of that name."""

_READ = {"num_train_timesteps", "beta_start", "beta_end", "rescale_betas_zero_snr", "clip_sample", "predict_epsilon"}
_READ |= {"use_clipped_model_output"}
"""Fields that are used with any value."""

_MOOT = {"dynamic_thresholding_ratio", "sample_max_value", "lower_order_final", "euler_at_final", "flow_shift"}
_MOOT |= {"time_shift_type", "clip_sample_range", "steps_offset", "tensor_format"}
"""Fields that are irrelevant if the fields they belong to are off or equal to ours."""


def read_scheduler(path: Path) -> dict[str, Any]:
    """A diffusers pipeline's scheduler_config.json: next to the weights, or in `scheduler/` next to their folder."""
    folder = path if path.is_dir() else path.parent
    files = (folder / "scheduler_config.json", folder.parent / "scheduler" / "scheduler_config.json")
    return next((found for file in files if (found := read_json(file)) is not None), {})


def require(config: Mapping[str, Any], layout: str, **expected: Any) -> None:
    """Refuses what a config requires and we do not have."""
    for field, value in expected.items():
        allowed = value if isinstance(value, tuple) else (value,)
        if config.get(field, allowed[0]) not in allowed:
            raise InvalidFileError(
                f"{layout}: {field} is {safe_text(config[field])}; only {', '.join(map(str, allowed))} can be imported"
            )


SCHEDULES: dict[str, Schedule] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}


def diffusers_schedule(scheduler: Mapping[str, Any], *, learned: bool) -> DiffusionConfig:
    """The forward process that a scheduler_config.json describes, and its timesteps; we choose the sampler.

    Args:
        learned: whether the network also predicts the variance.

    Raises:
        InvalidFileError: a field, known or not, requires something that is not supported.
    """
    require(scheduler, LAYOUT, _class_name=tuple(SCHEDULERS))
    kind, spacings = SCHEDULERS[scheduler.get("_class_name", "DDPMScheduler")]
    # DPM-Solver++'s scheduler does not clip.
    clip = kind != "dpm++2m" and scheduler.get("clip_sample", True)
    spacing = scheduler.get("timestep_spacing", spacings[0]) if scheduler else DiffusionConfig().spacing
    if isinstance(scheduler.get("predict_epsilon"), bool):  # until 2022; diffusers lets it override the new field
        scheduler = {**scheduler, "prediction_type": "epsilon" if scheduler["predict_epsilon"] else "sample"}
    _refuse_what_is_not_ours(scheduler, learned=learned, clip=clip, spacings=spacings, spacing=spacing)
    return DiffusionConfig(
        schedule=SCHEDULES[scheduler.get("beta_schedule", "linear")],
        num_timesteps=scheduler.get("num_train_timesteps", 1000),
        beta_start=scheduler.get("beta_start", 1e-4),
        beta_end=scheduler.get("beta_end", 0.02),
        zero_terminal_snr=scheduler.get("rescale_betas_zero_snr", False),
        prediction=PREDICTIONS[scheduler.get("prediction_type", "epsilon")],
        variance="learned" if learned else "large" if scheduler.get("variance_type") == "fixed_large" else "small",
        clip=clip,
        spacing=spacing,
    )


def clips_noise(scheduler: Mapping[str, Any]) -> bool:
    """Whether DDIM uses the noise that belongs to the clipped image: diffusers' keeps the network's own, unless its
    `use_clipped_model_output` says otherwise."""
    return scheduler.get("use_clipped_model_output") or False


def _refuse_what_is_not_ours(
    scheduler: Mapping[str, Any], *, learned: bool, clip: Any, spacings: tuple[str, ...], spacing: Any
) -> None:
    """`clip` and `spacing` are those of the file."""
    variances = ("learned_range", None) if learned else ("fixed_small", "fixed_small_log", "fixed_large", None)
    as_ours: dict[str, Any] = {
        "beta_schedule": tuple(SCHEDULES),
        "prediction_type": tuple(PREDICTIONS),
        "predict_epsilon": (True, False, None),
        "variance_type": variances,
        "timestep_spacing": spacings,
        "set_alpha_to_one": True,
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "solver_type": "midpoint",
        "final_sigmas_type": "zero",
        "lambda_min_clipped": float("-inf"),
    }
    as_ours |= {"clip_sample_range": 1} if clip else {}
    as_ours |= {"steps_offset": 0} if spacing == "leading" else {}
    require(scheduler, LAYOUT, **as_ours)
    known = as_ours.keys() | _READ | _MOOT
    for field, value in scheduler.items():
        # Null or false means that a feature is off: thresholding, trained_betas, use_karras_sigmas.
        if value not in (None, False) and not field.startswith("_") and field not in known:
            raise InvalidFileError(f"{LAYOUT}: {safe_text(field)} is {safe_text(value)[:100]}; that is not supported")


def about_scheduler(scheduler: Mapping[str, Any]) -> tuple[str, ...]:
    """What a user should know about an import with this scheduler: assumptions, and which sampler draws."""
    if not scheduler:
        return ("no scheduler_config.json: assumed Ho et al.'s linear schedule of 1,000 steps, and predicted noise",)
    name = scheduler.get("_class_name", "DDPMScheduler")
    sampler, ours = SCHEDULERS[name][0], DiffusionConfig().sampler
    if sampler == ours:
        return ()
    return (f"draws with {SAMPLERS[ours]}, not with {name}'s {sampler}; for that, use zoo build --sampler {sampler}",)
