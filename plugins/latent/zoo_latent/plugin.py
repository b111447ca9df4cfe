"""The family `latent`: presets and hooks. Does not import torch; the hooks that need it do."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import msgspec
from zoo_diffusion.config import check_trained

from zoo.errors import UsageError
from zoo.hookspecs import (
    AssetsRequest,
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
    TaskModuleRequest,
    Tasks,
    TasksRequest,
    TrainRequest,
    hookimpl,
)
from zoo.text import did_you_mean

from .config import ClipConfig, ClipsConfig, WordsConfig, fitted, read_config
from .ports import TEXT, golden_of, tasks_of

ZOO_CONTRACT = 3

CAPTIONS_BYTES = 4096
"""Of the captions of one picture: one or several, a line each."""

# v with a cosine schedule, as for pixels: the target has the same scale at every timestep.
_VELOCITY = {"schedule": "cosine", "prediction": "v", "clip": False}
_TINY_CODEC = {"widths": [8, 8, 16], "blocks": 1, "latent_channels": 4, "code_size": 4, "norm_groups": 4}
_TINY = {
    "widths": [16],
    "blocks": 1,
    "attention_levels": [],
    "heads": 2,
    "norm_groups": 4,
    "time_width": 16,
    "feed_forward": 1.0,
}
_SMALL = {
    "widths": [80, 160],
    "blocks": 1,
    "attention_levels": [1],
    "head_size": 32,
    "norm_groups": 16,
    "scale_shift": True,
    "resampling": "plain",
    "feed_forward": 2.0,
}
_BASE = {"widths": [192, 384, 384], "attention_levels": [1, 2], "head_size": 64, "scale_shift": True}

PRESETS = {
    "tiny": Preset(
        summary="trains in seconds, to see that everything works",
        config={"codec": _TINY_CODEC, "network": _TINY, "diffusion": _VELOCITY | {"default_steps": 3}},
        training={"steps": 20, "batch_size": 8, "learning_rate": 1e-3},
    ),
    "small": Preset(
        summary="for a CPU",
        config={"network": _SMALL, "diffusion": _VELOCITY | {"default_guidance": 2.0}},
        training={"steps": 20_000, "batch_size": 64, "learning_rate": 1e-3},
    ),
    "base": Preset(
        summary="for a GPU",
        config={"network": _BASE, "diffusion": _VELOCITY | {"default_guidance": 3.0}},
        training={"steps": 200_000, "batch_size": 256, "learning_rate": 2e-4},
    ),
}


@hookimpl
def describe_family(request: DescribeRequest) -> Family:
    return Family(
        name="latent",
        summary="Latent diffusion: draws what a text or a label says, in the latents of a codec",
        paper="https://arxiv.org/abs/2112.10752",
        presets=PRESETS,
        sampler="diffusion.sampler",
        weights=("codec", "text", "denoiser"),
        parents=("klvae", "vqgan", "vqvae"),
        import_options=("lora", "vae", "tokenizer", "prediction"),
    )


@hookimpl
def validate_config(request: ConfigRequest) -> Mapping[str, Any]:
    config = fitted(request.config, request.data) if request.data else request.config
    c, _ = read_config(config)
    if request.trained:
        check_trained(c.diffusion.sampler, request.trained)
    return msgspec.to_builtins(c)


@hookimpl
def list_tasks(request: TasksRequest) -> Tasks:
    c, codec = read_config(request.config)
    fit = tasks_of(c, codec, request.classes)
    for name in c.tasks:
        if name not in fit:
            raise UsageError(f"config: tasks: '{name}' is not one of {', '.join(fit)}{did_you_mean(name, fit)}")
    chosen = {name: task for name, task in fit.items() if not c.tasks or name in c.tasks or task.part_of in c.tasks}
    example: dict[str, Port] = {}
    if c.text:
        shape = ("batch", CAPTIONS_BYTES)
        example[TEXT] = Port(kind="text", dtype="uint8", shape=shape, summary="captions, a line each", default=0)
    if c.labels and c.labels.name != "label":
        example[c.labels.name] = fit["generate"].inputs[c.labels.name]
    return Tasks(tasks=chosen, default=next(iter(chosen)), golden=golden_of(c, codec, chosen), example=example)


@hookimpl
def make_assets(request: AssetsRequest) -> Mapping[str, bytes]:
    from .text import learnt
    from .training import captions

    c, _ = read_config(request.config)
    if c.text is None:
        return {}
    if not isinstance(c.text, WordsConfig):
        kind = c.text.__struct_config__.tag
        raise UsageError(
            f"latent config: text.kind is {kind}; such a text encoder is imported, not trained: it must be words"
        )
    texts = (text for row in request.arrays[TEXT] for text in captions(row.tobytes()))
    return learnt(texts, c.text.vocabulary)


@hookimpl
def build_module(request: BuildRequest) -> Any:
    from torch import nn
    from zoo_vqgan.config import CodecConfig, KLConfig
    from zoo_vqgan.model import VQGAN, KLAutoencoder
    from zoo_vqvae.model import VQVAE

    from .clip import Clip, Clips
    from .denoiser import build_denoiser
    from .text import Words, learnt

    c, codec = read_config(request.config)
    if isinstance(codec, KLConfig):
        parts: dict[str, nn.Module] = {"codec": KLAutoencoder(codec)}
    else:
        parts = {"codec": VQGAN(codec) if isinstance(codec, CodecConfig) else VQVAE(codec)}
    if isinstance(c.text, ClipConfig):
        parts["text"] = Clip(c.text, request.assets)
    elif isinstance(c.text, ClipsConfig):
        parts["text"] = Clips(c.text, request.assets)
    elif c.text:
        parts["text"] = Words(c.text, request.assets or learnt((), c.text.vocabulary))
    parts["denoiser"] = build_denoiser(c.network, outputs=2 if c.diffusion.variance == "learned" else 1)
    return nn.ModuleDict(parts)


@hookimpl
def build_task(request: TaskModuleRequest) -> Any:
    from . import tasks

    return tasks.build(request.task, cast("tasks.Parts", request.module), read_config(request.config)[0])


@hookimpl
def build_trainer(request: TrainRequest) -> Any:
    from .training import LatentTrainer

    return LatentTrainer(request, read_config(request.config)[0])


@hookimpl
def measure(request: MeasureRequest) -> list[Metric]:
    import numpy as np

    from zoo.build.evaluate import measure_generator

    from .training import captions

    arrays = dict(request.arrays)
    if TEXT in arrays:  # the first caption of each picture
        arrays[TEXT] = np.array([(captions(row.tobytes()) or [""])[0] for row in arrays[TEXT]])
    return measure_generator(replace(request, arrays=arrays))


@hookimpl
def import_checkpoint(request: ImportRequest) -> Imported | None:
    from .sources import import_checkpoint

    return import_checkpoint(request)
