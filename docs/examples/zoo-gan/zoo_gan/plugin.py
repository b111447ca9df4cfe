"""The family `gan`: its config, task and hooks. Does not import torch; the hooks that need it do."""

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
from zoo.settings import TrainingSettings, read

if TYPE_CHECKING:
    from torch import nn

ZOO_CONTRACT = 3


class GANConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Config of the family `gan`."""

    image_channels: Literal[1, 3] = 1  # grey or RGB
    image_size: Annotated[int, Meta(ge=8, le=128, multiple_of=4)] = 28  # pixels, height and width
    hidden_channels: Annotated[int, Meta(ge=8, le=1024, multiple_of=2)] = 128  # width at the lowest resolution
    latent_size: Annotated[int, Meta(ge=1, le=1024)] = 100  # length of z


class GANSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for the training of a GAN."""

    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.999  # of the generator's moving average, which is published
    discriminator_channels: Annotated[int, Meta(ge=8, le=1024, multiple_of=2)] = 128  # width at the lowest resolution


PRESETS = {
    "small": Preset(
        summary="for a CPU: from 100 numbers",
        config={},
        training={"steps": 12_000, "batch_size": 64, "learning_rate": 2e-4},
    ),
    "fashion": Preset(
        summary="grey 28x28 clothing from 100 numbers",
        config={"image_channels": 1, "image_size": 28, "hidden_channels": 128},
        training={"steps": 12_000, "batch_size": 64, "learning_rate": 2e-4},
    ),
    "tiny": Preset(
        summary="trains in seconds, to see that everything works",
        config={"hidden_channels": 8, "latent_size": 4},
        training={"steps": 20, "batch_size": 8, "learning_rate": 2e-3, "discriminator_channels": 8},
    ),
}


@hookimpl
def describe_family(request: DescribeRequest) -> Family:
    return Family(
        name="gan",
        summary="Generative adversarial network: a picture from noise, in one pass",
        paper="https://arxiv.org/abs/1406.2661",
        presets=PRESETS,
    )


def _config(config: Mapping[str, Any]) -> GANConfig:
    return read(GANConfig, config, "gan config")


@hookimpl
def validate_config(request: ConfigRequest) -> Mapping[str, Any]:
    data, found = request.data, {}
    if data:  # what the config leaves open is as the pictures are
        found = {"image_channels": data.channels, "image_size": data.height}
        if "image_size" not in request.config and (data.height != data.width or data.height % 4):
            raise UsageError(
                f"the pictures are {data.width}x{data.height}; this gan takes squares whose side is a multiple of 4:"
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
    seed = Port(kind="seed", dtype="int64", shape=("batch",), summary="one per picture", minimum=0, maximum=2**53 - 1)
    generate = Task(summary="Draw a picture", inputs={"seed": seed}, outputs={"image": image})
    return Tasks(tasks={"generate": generate}, default="generate")


@hookimpl
def build_module(request: BuildRequest) -> "nn.Module":
    """Only the generator: the discriminator is part of the training, and is not published."""
    from .model import Generator

    return Generator(_config(request.config))


@hookimpl
def build_task(request: TaskModuleRequest) -> "nn.Module":
    from . import model

    assert isinstance(request.module, model.Generator)  # what `build_module` returned
    return model.Generate(request.module)


@hookimpl
def build_trainer(request: TrainRequest) -> Trainer:
    from .model import GANTrainer

    return GANTrainer(request, read(GANSettings, request.settings, "gan training"))


@hookimpl
def measure(request: MeasureRequest) -> list[Metric]:
    from zoo.build.evaluate import measure_generator

    return measure_generator(request)
