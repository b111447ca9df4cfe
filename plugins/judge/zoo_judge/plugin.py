"""The family `judge`: presets and hooks. Does not import torch; the hooks that need it do."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from zoo.errors import UsageError
from zoo.hookspecs import (
    BuildRequest,
    ConfigRequest,
    DataFacts,
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
from zoo.text import did_you_mean, safe_text

from .config import JudgeConfig, read_config

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


def _named(labels: Sequence[Any], data: DataFacts) -> list[Any]:
    """The config's labels; one that is only a name gets the classes that the data have."""
    named = {name: facts.classes for name, facts in data.arrays.items() if facts.classes}
    for name in labels:
        if isinstance(name, str) and name not in named:
            there = ", ".join(named) or "none"
            raise UsageError(
                f"the data has no label '{safe_text(name)}' with names of its classes (in an .npz, an array"
                f" {safe_text(name)}_classes); those that it has: {safe_text(there)}{did_you_mean(name, named)}"
            )
    return [{"name": name, "classes": list(named[name])} if isinstance(name, str) else name for name in labels]


@hookimpl
def validate_config(request: ConfigRequest) -> Mapping[str, Any]:
    found, given = {}, dict(request.config)
    data, labels = request.data, given.get("labels")
    if data and isinstance(labels, list | tuple) and labels:
        found, given["labels"] = {"image_channels": data.channels}, _named(labels, data)
    elif data:
        if len(data.classes) < 2:
            raise UsageError(
                f"the family judge needs labels of two classes or more, and the data has {len(data.classes)}: give a"
                " folder with one subfolder per class, or an .npz with labels"
            )
        found = {"image_channels": data.channels, "num_classes": len(data.classes)}
    return msgspec.to_builtins(read_config(found | given))


@hookimpl
def list_tasks(request: TasksRequest) -> Tasks:
    config = read_config(request.config)
    image = Port(
        kind="image",
        dtype="uint8",
        shape=("batch", "height", "width", config.image_channels),
        summary="grey" if config.image_channels == 1 else "RGB",
        minimum_size=8,
        maximum_pixels=1_048_576,
    )
    labels = _labels(config, request.classes)
    probabilities = {
        f"{name}_probabilities" if config.labels else "probabilities": Port(
            kind="tensor",
            dtype="float32",
            shape=("batch", number),
            summary="probability of each class",
            minimum=0,
            maximum=1,
        )
        for name, number in config.sizes.items()
    }
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
                outputs=labels | probabilities,
            ),
            "features": Task(
                summary="Turn a picture into a feature vector", inputs={"image": image}, outputs={"features": features}
            ),
        },
        default="classify",
        example=labels if config.labels else {},
    )


def _labels(config: JudgeConfig, classes: tuple[str, ...]) -> dict[str, Port]:
    """The port of each label."""
    names = {label.name: label.classes for label in config.labels} or {"label": classes}
    return {
        name: Port(
            kind="label",
            dtype="int64",
            shape=("batch",),
            summary="the most probable class",
            minimum=0,
            maximum=number - 1,
            classes=names[name],
        )
        for name, number in config.sizes.items()
    }


@hookimpl
def build_module(request: BuildRequest) -> Any:
    from .model import Judge

    config = read_config(request.config)
    if not config.labels and len(request.classes) > config.num_classes:
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
