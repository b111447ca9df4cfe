"""The families `vqgan` and `klvae`: presets and hooks. Does not import torch; the hooks that need it do."""

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from zoo_vqvae.config import check_prior, completed, fitted_codec, fitted_prior, trains_prior
from zoo_vqvae.plugin import PRIORS
from zoo_vqvae.ports import codec_tasks, image_port, prior_tasks, size_port

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
    Port,
    Preset,
    Task,
    TaskModuleRequest,
    Tasks,
    TasksRequest,
    TrainRequest,
    hookimpl,
)
from zoo.settings import read

from .config import KLConfig, KLVAEConfig, NetworkConfig, VQGANConfig

ZOO_CONTRACT = 3

_TINY = {
    "widths": [8, 8, 16],
    "blocks": 1,
    "latent_channels": 8,
    "code_size": 4,
    "norm_groups": 4,
}
_TINY_TRAINING = {
    "steps": 20,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "perceptual_steps": 0,
    "discriminator_start": 12,
    "discriminator_width": 8,
    "discriminator_layers": 2,
}

_SMALL = {"widths": [16, 32, 64], "blocks": 1, "latent_channels": 32, "code_size": 8, "norm_groups": 8}
_SMALL_TRAINING = {
    "steps": 5_000,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "perceptual_scale": 2,
    "perceptual_steps": 500,
    "discriminator_start": 2_500,
    "discriminator_width": 32,
    "discriminator_layers": 2,
    "discriminator_rate": 0.3,
    "discriminator_weight": 0.2,
}
_BASE = {"widths": [64, 128, 256], "latent_channels": 256}
_BASE_TRAINING = {"steps": 200_000, "batch_size": 16, "learning_rate": 1e-4, "discriminator_start": 20_000}

VQGAN_PRESETS = {
    "tiny": Preset(
        summary="trains in seconds, to see that everything works",
        config={"codec": _TINY | {"num_codes": 8, "ema_decay": 0.5}},
        training=_TINY_TRAINING,
    ),
    "small": Preset(
        summary="for a CPU: factor 4, 512 codes",
        config={"codec": _SMALL | {"num_codes": 512}},
        training=_SMALL_TRAINING,
    ),
    "base": Preset(
        summary="for a GPU: factor 4, 1024 codes",
        config={"codec": _BASE | {"code_size": 8}},
        training=_BASE_TRAINING,
    ),
    "fashion": Preset(
        summary="grey 28x28 clothing, 7x7 tokens, 512 codes, sharp",
        config={
            "codec": {
                "image_channels": 1,
                "widths": [16, 32, 64],
                "blocks": 1,
                "latent_channels": 32,
                "code_size": 8,
                "norm_groups": 8,
                "num_codes": 512,
            }
        },
        training={
            "steps": 7_000,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "perceptual_scale": 2,
            "perceptual_steps": 1_000,
            "discriminator_start": 3_500,
            "discriminator_width": 32,
            "discriminator_layers": 2,
            "discriminator_rate": 0.3,
            "discriminator_weight": 0.2,
        },
    ),
    "photo": Preset(
        summary="colour photographs of any size, factor 4, no global attention",
        config={
            "codec": {
                "image_channels": 3,
                "widths": [16, 48, 96],
                "blocks": 1,
                "middle_attention": False,
                "latent_channels": 64,
                "code_size": 8,
                "norm": "place",
                "num_codes": 2048,
            }
        },
        training={
            "steps": 3_000,
            "batch_size": 12,
            "learning_rate": 1e-3,
            "crop": 64,
            "mirror": True,
            "pixel_loss": "l2",
            "pixel_weight": 10.0,
            "perceptual_weight": 0.1,
            "perceptual_steps": 200,
            "discriminator_start": 2_000,
            "discriminator_width": 32,
            "discriminator_rate": 0.3,
            "discriminator_weight": 0.1,
        },
    ),
    "imagenet": Preset(
        summary="colour pictures, factor 16, the widths of the paper",
        config={"codec": {"image_channels": 3, "attention_levels": [4], "learn_codebook": "loss"}},
        training={
            "steps": 1_000_000,
            "batch_size": 12,
            "learning_rate": 5.4e-5,
            "crop": 256,
            "discriminator_start": 250_000,
        },
    ),
    **PRIORS,
}

KLVAE_PRESETS = {
    "tiny": Preset(
        summary="trains in seconds, to see that everything works",
        config={"codec": _TINY},
        training=_TINY_TRAINING,
    ),
    "small": Preset(
        summary="for a CPU: factor 4",
        config={"codec": _SMALL | {"latent_channels": 4, "code_size": 4}},
        training=_SMALL_TRAINING,
    ),
    "base": Preset(
        summary="for a GPU: factor 4",
        config={"codec": {"widths": [64, 128, 256]}},
        training=_BASE_TRAINING,
    ),
    "f8": Preset(
        summary="colour pictures, factor 8, the widths of Stable Diffusion's first stage",
        config={"codec": {"image_channels": 3, "widths": [128, 256, 512, 512]}},
        training={
            "steps": 400_000,
            "batch_size": 12,
            "learning_rate": 5.4e-5,
            "crop": 256,
            "discriminator_start": 50_000,
        },
    ),
}


@hookimpl
def describe_family(request: DescribeRequest) -> Family:
    if request.family == "klvae":
        return Family(
            name="klvae",
            summary="Continuous picture codec: the KL autoencoder of latent diffusion",
            paper="https://arxiv.org/abs/2112.10752",
            presets=KLVAE_PRESETS,
            weights=("codec",),
        )
    return Family(
        name="vqgan",
        summary="Discrete picture codec that preserves texture: a VQ-VAE with perceptual and adversarial losses",
        paper="https://arxiv.org/abs/2012.09841",
        presets=VQGAN_PRESETS,
        weights=("codec", "prior"),
        import_options=("prior",),
    )


def _config(family: str, config: Mapping[str, Any]) -> VQGANConfig | KLVAEConfig:
    c = read(KLVAEConfig if family == "klvae" else VQGANConfig, config, f"{family} config")
    check_codec(c.codec, family)
    if isinstance(c, VQGANConfig) and c.prior:
        check_prior(c.prior, family)
        if c.codec.condition_classes:
            raise UsageError("vqgan config: a codec with condition_classes cannot have a prior")
    return c


def check_codec(codec: NetworkConfig, family: str) -> None:
    """Checks that the schema cannot express: the parts are consistent."""

    def refuse(field: str, value: object, reason: str) -> None:
        raise UsageError(f"{family} config: codec.{field} is {value}; {reason}")

    for width in codec.widths if codec.norm == "group" else ():
        if width % codec.norm_groups:
            refuse("widths", list(codec.widths), f"each must be a multiple of norm_groups, {codec.norm_groups}")
    if max(codec.attention_levels, default=0) >= len(codec.widths):
        refuse("attention_levels", list(codec.attention_levels), f"there are {len(codec.widths)} levels, from 0")
    if isinstance(codec, KLConfig):
        if codec.condition_classes:
            refuse("condition_classes", codec.condition_classes, "klvae does not support conditions; it must be 0")
        if not codec.latent_convolutions and codec.code_size != codec.latent_channels:
            refuse("code_size", codec.code_size, f"without latent_convolutions it must be {codec.latent_channels} too")


@hookimpl
def validate_config(request: ConfigRequest) -> Mapping[str, Any]:
    config, data = request.config, request.data
    if data:
        config = fitted_codec(config, data)
    c = _config(request.family, config)
    if isinstance(c, KLVAEConfig):
        return msgspec.to_builtins(c)
    if data and request.stage == "prior":
        c = _config(request.family, fitted_prior(config, data, c.codec.downsampling))
    return completed(c, request.stage)


MEMORY_BYTES = 1 << 31
"""The memory that `reconstruct` may use in ONNX Runtime on a CPU. Measured in addition to a 64x64 picture: 650 MB for a
picture of 1024x1024 with 16 channels at its own size, 916 MB with 32; 1470 MB for 512x512 with attention at factor 4,
over 128x128 positions. So at most 50 bytes per pixel and channel, and two float32 for each pair of positions."""


def _maximum_pixels(codec: NetworkConfig) -> int:
    """The largest picture that stays within `MEMORY_BYTES`."""
    convolutions = MEMORY_BYTES * codec.patch_size**2 // (50 * codec.widths[0])
    if not (codec.middle_attention or codec.attention_levels):
        return convolutions
    shrink = codec.patch_size * 2 ** min(codec.attention_levels, default=len(codec.widths) - 1)
    return min(convolutions, int((MEMORY_BYTES / 8) ** 0.5) * shrink**2)


@hookimpl
def list_tasks(request: TasksRequest) -> Tasks:
    c = _config(request.family, request.config)
    if isinstance(c, KLVAEConfig):
        return Tasks(tasks=_latent_tasks(c.codec), default="reconstruct")
    codec, label = c.codec, None
    if codec.condition_classes:
        label = Port(
            kind="label",
            dtype="int64",
            shape=("batch",),
            summary="what the picture shows; -1: unknown",
            default=-1,
            minimum=-1,
            maximum=codec.condition_classes - 1,
            classes=request.classes if len(request.classes) == codec.condition_classes else (),
        )
    tasks = codec_tasks(
        channels=codec.image_channels,
        downsampling=codec.downsampling,
        num_codes=codec.num_codes,
        maximum_pixels=_maximum_pixels(codec),
        label=label,
        context=codec.context,
    )
    if c.prior:
        tasks |= prior_tasks(
            c.prior,
            channels=codec.image_channels,
            downsampling=codec.downsampling,
            num_codes=codec.num_codes,
            classes=request.classes,
        )
    return Tasks(tasks=tasks, default="reconstruct")


def _latent_tasks(codec: KLConfig) -> dict[str, Task]:
    image, size = image_port(codec.image_channels, _maximum_pixels(codec)), size_port()
    latents = Port(
        kind="tensor",
        dtype="float32",
        shape=("batch", codec.code_size, "rows", "columns"),
        summary=f"mean of the Gaussian, one position per {codec.downsampling}x{codec.downsampling} pixels",
    )
    return {
        "reconstruct": Task(
            summary="Encode a picture and decode it again", inputs={"image": image}, outputs={"reconstruction": image}
        ),
        "encode": Task(
            summary="Encode a picture as latents", inputs={"image": image}, outputs={"latents": latents, "size": size}
        ),
        "decode": Task(
            summary="Decode latents to a picture", inputs={"latents": latents, "size": size}, outputs={"image": image}
        ),
    }


@hookimpl
def build_module(request: BuildRequest) -> Any:
    from torch import nn
    from zoo_vqvae.prior import Prior

    from .model import VQGAN, KLAutoencoder

    c = _config(request.family, request.config)
    if isinstance(c, KLVAEConfig):
        return nn.ModuleDict({"codec": KLAutoencoder(c.codec)})
    parts: dict[str, nn.Module] = {"codec": VQGAN(c.codec)}
    if c.prior:
        parts["prior"] = Prior(c.prior, c.codec.num_codes)
    return nn.ModuleDict(parts)


@hookimpl
def build_task(request: TaskModuleRequest) -> Any:
    import zoo_vqvae.tasks as plain

    from . import tasks

    if request.family == "klvae":
        modules = {
            "encode": tasks.EncodeLatents,
            "decode": tasks.DecodeLatents,
            "reconstruct": tasks.ReconstructLatents,
        }
        return modules[request.task](cast("tasks.KLParts", request.module).codec)
    parts = cast("tasks.VQGANParts", request.module)
    if parts.codec.config.condition_classes:
        conditional = {
            "encode": tasks.ConditionalEncode,
            "decode": tasks.ConditionalDecode,
            "reconstruct": tasks.ConditionalReconstruct,
        }
        return conditional[request.task](parts.codec)
    unconditional = {"encode": plain.Encode, "decode": plain.Decode, "reconstruct": plain.Reconstruct}
    if request.task not in unconditional:
        return plain.build_prior_task(request.task, parts.codec, parts.prior)
    return unconditional[request.task](parts.codec)


@hookimpl
def build_trainer(request: TrainRequest) -> Any:
    from zoo_vqvae.training import PriorTrainer

    from .training import CodecTrainer

    if request.family == "vqgan" and trains_prior(request):
        return PriorTrainer(request)
    return CodecTrainer(request)


@hookimpl
def measure(request: MeasureRequest) -> list[Metric]:
    from zoo.build.evaluate import measure_codec, measure_generator

    metrics = measure_codec(request, num_codes=request.config["codec"].get("num_codes"))
    return metrics + (measure_generator(request) if request.config.get("prior") else [])


@hookimpl
def import_checkpoint(request: ImportRequest) -> Imported | None:
    from .layouts import import_checkpoint

    return import_checkpoint(request)
