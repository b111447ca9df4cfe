"""Calls that somebody watches: run step by step, with a preview now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ZooError
from ..steps import Parts, ended, steps

if TYPE_CHECKING:
    import numpy as np

    from ..model import Model


@dataclass(frozen=True)
class Progress:
    """A step that is done."""

    step: int  # from 1
    steps: int
    preview: dict[str, np.ndarray] | None  # what the task is expected to give, if it was time for a look


@dataclass(frozen=True)
class Watch:
    """Who is told of each step.

    Args:
        tell: called in the worker's thread.
        previews: how many there are, at equal distances.
    """

    tell: Callable[[Progress], object]
    previews: int


def run_watched(
    model: Model, parts: Parts, inputs: Mapping[str, np.ndarray], watch: Watch, is_wanted: Callable[[], bool]
) -> dict[str, np.ndarray]:
    """The outputs of a task, run step by step; ends between two steps when nobody wants it any more.

    Raises:
        ZooError: nobody wants it, or a graph failed.
    """
    x = None
    for step in steps(model, parts, inputs):
        if not is_wanted():
            raise ZooError("nobody waits for it any more")
        x = step.x
        if step.x0 is not None:
            look = step.number in looks(step.of, watch.previews)
            watch.tell(Progress(step.number, step.of, ended(model, parts, step.x0) if look else None))
    assert x is not None
    return dict(ended(model, parts, x))


def looks(steps: int, previews: int) -> set[int]:
    """The steps after which there is a preview; never the last one, whose picture is the result."""
    return {round(look * steps / (previews + 1)) for look in range(1, previews + 1)} - {0, steps}
