"""What kinds of integers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..hookspecs import Port
from .kind import Kind

if TYPE_CHECKING:
    import numpy as np


class Integers(Kind):
    """int64 arrays. Not a kind itself."""

    dtype = "int64"
    codec = "integers"

    def top(self, port: Port) -> int:
        """The largest value in a golden case if the port does not state a maximum."""
        return 1

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        import numpy as np

        high = self.top(port) if port.maximum is None else port.maximum
        return rng.integers(int(port.minimum or 0), int(high), shape, dtype=np.int64, endpoint=True)
