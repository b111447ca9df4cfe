"""Checks and completes a task's inputs: compares what a caller gave with the ports.

Graphs have no optional inputs and check nothing. So this fills in every default, repeats scalars over the batch, and
checks every type, shape and range before ONNX Runtime is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..hookspecs import Port, Task
from ..text import did_you_mean, safe_text
from .kind import BATCH, shape_text
from .kinds import kind_of

if TYPE_CHECKING:
    import numpy as np


def complete(task_name: str, task: Task, values: Mapping[str, Any], *, draw: bool = False) -> dict[str, np.ndarray]:
    """The graph's inputs from what a caller gave: arrays, numbers, class names, pictures; defaults are filled in.

    A single value for a `label`, `seed`, `scalar` or `text` port is used for the whole batch.

    Args:
        draw: a missing seed is drawn: S for the first picture of the batch, S + 1 for the next, …

    Raises:
        UsageError: an unknown or missing port, or a value of the wrong type, shape or range.
    """
    import numpy as np

    for name in values:
        if name not in task.inputs:
            known = ", ".join(task.inputs)
            raise UsageError(
                f"{task_name} has no input '{safe_text(name)}'; it takes {known}{did_you_mean(name, task.inputs)}"
            )
    arrays: dict[str, np.ndarray] = {}
    missing: list[str] = []
    for name, port in task.inputs.items():
        value = values.get(name, port.default)
        if value is None and draw and kind_of(port).drawn:
            missing.append(name)
            continue
        if value is None:
            raise UsageError(f"{task_name} needs {name}: {kind_of(port).describe(port)}")
        arrays[name] = kind_of(port).from_value(name, port, value)

    dimensions = _dimensions({n: port for n, port in task.inputs.items() if n in arrays}, arrays)
    seed = None
    for name in missing:  # several seeds of a task get the same value, as on the command line
        arrays[name], seed = kind_of(task.inputs[name]).draw(name, seed, dimensions.get(BATCH, 1), lambda line: None)
    for name, port in task.inputs.items():
        if arrays[name].ndim == len(port.shape) - 1 and kind_of(port).repeats:
            batch = dimensions.get(str(port.shape[0]), 1)
            arrays[name] = np.repeat(arrays[name][None], batch, axis=0)
    check(task.inputs, arrays)
    return arrays


def check(ports: Mapping[str, Port], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses arrays that do not match the ports exactly: dtype, shape, size of pictures, range of values.

    Raises:
        UsageError: names the port, its value and what is allowed.
    """
    for name, port in ports.items():
        if name not in arrays:
            raise UsageError(f"the input {name} is missing")
        array = arrays[name]
        if array.dtype != port.dtype:
            raise UsageError(f"{name} is {array.dtype}; it must be {port.dtype}")
        _check_shape(name, port, array)
        kind_of(port).check_array(name, port, array)
    for name, port in ports.items():
        dimensions = _dimensions({n: p for n, p in ports.items() if n != name}, arrays)
        for dimension, length in zip(port.shape, arrays[name].shape, strict=True):
            other = dimensions.get(dimension, length) if isinstance(dimension, str) else length
            if other != length:
                raise UsageError(f"{name} has {dimension} {length}; the other inputs have {other}")


def _dimensions(ports: Mapping[str, Port], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The length of each named dimension, from the first array of full rank."""
    found: dict[str, int] = {}
    for name, port in ports.items():
        if arrays[name].ndim == len(port.shape):
            for dimension, length in zip(port.shape, arrays[name].shape, strict=True):
                if isinstance(dimension, str):
                    found.setdefault(dimension, length)
    return found


def _check_shape(name: str, port: Port, array: np.ndarray) -> None:
    fits = array.ndim == len(port.shape) and all(
        isinstance(d, str) or d == n for d, n in zip(port.shape, array.shape, strict=True)
    )
    if not fits:
        hint = ""
        if array.ndim == len(port.shape) - 1 and port.shape and port.shape[0] == BATCH:
            no_batch = all(isinstance(d, str) or d == n for d, n in zip(port.shape[1:], array.shape, strict=True))
            hint = f": add the batch axis, {name}[None]" if no_batch else ""
            if not no_batch and port.shape[-1] == 1:
                hint = f": add the channel axis, {name}[..., None]"
        raise UsageError(f"{name} has the shape {shape_text(array.shape)}; it must be {shape_text(port.shape)}{hint}")
    if 0 in array.shape:
        dimension = port.shape[array.shape.index(0)]
        raise UsageError(f"{name} is empty ({dimension} is 0)")
