"""Checks what a graph gave: compares a task's outputs with its ports.

A manifest only says what a graph gives; the graph may give something else. This is found here, in one line, and not
later where a picture is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import InvalidFileError
from ..hookspecs import Port, Task
from ..text import safe_text
from .kind import BATCH, shape_text
from .kinds import kind_of

if TYPE_CHECKING:
    import numpy as np


def check_outputs(
    task_name: str, task: Task, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> None:
    """Refuses outputs that do not match the task's ports: dtype, rank, fixed lengths, batch, range of integers, empty
    arrays.

    Raises:
        InvalidFileError: names the task, the output, what it is and what its port says.
    """
    lengths = [array.shape[0] for name, array in inputs.items() if _has_batch(task.inputs[name], array)]
    lengths += [array.shape[0] for name, array in outputs.items() if _has_batch(task.outputs[name], array)]
    for name, port in task.outputs.items():
        if name not in outputs:
            raise InvalidFileError(f"{safe_text(task_name)} does not give its output {safe_text(name)}")
        if wrong := _wrong(port, outputs[name], lengths[0] if lengths else 0):
            raise InvalidFileError(
                f"the graph of {safe_text(task_name)} does not match its manifest: {safe_text(name)} {wrong}"
            )


def _has_batch(port: Port, array: np.ndarray) -> bool:
    return port.shape[:1] == (BATCH,) and array.ndim > 0


def _wrong(port: Port, array: np.ndarray, batch: int) -> str:
    """What is wrong with an array, as the end of a sentence; empty if nothing is."""
    if array.dtype != port.dtype:
        return f"is {array.dtype}; it must be {port.dtype}"
    shape = tuple(batch if d == BATCH and i == 0 else d for i, d in enumerate(port.shape))
    fits = array.ndim == len(shape) and all(isinstance(d, str) or d == n for d, n in zip(shape, array.shape))
    if not fits or 0 in array.shape:
        empty = " and nothing may be 0" if fits else ""
        return f"has the shape {shape_text(array.shape)}; it must be {shape_text(shape)}{empty}"
    if array.dtype.kind == "i":
        low, high = port.minimum, kind_of(port).bounds(port)[1]
        if (low is not None and array.min() < low) or (high is not None and array.max() > high):
            return f"has values from {array.min()} to {array.max()}; they must be {kind_of(port).range_text(port)}"
    return ""
