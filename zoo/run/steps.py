"""A task's loop, step by step, by the graphs of its parts (docs/decisions/0006-host-loop.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..hookspecs import Task

if TYPE_CHECKING:
    import numpy as np

    from .model import Model

Arrays = dict[str, Any]


class Parts(NamedTuple):
    """The tasks that start, do and end the loop of a task."""

    begin: str
    step: str
    end: str


@dataclass(frozen=True)
class Step:
    """What is there after a step."""

    number: int  # 0: before the first one
    of: int
    x: np.ndarray
    x0: np.ndarray | None  # what `x` will be at the end, as the step predicts it; None before the first


def parts_of(tasks: Mapping[str, Task], name: str) -> Parts | None:
    """The parts of a task, if the model has all of them, and they give all that it gives."""
    parts = Parts(f"{name}_begin", f"{name}_step", f"{name}_end")
    found = all(part in tasks and tasks[part].part_of == name for part in parts)
    return parts if found and tasks[parts.end].outputs.keys() == tasks[name].outputs.keys() else None


def begun(model: Model, parts: Parts, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """What the loop starts from: `x`, `previous_x0`, and `plan`, a row for each step."""
    return model.run(parts.begin, **_only(model, parts.begin, inputs))


def steps(model: Model, parts: Parts, inputs: Mapping[str, np.ndarray], start: Arrays | None = None) -> Iterator[Step]:
    """The state before the first step, and after each.

    Args:
        inputs: of the whole task, complete.
        start: what `begun` gives.
    """
    import numpy as np

    state = start or begun(model, parts, inputs)
    rows = [row for row in state["plan"] if row.any()]
    x, x0 = state["x"], state["previous_x0"]
    yield Step(0, len(rows), x, None)
    for index, row in enumerate(rows):
        known = {**state, **inputs, "x": x, "previous_x0": x0, "row": row, "index": np.array(index)}
        outputs = model.run(parts.step, **_only(model, parts.step, known))
        x, x0 = outputs["next_x"], outputs["x0"]
        yield Step(index + 1, len(rows), x, x0[:, : x.shape[1]])  # some samplers remember more, in further channels


def ended(model: Model, parts: Parts, x: np.ndarray) -> Arrays:
    """The outputs of the task for what its loop ended with, or for what it would end with."""
    return model.run(parts.end, x=x)


def _only(model: Model, task: str, known: Mapping[str, Any]) -> Arrays:
    """The values that a task takes."""
    return {name: known[name] for name in model.manifest.tasks[task].inputs if name in known}
