"""Fixes the sizes of a task's ports and the values of some of its inputs, for stacks that need or prefer them fixed.

A bundle's batch stays free: its ports' first dimension is `batch` by definition. `single.py` fixes that one in graphs
on their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from ..errors import UsageError
from ..formats.golden import Case
from ..hookspecs import Port, Task
from ..ports.inputs import check
from ..ports.kind import BATCH, MAX_BATCH, MAX_LENGTH, MAX_VALUES
from ..ports.kinds import kind_of
from ..text import did_you_mean, safe_text
from .bodies import refill

if TYPE_CHECKING:
    from ..formats.manifest import Manifest

MAX_BATCH_VALUES = 1 << 30

Run = Callable[[onnx.ModelProto, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Runs a graph."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user chose for the graphs on their own; nothing by default."""

    sizes: Mapping[str, int] = field(default_factory=dict)  # of dimensions, without `batch`
    batch: int | None = None
    constants: Mapping[str, str] = field(default_factory=dict)  # of inputs: their values as text
    opset: int | None = None
    loops: bool = True  # False: no Loop, and no noise drawn in graphs

    def __bool__(self) -> bool:
        return self != Choices()


def choices_from(
    shape: tuple[str, ...], constants: tuple[str, ...], opset: int | None, loops: bool, manifest: Manifest
) -> Choices:
    """The choices as typed: `--shape batch=1,height=28`, `--constant steps=20`.

    Raises:
        UsageError: not of this form, or no task has such a dimension or input.
    """
    tasks = manifest.tasks.values()
    dimensions = {d for task in tasks for port in task.inputs.values() for d in port.shape if isinstance(d, str)}
    fixable = {name for task in tasks for name, port in task.inputs.items() if BATCH not in port.shape}
    sizes: dict[str, int] = {}
    parts = [part for given in shape for part in given.split(",")]
    for name, text in _assigned("--shape", parts, dimensions).items():
        most = MAX_BATCH if name == BATCH else MAX_LENGTH
        if not (text.isascii() and text.isdigit() and len(text) <= 20 and 1 <= int(text) <= most):
            raise UsageError(f"--shape {safe_text(name)}={safe_text(text)[:80]} must be a number, 1 .. {most:,}")
        sizes[name] = int(text)
    for task in tasks:
        for name, port in task.inputs.items():
            if sizes.keys() & {*port.shape}:
                known = {BATCH: 1} | sizes
                smallest = port.minimum_size or 1
                _check_lengths(name, task, [known.get(d, smallest) if isinstance(d, str) else d for d in port.shape])
    values = _assigned("--constant", constants, fixable)
    return Choices(batch=sizes.pop(BATCH, None), sizes=sizes, constants=values, opset=opset, loops=loops)


def _check_lengths(name: str, task: Task, shape: Sequence[int]) -> None:
    """Refuses an input's shape before arrays of it are made and a graph runs on them.

    Raises:
        UsageError: one of the batch, or the batch, is too large, or too small.
    """
    port = task.inputs[name]
    kind = kind_of(port)
    batch, lengths = (shape[0], shape[1:]) if BATCH in port.shape else (1, shape)
    kind.check_lengths(name, port, lengths)
    step = kind.pixels_a_step(task.tile) if task.tile else None
    if step and (pixels := math.prod(lengths[:2]) * step**2) > MAX_VALUES:
        raise UsageError(f"{name} is of a picture of {pixels:,} pixels; it may have at most {MAX_VALUES:,}")
    if (values := batch * math.prod(lengths)) > MAX_BATCH_VALUES:
        raise UsageError(
            f"{name} of a batch of {batch:,} has {values:,} values; it may have at most {MAX_BATCH_VALUES:,}"
        )


def _assigned(option: str, parts: Sequence[str], known: set[str]) -> dict[str, str]:
    """The values of `NAME=VALUE`, by name.

    Raises:
        UsageError: not of this form, another name, or a name twice.
    """
    values: dict[str, str] = {}
    for part in parts:
        name, equals, text = part.strip().partition("=")
        if not equals or name not in known:
            listed = ", ".join(sorted(known)) or "none in this model"
            raise UsageError(
                f"{option} '{safe_text(part)}' must be NAME=VALUE, with NAME one of {listed}{did_you_mean(name, known)}"
            )
        if name in values:
            raise UsageError(f"{option} {safe_text(name)}=… was given twice; give it once")
        values[name] = text
    return values


class Fixing:
    """Fixes the tasks of a model, one after the other; what one gives, a later one takes: tokens from `encode`."""

    def __init__(self, choices: Choices, run: Run):
        self.sizes, self.constants, self.run = dict(choices.sizes), choices.constants, run

    def fix(self, model: onnx.ModelProto, task: Task, cases: list[Case]) -> tuple[onnx.ModelProto, Task, list[Case]]:
        """A task with its sizes and constants fixed: its graph (in place), its ports, its golden cases.

        The cases' arrays are cut or repeated to the new sizes. Their outputs are then those of the graph before.
        """
        values = {name: _value(name, task.inputs[name], text) for name, text in self._constants_of(task)}
        inputs = {name: self._fixed(port) for name, port in task.inputs.items()}
        bound = {d for port in task.inputs.values() for d in port.shape if d in self.sizes}
        outputs = {name: self._fixed(port, bound) for name, port in task.outputs.items()}
        if (inputs, outputs) == (task.inputs, task.outputs) and not values:
            return model, task, cases
        before = onnx.ModelProto()
        before.CopyFrom(model)
        for name, port in inputs.items():
            for case in cases[:1]:
                lengths = [d if isinstance(d, int) else n for d, n in zip(port.shape, case.inputs[name].shape)]
                _check_lengths(name, task, lengths)
        cases = [self._case(before, inputs, values, case) for case in cases]
        self._learn(inputs, outputs, cases)
        free = {name: port for name, port in inputs.items() if name not in values}
        for name, value in values.items():
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        refill(model.graph.input, [entry for entry in model.graph.input if entry.name in free])
        for entries, ports in ((model.graph.input, free), (model.graph.output, outputs)):
            for entry in entries:
                state_shape(entry, ports[entry.name].shape)
        cases = [replace(case, inputs={n: a for n, a in case.inputs.items() if n in free}) for case in cases]
        tile = None if inputs != task.inputs else task.tile
        return model, msgspec.structs.replace(task, inputs=free, outputs=outputs, tile=tile), cases

    def _constants_of(self, task: Task) -> list[tuple[str, str]]:
        return [(name, text) for name, text in self.constants.items() if name in task.inputs]

    def _fixed(self, port: Port, only: Collection[int | str] | None = None) -> Port:
        # A number in a shape is not in `sizes`, so it stays.
        shape = tuple(self.sizes.get(d, d) if only is None or d in only else d for d in port.shape)  # type: ignore[arg-type]
        return msgspec.structs.replace(port, shape=shape)

    def _case(
        self, before: onnx.ModelProto, ports: Mapping[str, Port], values: Mapping[str, np.ndarray], case: Case
    ) -> Case:
        inputs = {name: resized(case.inputs[name], port.shape) for name, port in ports.items()} | dict(values)
        if all(np.array_equal(inputs[name], array) for name, array in case.inputs.items()):
            return case
        check(ports, inputs)
        return Case(inputs, self.run(before, inputs))

    def _learn(self, inputs: Mapping[str, Port], outputs: Mapping[str, Port], cases: list[Case]) -> None:
        """If all sizes of the inputs are fixed, those of the outputs are too: every case shows them."""
        if any(isinstance(d, str) and d != BATCH for port in inputs.values() for d in port.shape):
            return
        for name, port in outputs.items():
            for axis, dimension in enumerate(port.shape):
                lengths = {case.outputs[name].shape[axis] for case in cases}
                if isinstance(dimension, str) and dimension != BATCH and len(lengths) == 1:
                    self.sizes.setdefault(dimension, lengths.pop())


def _value(name: str, port: Port, text: str) -> np.ndarray:
    """A constant from its text: `20`, `0.5`, `28x28`."""
    try:
        numbers = [float(part) if port.dtype == "float32" else int(part) for part in text.lower().split("x")]
    except ValueError:
        raise UsageError(f"--constant {name}={safe_text(text)} must be a number, or HEIGHTxWIDTH for a size") from None
    kind = kind_of(port)
    array = kind.from_value(name, port, numbers if port.shape else numbers[0])
    if len(numbers) != int(np.prod(array.shape)) or not fits(array, port.shape):
        raise UsageError(f"--constant {name}={safe_text(text)} must be {kind.describe(port)}")
    kind.check_array(name, port, array)
    return array


def fits(array: np.ndarray, shape: tuple[int | str, ...]) -> bool:
    """Whether an array has a port's shape."""
    return array.ndim == len(shape) and all(isinstance(d, str) or d == n for d, n in zip(shape, array.shape))


def resized(array: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
    """An array cut or repeated along each axis to the numbers in `shape`."""
    for axis, length in enumerate(shape):
        if isinstance(length, int) and length != array.shape[axis]:
            array = np.take(array, np.arange(length) % array.shape[axis], axis=axis)
    return array


def state_shape(entry: onnx.ValueInfoProto, shape: tuple[int | str, ...]) -> None:
    """Writes a shape into an input or output of a graph."""
    dims = entry.type.tensor_type.shape
    refill(dims.dim, [])
    for length in shape:
        if isinstance(length, str):
            dims.dim.add(dim_param=length)
        else:
            dims.dim.add(dim_value=length)
