"""Measures the metrics of a model's card with its family's code, in ONNX Runtime, on a part of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from ..errors import InvalidFileError, UsageError
from ..formats import assets
from ..formats.manifest import Manifest
from ..hookspecs import MeasureRequest, Metric, Port, TasksRequest
from ..media.files import Note
from ..plugins import load
from ..ports.image import channels_of
from ..ports.kinds import kind_of
from ..run.model import Model
from ..store.locate import read_folder
from ..text import did_you_mean
from . import data as datasets
from .data import Dataset

LABEL = "label"
"""The output of a classifier with a single label."""

GENERATE = "generate"
"""The task of models that draw."""

Progress = Callable[[Iterator, int], Iterator]
"""Wraps an iterator with a known length."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How a model is measured; the options of `zoo eval` have the same names and explain them."""

    data: Path
    split: str = "test"
    data_name: str = ""
    image_size: str = ""  # `48x40`, width x height, or `32`
    skip: int = 0
    limit: int | None = None
    samples: int | None = None
    assignments: Sequence[str] = ()  # `steps=10`, ports of the drawing task
    inception: Path | None = None

    def command(self, name: str, judge: str | None) -> list[str]:
        """The arguments of the command that repeats the measurement."""
        words = ["zoo", "eval", name, "--data", str(self.data)]
        words += ["--split", self.split] if self.split != "test" else []
        for option in ("data_name", "image_size", "skip", "limit", "samples", "inception"):
            value = getattr(self, option)
            words += [f"--{option.replace('_', '-')}", str(value)] if value else []
        for assignment in self.assignments:
            words += ["--set", assignment]
        return words + (["--judge", judge] if judge else [])


def measure(
    model: Model, judge: Model | None, how: Measurement, progress: Progress, note: Note = lambda line: None
) -> list[Metric]:
    """A model's metrics, as its family measures them.

    Args:
        judge: a classifier for the pictures.
        note: called with one line about what was read.

    Raises:
        InvalidFileError: the model has no pictures, or the data cannot be read.
        UsageError: options that do not apply to the model, pictures without labels for a judge, or a named array
            that does not fit its port.
        IntegrityError: an asset of the model is missing or was changed.
    """
    manifest = model.manifest
    ports = (p for t in manifest.tasks.values() for p in (*t.inputs.values(), *t.outputs.values()))
    channels = channels_of(ports)
    if channels is None:
        raise InvalidFileError(f"{manifest.name} neither takes nor gives pictures: there is nothing to measure")
    draws = GENERATE in manifest.tasks
    for option, value in (("samples", how.samples), ("set", how.assignments), ("inception", how.inception)):
        if value and not draws:
            raise UsageError(f"{manifest.name} does not draw pictures: --{option} does not apply to it")
    # The classifier defines what the labels mean; without one, the labels do not matter.
    judging = judge.manifest if judge else manifest if "classify" in manifest.tasks else None
    named = _labels(judging) if judging else {}
    if named.pop(LABEL, None) is None:  # every label is a named array of the data
        judging = None
    read = partial(
        datasets.read,
        how.data,
        channels=channels,
        image_size=datasets.size_of(how.image_size) if how.image_size else None,
        classes=judging.classes if judging else (),
        name=how.data_name,
    )
    data = read(split=how.split, skip=how.skip, limit=how.limit)
    if judging and data.labels.min() < 0:
        raise UsageError(
            f"{how.data} has pictures without a label, so a classifier's labels cannot be compared with anything"
        )
    loaded = load(manifest.family)
    asked = TasksRequest(family=manifest.family, config=manifest.config, classes=manifest.classes)
    example = dict(loaded.call("list_tasks", asked).example)
    for name, port in named.items():
        if example.setdefault(name, port).classes != port.classes:
            raise UsageError(f"the judge's classes of '{name}' are not those of {manifest.name}")
    # Not all of them: what a metric does not need, such as captions, the data need not have.
    data = data.take({name: port for name, port in example.items() if name in data.columns})
    request = MeasureRequest(
        family=manifest.family,
        config=manifest.config,
        model=model,
        images=data.images,
        labels=data.labels,
        judge=judge,
        progress=progress,
        judged_by=f"{judge.manifest.name}:{judge.manifest.version}@sha256:{judge.digest}" if judge else "",
        training_images=_training_images(data, how, read) if draws else None,
        samples=how.samples or 0,
        options=dict(_assigned(a, manifest.tasks[GENERATE].inputs) for a in how.assignments),
        inception=how.inception,
        arrays=data.arrays,
        assets=assets.read(model.folder, manifest),
    )
    note(data.said)
    metrics = loaded.call("measure", request)
    return [replace(m, data=f"{data.name} {data.split}", samples=m.samples or len(data)) for m in metrics]


def _labels(manifest: Manifest) -> dict[str, Port]:
    """What a classifier tells of a picture."""
    task = manifest.tasks.get("classify")
    return {name: port for name, port in task.outputs.items() if "classes" in kind_of(port).fields} if task else {}


def measure_held_out(folder: Path, data: Dataset) -> list[Metric]:
    """The metrics of a new bundle on pictures in memory; none if its family measures none."""
    model = Model(read_folder(folder), device="cpu")
    loaded = load(model.manifest.family)
    if not loaded.implements("measure"):
        return []
    request = MeasureRequest(
        family=model.manifest.family,
        config=model.manifest.config,
        model=model,
        images=data.images,
        labels=data.labels,
        judge=None,
        progress=lambda iterator, _: iterator,
        arrays=data.arrays,
        assets=assets.read(model.folder, model.manifest),
    )
    return loaded.call("measure", request)


def finite(metrics: list[Metric], note: Callable[[str], None]) -> list[Metric]:
    """The metrics that the data allow: not those that are NaN or infinite, which a line names."""
    if left_out := [m.name for m in metrics if not math.isfinite(m.value)]:
        note(f"left out: {', '.join(left_out)} (too few pictures, or pictures without any variation)")
    return [m for m in metrics if math.isfinite(m.value)]


def _training_images(data: Dataset, how: Measurement, read: Callable[..., Dataset]) -> np.ndarray | None:
    """Pictures of the training part that are not used for the metrics; None if the data has no parts."""
    whole = read(split="train")
    if how.split == "train":
        rest = np.delete(whole.images, slice(how.skip, how.skip + len(data)), axis=0)
        return rest if len(rest) else None
    return None if data.split == "all" else whole.images


def _assigned(assignment: str, ports: Mapping[str, Port]) -> tuple[str, float]:
    """`steps=10` as a port and its value."""
    name, equals, text = assignment.partition("=")
    free = {port: number for port, declared in ports.items() if (number := kind_of(declared).number)}
    if not equals or name not in free:
        raise UsageError(
            f"--set '{assignment}' must be PORT=NUMBER, with PORT one of {', '.join(free)}{did_you_mean(name, free)}"
        )
    try:
        return name, free[name](text)
    except ValueError:
        raise UsageError(f"--set {assignment}: '{text}' is not a number") from None
