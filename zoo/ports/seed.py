"""Seeds: what a picture's noise is computed from, int64 [batch], 0 .. 2^53 - 1, one per picture."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..hookspecs import Port, Task
from ..media.files import Note
from ..text import safe_text
from .integers import Integers
from .kind import Number, Option, RealInputs

if TYPE_CHECKING:
    import numpy as np

MAX_SEED = 2**53 - 1
"""The largest integer that every host language represents exactly."""


class Seed(Integers):
    name = "seed"
    shape = "[batch]"
    ranks = (1,)
    meaning = "0 .. 2^53 - 1, one per picture"
    repeats = True
    drawn = True
    asks = "N"
    field = "seed"

    def bounds(self, port: Port) -> tuple[Number | None, Number | None]:
        low, high = port.minimum, port.maximum
        return (0 if low is None else low), (MAX_SEED if high is None else high)

    def problem(self, port: Port) -> str:
        low, high = self.bounds(port)
        if wrong := super().problem(port):
            return wrong
        inside = (low or 0) >= 0 and (high or 0) <= MAX_SEED
        return "" if inside else f"a seed is 0 .. {MAX_SEED}, not {self.range_text(port)}"

    def option(self, name: str, port: Port, task: Task) -> Option:
        # Not the port's own summary, which describes one seed per picture: on a command line, one seed is for the
        # batch.
        help = (
            f"{name.capitalize()} of the first picture; each further picture adds one  [default: random, and printed]"
        )
        return Option(name, help, type=int)

    def draw(self, name: str, given: int | list[int] | None, batch: int, note: Note) -> tuple[np.ndarray, int | None]:
        """Seeds S, S + 1, …; S is drawn and reported if none is given. A list has one seed per picture, and no S."""
        import numpy as np

        if isinstance(given, list):
            if wrong := [seed for seed in given if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED]:
                raise UsageError(f"{name} is {safe_text(wrong[0])[:80]}; it must be 0 .. {MAX_SEED}")
            if len(given) != batch:
                raise UsageError(f"{len(given)} values of {name} for {batch} pictures")
            return np.array(given, np.int64), None
        seed = given
        if seed is None:
            seed = secrets.randbelow(2**31)
            note(f"seed {seed}")
        if not 0 <= seed <= MAX_SEED - (batch - 1):
            raise UsageError(f"{name} is {seed}; it must be 0 .. {MAX_SEED - (batch - 1)}")
        return np.arange(seed, seed + batch, dtype=np.int64), seed

    def annotation(self, port: Port) -> Any:
        return int | Sequence[int]

    def top(self, port: Port) -> int:
        return MAX_SEED

    def host_sample(self, port: Port) -> str:
        return "7" if port.maximum is None or port.maximum >= 7 else "0"

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> np.ndarray:
        import numpy as np

        return np.arange(len(inputs.pictures)) + inputs.first


def seeds_of(ports: Mapping[str, Port]) -> list[str]:
    """The names of the ports that are seeds."""
    return [name for name, port in ports.items() if port.kind == Seed.name]
