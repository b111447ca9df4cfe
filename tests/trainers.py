"""Trainings for tests: a request as `zoo train` makes it, data drawn by code, a plugin without its distribution."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from zoo.build.data import Dataset
from zoo.build.train import Run
from zoo.hookspecs import Batch, BuildRequest, ConfigRequest, DataFacts, DescribeRequest, Preset, TrainRequest

GREY = DataFacts(height=28, width=28, channels=1, classes=("square", "disc"))
"""What the pictures of `drawings` are like, but for their size."""


class Loaded:
    """Calls a plugin's hooks as `zoo.plugins.Loaded` does, without the probe."""

    def __init__(self, plugin: ModuleType):
        self.plugin = plugin

    def call(self, hook: str, request: Any) -> Any:
        return getattr(self.plugin, hook)(request)


def drawings(number: int, size: int = 16, seed: int = 0) -> Dataset:
    """Grey squares (class 0) and discs (class 1) of random place, size and brightness."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    labels = rng.integers(0, 2, number)
    images = np.zeros((number, size, size, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        radius = rng.uniform(size / 6, size / 3)
        dy, dx = np.abs(rows - rng.uniform(radius, size - radius)), np.abs(columns - rng.uniform(radius, size - radius))
        inside = np.maximum(dy, dx) < radius if label == 0 else dy**2 + dx**2 < radius**2
        image[inside] = rng.integers(100, 256)
    return Dataset("drawings", "train", images, labels.astype(np.int64), ("square", "disc"))


def preset_of(plugin: ModuleType, family: str, name: str = "tiny") -> Preset:
    return plugin.describe_family(DescribeRequest(family=family)).presets[name]


def config_of(plugin: ModuleType, family: str, over: Mapping[str, Any] | None = None, preset: str = "tiny") -> dict:
    """A preset's config, complete, with fields of one level changed."""
    config = dict(preset_of(plugin, family, preset).config)
    for key, value in (over or {}).items():
        config[key] = config.get(key, {}) | value if isinstance(value, Mapping) else value
    return dict(plugin.validate_config(ConfigRequest(family=family, config=config, data=GREY)))


def run_of(plugin: ModuleType, family: str, over: Mapping[str, Any] | None = None, **settings: Any) -> Run:
    """A run of the preset `tiny`."""
    return Run(
        family=family,
        config=config_of(plugin, family, over),
        settings={"seed": 0} | dict(preset_of(plugin, family).training) | settings,
        name="test",
        version=1,
        summary="A model for tests",
        license="Apache-2.0",
        classes=["square", "disc"],
    )


def trainer_of(plugin: ModuleType, run: Run, distribute: Any = lambda module: module) -> Any:
    torch.manual_seed(run.settings["seed"])
    module = plugin.build_module(BuildRequest(family=run.family, config=run.config, classes=tuple(run.classes)))
    return plugin.build_trainer(
        TrainRequest(
            family=run.family,
            config=run.config,
            settings=run.settings,
            module=module.train(),
            device=torch.device("cpu"),
            distribute=distribute,
            classes=tuple(run.classes),
        )
    )


def batch_of(data: Dataset, indices: slice = slice(None)) -> Batch:
    return Batch(images=torch.from_numpy(data.images[indices].copy()), labels=torch.from_numpy(data.labels[indices]))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
