"""Counts: a number of iterations, such as a sampler's steps, int64 []."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..hookspecs import Port, Task
from .integers import Integers
from .kind import Option

if TYPE_CHECKING:
    import numpy as np


class Count(Integers):
    name = "count"
    shape = "[]"
    ranks = (0,)
    meaning = "a number of steps"
    repeats = True
    number = int
    asks = "N"
    field = "number"

    def option(self, name: str, port: Port, task: Task) -> Option:
        return Option(name, self.help(name, port, self.range_text(port)), type=int)

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        """A small number: a sampler's default number of steps would make export and every later check slow."""
        import numpy as np

        least = 1 if port.minimum is None else int(port.minimum)
        most = least + 4 if port.maximum is None else int(port.maximum)
        return rng.integers(least, min(most, least + 4), shape, dtype=np.int64, endpoint=True)


def count_of(ports: Mapping[str, Port]) -> str | None:
    """The name of the port with a task's number of iterations; None if the task has none."""
    return next((name for name, port in ports.items() if port.kind == Count.name), None)
