"""The family `vqvae`: presets and hooks. Does not import torch; the hooks that need it do."""

from collections.abc import Mapping
from typing import Any, cast

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
    TrainRequest,
    hookimpl,
)
from zoo.settings import read

from .config import VQVAEConfig, check_prior, completed, fitted_codec, fitted_prior, trains_prior
from .ports import codec_tasks, prior_tasks

ZOO_CONTRACT = 3

_SMALL = {"hidden_channels": 128, "residual_channels": 32, "code_size": 8}
# 28x28 grey pictures to 7x7 tokens: shared by the two published models.
_SMALL_GREY = {"codec": {"image_channels": 1} | _SMALL}
_WIDE = {"hidden_channels": 256, "residual_channels": 256, "code_size": 64}  # the widths of the paper

_SMALL_PRIOR = {"width": 128, "depth": 4, "heads": 4}
PRIOR = {"num_classes": 10} | _SMALL_PRIOR
PRIOR_TRAINING = {"steps": 2_500, "batch_size": 64, "learning_rate": 2e-3, "precision": "bfloat16"}

# For both families with tokens; used with --stage prior. Those of a cost take rows, columns and classes from the data.
PRIORS = {
    "small-prior": Preset(
        summary="with --stage prior: a small masked transformer",
        config={"prior": _SMALL_PRIOR},
        training=PRIOR_TRAINING,
    ),
    "base-prior": Preset(
        summary="with --stage prior: a masked transformer for a GPU",
        config={"prior": {"width": 512, "depth": 12, "heads": 8, "dropout": 0.1}},
        training=PRIOR_TRAINING | {"steps": 50_000, "learning_rate": 3e-4},
    ),
    "prior": Preset(
        summary="with --stage prior: a small masked transformer over 7x7 tokens, ten classes",
        config={"prior": PRIOR},
        training=PRIOR_TRAINING,
    ),
    "prior-autoregressive": Preset(
        summary="with --stage prior: a small transformer that draws 7x7 tokens one by one, ten classes",
        config={"prior": PRIOR | {"kind": "autoregressive"}},
        training=PRIOR_TRAINING,
    ),
    "tiny-prior": Preset(
        summary="with --stage prior: masked, trains in seconds, to see that it works",
        config={"prior": {"width": 16, "depth": 1, "heads": 2}},
        training={"steps": 20, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0},
    ),
}

PRESETS = {
    "tiny": Preset(
        summary="trains in seconds, to see that everything works",
        config={
            "codec": {
                "hidden_channels": 16,
                "residual_channels": 8,
                "residual_layers": 1,
                "num_codes": 8,
                "code_size": 4,
                "ema_decay": 0.5,  # so that the codes follow immediately and do not tie
            }
        },
        training={"steps": 20, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0},
    ),
    "small": Preset(
        summary="for a CPU: factor 4, 512 codes",
        config={"codec": _SMALL},
        training={"steps": 5_000, "batch_size": 32, "learning_rate": 1e-3},
    ),
    "base": Preset(
        summary="for a GPU: factor 4, 512 codes, the widths of the paper",
        config={"codec": _WIDE},
        training={"steps": 100_000, "batch_size": 64, "learning_rate": 2e-4},
    ),
    "fashion": Preset(
        summary="grey 28x28 clothing, 7x7 tokens, 512 codes",
        config=_SMALL_GREY,
        training={"steps": 10_000, "batch_size": 64, "learning_rate": 2e-3},
    ),
    "mnist": Preset(
        summary="grey 28x28 digits, 7x7 tokens, 512 codes",
        config=_SMALL_GREY,
        training={"steps": 6_000, "batch_size": 64, "learning_rate": 2e-3},
    ),
    "photo": Preset(
        summary="colour photographs of any size, factor 4, the widths of the paper",
        config={"codec": {"image_channels": 3} | _WIDE},
        training={"steps": 100_000, "batch_size": 64, "learning_rate": 2e-4},
    ),
    **PRIORS,
}


MEMORY_BYTES = 1 << 31
"""The memory that `reconstruct` may use in ONNX Runtime on a CPU. Measured at factor 4: 512 bytes per pixel with 128
hidden channels (135 MB at 512x512, 543 MB at 1024x1024, 2150 MB at 2048x2048), so 4 bytes per pixel and hidden
channel."""


@hookimpl
def describe_family(request: DescribeRequest) -> Family:
    return Family(
        name="vqvae",
        summary="Discrete picture codec: convolutional encoder and decoder around a learned codebook",
        paper="https://arxiv.org/abs/1711.00937",
        presets=PRESETS,
        weights=("codec", "prior"),
    )


def _config(config: Mapping[str, Any]) -> VQVAEConfig:
    c = read(VQVAEConfig, config, "vqvae config")
    check_prior(c.prior, "vqvae")
    return c


@hookimpl
def validate_config(request: ConfigRequest) -> Mapping[str, Any]:
    config, data = request.config, request.data
    if data:
        config = fitted_codec(config, data)
    c = _config(config)
    if data and request.stage == "prior":
        c = _config(fitted_prior(config, data, c.codec.downsampling))
    return completed(c, request.stage)


@hookimpl
def list_tasks(request: TasksRequest) -> Tasks:
    codec = _config(request.config).codec
    tasks = codec_tasks(
        channels=codec.image_channels,
        downsampling=codec.downsampling,
        num_codes=codec.num_codes,
        maximum_pixels=MEMORY_BYTES // (4 * codec.hidden_channels),
        context=codec.context,
    )
    prior = _config(request.config).prior
    if prior:
        tasks |= prior_tasks(
            prior,
            channels=codec.image_channels,
            downsampling=codec.downsampling,
            num_codes=codec.num_codes,
            classes=request.classes,
        )
    return Tasks(tasks=tasks, default="reconstruct")


@hookimpl
def build_module(request: BuildRequest) -> Any:
    from torch import nn

    from .model import VQVAE

    c = _config(request.config)
    parts: dict[str, nn.Module] = {"codec": VQVAE(c.codec)}
    if c.prior:
        from .prior import Prior

        parts["prior"] = Prior(c.prior, c.codec.num_codes)
    return nn.ModuleDict(parts)


@hookimpl
def build_task(request: TaskModuleRequest) -> Any:
    from . import tasks

    parts = cast("tasks.Parts", request.module)
    modules = {"encode": tasks.Encode, "decode": tasks.Decode, "reconstruct": tasks.Reconstruct}
    if request.task not in modules:
        return tasks.build_prior_task(request.task, parts.codec, parts.prior)
    return modules[request.task](parts.codec)


@hookimpl
def build_trainer(request: TrainRequest) -> Any:
    from .training import CodecTrainer, PriorTrainer

    return (PriorTrainer if trains_prior(request) else CodecTrainer)(request)


@hookimpl
def measure(request: MeasureRequest) -> list[Metric]:
    from zoo.build.evaluate import measure_codec, measure_generator

    metrics = measure_codec(request, num_codes=request.config["codec"]["num_codes"])
    return metrics + (measure_generator(request) if request.config.get("prior") else [])


@hookimpl
def import_checkpoint(request: ImportRequest) -> Imported | None:
    from .importing import import_checkpoint

    return import_checkpoint(request)
