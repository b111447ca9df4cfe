"""The family `vae`: its config, tasks and hooks. Does not import torch; the hooks that need it do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zoo.errors import UsageError
from zoo.hookspecs import (
    BuildRequest,
    ConfigRequest,
    DescribeRequest,
    Family,
    MeasureRequest,
    Metric,
    Port,
    Preset,
    Task,
    TaskModuleRequest,
    Tasks,
    TasksRequest,
    Trainer,
    TrainRequest,
    hookimpl,
)
from zoo.settings import AveragedSettings, read

if TYPE_CHECKING:
    from torch import nn

ZOO_CONTRACT = 3


class VAEConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Config of the family `vae`."""

    image_channels: Literal[1, 3] = 1  # grey or RGB
    image_size: Annotated[int, Meta(ge=8, le=128, multiple_of=4)] = 28  # pixels, height and width
    hidden_channels: Annotated[int, Meta(ge=8, le=1024, multiple_of=2)] = 64  # width at the lowest resolution
    latent_size: Annotated[int, Meta(ge=1, le=1024)] = 32  # J in the paper


PRESETS = {
    "small": Preset(
        summary="for a CPU: 32 latents",
        config={},
        training={"steps": 8_000, "batch_size": 64, "learning_rate": 1e-3},
    ),
    "fashion": Preset(
        summary="grey 28x28 clothing, 32 latents",
        config={"image_channels": 1, "image_size": 28},
        training={"steps": 8_000, "batch_size": 128, "learning_rate": 2e-3},
    ),
    "digits": Preset(
        summary="grey 28x28 digits, 12 latents",
        config={"image_channels": 1, "image_size": 28, "hidden_channels": 32, "latent_size": 12},
        training={"steps": 2_000, "batch_size": 64, "learning_rate": 2e-3},
    ),
    "tiny": Preset(
        summary="trains in seconds, to see that everything works",
        config={"hidden_channels": 8, "latent_size": 4},
        training={"steps": 20, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0},
    ),
}


@hookimpl
def describe_family(request: DescribeRequest) -> Family:
    return Family(
        name="vae",
        summary="Variational autoencoder: pictures to a few normal numbers and back",
        paper="https://arxiv.org/abs/1312.6114",
        presets=PRESETS,
    )


def _config(config: Mapping[str, Any]) -> VAEConfig:
    return read(VAEConfig, config, "vae config")


@hookimpl
def validate_config(request: ConfigRequest) -> Mapping[str, Any]:
    data, found = request.data, {}
    if data:  # what the config leaves open is as the pictures are
        found = {"image_channels": data.channels, "image_size": data.height}
        if "image_size" not in request.config and (data.height != data.width or data.height % 4):
            raise UsageError(
                f"the pictures are {data.width}x{data.height}; this vae takes squares whose side is a multiple of 4:"
                f" give --image-size {data.nearest(4, square=True)} to crop and scale them"
            )
    return msgspec.to_builtins(_config({**found, **request.config}))


@hookimpl
def list_tasks(request: TasksRequest) -> Tasks:
    c = _config(request.config)
    image = Port(
        kind="image",
        dtype="uint8",
        shape=("batch", c.image_size, c.image_size, c.image_channels),
        summary="grey" if c.image_channels == 1 else "RGB",
    )
    latents = Port(
        kind="tensor", dtype="float32", shape=("batch", c.latent_size), summary="normal for typical pictures"
    )
    seed = Port(kind="seed", dtype="int64", shape=("batch",), summary="one per picture", minimum=0, maximum=2**53 - 1)
    return Tasks(
        tasks={
            "generate": Task(summary="Draw a picture", inputs={"seed": seed}, outputs={"image": image}),
            "encode": Task(
                summary="Encode a picture as latents", inputs={"image": image}, outputs={"latents": latents}
            ),
            "decode": Task(
                summary="Decode latents to a picture", inputs={"latents": latents}, outputs={"image": image}
            ),
        },
        default="generate",
    )


@hookimpl
def build_module(request: BuildRequest) -> "nn.Module":
    from .model import VAE

    return VAE(_config(request.config))


@hookimpl
def build_task(request: TaskModuleRequest) -> "nn.Module":
    from . import model

    assert isinstance(request.module, model.VAE)  # what `build_module` returned
    return {"generate": model.Generate, "encode": model.Encode, "decode": model.Decode}[request.task](request.module)


@hookimpl
def build_trainer(request: TrainRequest) -> Trainer:
    from .model import VAETrainer

    return VAETrainer(request, read(AveragedSettings, request.settings, "vae training"))


@hookimpl
def measure(request: MeasureRequest) -> list[Metric]:
    from .measuring import measure_vae

    return measure_vae(request)
