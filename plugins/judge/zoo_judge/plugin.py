"""The family `judge`: presets and hooks. Does not import torch; the hooks that need it do."""

from collections.abc import Mapping
from typing import Any

import msgspec

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
    TrainRequest,
    hookimpl,
)
from zoo.settings import read

from .config import JudgeConfig

ZOO_CONTRACT = 3

_GREY = {"image_channels": 1, "num_classes": 10}

PRESETS = {
    "tiny": Preset(
        summary="trains in seconds, to see that everything works",
        config={"widths": [8, 16]},
        training={"steps": 20, "batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 0},
    ),
    "small": Preset(
        summary="for a CPU",
        config={"widths": [16, 32, 64, 112]},
        training={"steps": 3_000, "batch_size": 64, "learning_rate": 3e-3},
    ),
    "base": Preset(
        summary="for a GPU",
        config={"widths": [64, 128, 256, 512]},
        training={"steps": 30_000, "batch_size": 128, "learning_rate": 1e-3},
    ),
    "fashion": Preset(
        summary="classifies ten kinds of clothing, grey 28x28",
        config=_GREY,
        training={"steps": 6_000, "batch_size": 128, "learning_rate": 3e-3, "mirror": True},
    ),
    "mnist": Preset(
        summary="classifies the ten digits, grey 28x28",
        config=_GREY,
        training={"steps": 3_000, "batch_size": 128, "learning_rate": 3e-3},
    ),
}


@hookimpl
def describe_family(request: DescribeRequest) -> Family:
    return Family(
        name="judge",
        summary="Small classifier whose labels and features measure generative models",
        paper="https://arxiv.org/abs/1603.05027",
        presets=PRESETS,
    )


def _config(config: Mapping[str, Any]) -> JudgeConfig:
    return read(JudgeConfig, config, "judge config")


@hookimpl
def validate_config(request: ConfigRequest) -> Mapping[str, Any]:
    found = {}
    if data := request.data:
        if len(data.classes) < 2:
            raise UsageError(
                f"the family judge needs labels of two classes or more, and the data has {len(data.classes)}: give a"
                " folder with one subfolder per class, or an .npz with labels"
            )
        found = {"image_channels": data.channels, "num_classes": len(data.classes)}
    return msgspec.to_builtins(_config(found | dict(request.config)))


@hookimpl
def list_tasks(request: TasksRequest) -> Tasks:
    config = _config(request.config)
    image = Port(
        kind="image",
        dtype="uint8",
        shape=("batch", "height", "width", config.image_channels),
        summary="grey" if config.image_channels == 1 else "RGB",
        minimum_size=8,
        maximum_pixels=1_048_576,
    )
    label = Port(
        kind="label",
        dtype="int64",
        shape=("batch",),
        summary="the most probable class",
        minimum=0,
        maximum=config.num_classes - 1,
        classes=request.classes,
    )
    probabilities = Port(
        kind="tensor",
        dtype="float32",
        shape=("batch", config.num_classes),
        summary="probability of each class",
        minimum=0,
        maximum=1,
    )
    features = Port(
        kind="tensor",
        dtype="float32",
        shape=("batch", config.widths[-1]),
        summary="input of the last layer, for distances between sets of images",
    )
    return Tasks(
        tasks={
            "classify": Task(
                summary="Classify a picture",
                inputs={"image": image},
                outputs={"label": label, "probabilities": probabilities},
            ),
            "features": Task(
                summary="Turn a picture into a feature vector", inputs={"image": image}, outputs={"features": features}
            ),
        },
        default="classify",
    )


@hookimpl
def build_module(request: BuildRequest) -> Any:
    from .model import Judge

    config = _config(request.config)
    if len(request.classes) > config.num_classes:
        raise UsageError(
            f"the data has {len(request.classes)} classes, but num_classes is {config.num_classes}:"
            f" give --set num_classes={len(request.classes)}"
        )
    return Judge(config)


@hookimpl
def build_task(request: TaskModuleRequest) -> Any:
    from . import model

    return {"classify": model.Classify, "features": model.Features}[request.task](request.module)


@hookimpl
def build_trainer(request: TrainRequest) -> Any:
    from .training import JudgeTrainer

    return JudgeTrainer(request)


@hookimpl
def measure(request: MeasureRequest) -> list[Metric]:
    from zoo.build.evaluate import measure_classifier

    return measure_classifier(request)
