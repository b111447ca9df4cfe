"""The families `ddpm` and `dit`: presets and hooks. Does not import torch; the hooks that need it do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from zoo.errors import UsageError
from zoo.hookspecs import (
    BuildRequest,
    ConfigRequest,
    DescribeRequest,
    Family,
    Imported,
    ImportRequest,
    MeasureRequest,
    Metric,
    Preset,
    TaskModuleRequest,
    Tasks,
    TasksRequest,
    Tolerance,
    TrainRequest,
    hookimpl,
)
from zoo.text import did_you_mean

from .config import DiTConfig, check_trained, fitted, read_config
from .ports import tasks_of

if TYPE_CHECKING:
    from .dit import DiT
    from .unet import UNet

ZOO_CONTRACT = 3

# v with a cosine schedule: the target has the same scale at every timestep, so guidance and few steps stay stable.
_VELOCITY = {"schedule": "cosine", "prediction": "v"}
_SMALL = {
    "patch_size": 2,
    "widths": [64, 112],
    "blocks": 1,
    "attention_levels": [1],
    "head_size": 56,
    "scale_shift": True,
    "resampling": "plain",
    "norm_groups": 16,
}
# 28x28 grey pictures as 14x14 with four channels: shared by the two published models.
_SMALL_GREY = {"image_size": 28, "image_channels": 1, "num_classes": 10} | _SMALL
_TINY = _SMALL | {"widths": [16, 16], "attention_levels": [], "head_size": 0, "norm_groups": 4, "time_width": 16}

_BASE = {"widths": [128, 256, 256], "attention_levels": [2], "head_size": 64, "scale_shift": True}

_FEW_STEPS = {"diffusion": {"sampler": "consistency", "default_steps": 2}}
_DISTILLING = {"steps": 8_000, "batch_size": 48, "learning_rate": 2e-4, "warmup_steps": 100}
STAGES = {
    "tiny-distil": Preset(
        summary="with --stage distil: trains in seconds, to see that it works",
        config=_FEW_STEPS,
        training=_DISTILLING | {"steps": 20, "batch_size": 8, "paths": 16, "path_steps": 3},
    ),
    "small-distil": Preset(
        summary="with --stage distil: one to four passes in place of the teacher's many",
        config=_FEW_STEPS,
        training=_DISTILLING,
    ),
    "base-distil": Preset(
        summary="with --stage distil: for a GPU",
        config=_FEW_STEPS,
        training=_DISTILLING | {"steps": 50_000, "batch_size": 256, "paths": 100_000},
    ),
}

DDPM_PRESETS = {
    "tiny": Preset(
        summary="trains in seconds, to see that everything works",
        config={"tasks": ["generate"], "network": _TINY, "diffusion": _VELOCITY | {"default_steps": 3}},
        training={"steps": 20, "batch_size": 8, "learning_rate": 1e-3},
    ),
    "small": Preset(
        summary="for a CPU",
        config={"network": _SMALL, "diffusion": _VELOCITY | {"default_guidance": 1.2}},
        training={"steps": 10_000, "batch_size": 64, "learning_rate": 1e-3},
    ),
    "base": Preset(
        summary="for a GPU",
        config={"network": _BASE, "diffusion": _VELOCITY | {"default_guidance": 1.2}},
        training={"steps": 200_000, "batch_size": 128, "learning_rate": 2e-4},
    ),
    "fashion": Preset(
        summary="grey 28x28 clothing by class",
        config={"network": _SMALL_GREY, "diffusion": _VELOCITY | {"default_guidance": 1.2}},
        training={"steps": 10_000, "batch_size": 64, "learning_rate": 1e-3},
    ),
    "mnist": Preset(
        summary="grey 28x28 digits by class",
        config={"network": _SMALL_GREY, "diffusion": _VELOCITY | {"default_guidance": 1.5}},
        training={"steps": 6_000, "batch_size": 64, "learning_rate": 1e-3},
    ),
    **STAGES,
}

_SMALL_TRANSFORMER = {"patch_size": 4, "width": 192, "depth": 6, "heads": 6}

DIT_PRESETS = {
    "tiny": Preset(
        summary="trains in seconds, to see that everything works",
        config={
            "tasks": ["generate"],
            "network": {"patch_size": 4, "width": 16, "depth": 1, "heads": 2},
            "diffusion": _VELOCITY | {"default_steps": 3},
        },
        training={"steps": 20, "batch_size": 8, "learning_rate": 1e-3},
    ),
    "small": Preset(
        summary="for a CPU: patches of 4x4",
        config={"network": _SMALL_TRANSFORMER, "diffusion": _VELOCITY | {"default_guidance": 1.5}},
        training={"steps": 8_000, "batch_size": 64, "learning_rate": 1e-3},
    ),
    "base": Preset(
        summary="for a GPU: patches of 2x2, the widths of DiT-S",
        config={"network": {"patch_size": 2}, "diffusion": _VELOCITY | {"default_guidance": 1.5}},
        training={"steps": 200_000, "batch_size": 128, "learning_rate": 2e-4},
    ),
    "fashion": Preset(
        summary="grey 28x28 clothing by class, with a transformer",
        config={
            "network": {"image_size": 28, "image_channels": 1, "num_classes": 10} | _SMALL_TRANSFORMER,
            "diffusion": _VELOCITY | {"default_guidance": 1.5},
        },
        training={"steps": 8_000, "batch_size": 64, "learning_rate": 1e-3},
    ),
    **STAGES,
}


@hookimpl
def describe_family(request: DescribeRequest) -> Family:
    if request.family == "dit":
        return Family(
            name="dit",
            summary="Pixel diffusion with a transformer over patches",
            paper="https://arxiv.org/abs/2212.09748",
            presets=DIT_PRESETS,
            sampler="diffusion.sampler",
        )
    return Family(
        name="ddpm",
        summary="Pixel diffusion: a U-Net that removes noise from a picture, step by step",
        paper="https://arxiv.org/abs/2006.11239",
        presets=DDPM_PRESETS,
        sampler="diffusion.sampler",
    )


@hookimpl
def validate_config(request: ConfigRequest) -> Mapping[str, Any]:
    if request.stage not in ("", "distil"):
        raise UsageError(f"there is no stage '{request.stage}'; {request.family} has distil")
    config = fitted(request.family, request.config, request.data) if request.data else request.config
    c = read_config(request.family, config)
    if request.trained:
        check_trained(c.diffusion.sampler, request.trained)
    return msgspec.to_builtins(c)


@hookimpl
def list_tasks(request: TasksRequest) -> Tasks:
    c = read_config(request.family, request.config)
    fit = tasks_of(c.network, c.diffusion, request.classes)
    for name in c.tasks:
        if name not in fit:
            raise UsageError(f"config: tasks: '{name}' is not one of {', '.join(fit)}{did_you_mean(name, fit)}")
    chosen = {name: task for name, task in fit.items() if not c.tasks or name in c.tasks or task.part_of in c.tasks}
    # The latents of a network that predicts noise are unbounded: the first step divides its error by alpha, 0.006 at
    # the end of the linear schedule, and guidance multiplies it by up to 20. With random weights, latents reach 8,000,
    # and changing only the weights' last bits moves some by 0.006.
    unbounded = not c.network.pictures and not c.diffusion.clip and c.diffusion.prediction == "epsilon"
    tolerance = Tolerance(absolute=0.05) if unbounded else Tolerance()
    return Tasks(tasks=chosen, default=next(iter(chosen)), tolerance=tolerance)


@hookimpl
def build_module(request: BuildRequest) -> Any:
    c = read_config(request.family, request.config)
    outputs = 2 if c.diffusion.variance == "learned" else 1
    if isinstance(c, DiTConfig):
        from .dit import DiT  # imports timm, which takes seconds

        return DiT(c.network, outputs=outputs)
    from .unet import UNet

    return UNet(c.network, outputs=outputs)


@hookimpl
def build_task(request: TaskModuleRequest) -> Any:
    from . import tasks

    network = cast("DiT | UNet", request.module)
    return tasks.build(request.task, network, read_config(request.family, request.config).diffusion)


@hookimpl
def build_trainer(request: TrainRequest) -> Any:
    c = read_config(request.family, request.config)
    if request.stage == "distil":
        from .distil import DistilTrainer

        return DistilTrainer(request, c)
    from .training import DenoiserTrainer

    if c.diffusion.sampler == "consistency":
        raise UsageError("config: diffusion.sampler is consistency, of a model that is trained with --stage distil")
    return DenoiserTrainer(request, c.diffusion)


@hookimpl
def measure(request: MeasureRequest) -> list[Metric]:
    from zoo.build.evaluate import measure_generator

    return measure_generator(request)


@hookimpl
def import_checkpoint(request: ImportRequest) -> Imported | None:
    from . import layouts

    return layouts.read(request)
