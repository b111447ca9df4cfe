"""Video: uint8 [batch, frames, height, width, channels]. Files are not supported yet, as for sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..hookspecs import Port, Task, Tile
from .given import numbers_of
from .image import Pixels
from .kind import VALUES

if TYPE_CHECKING:
    import numpy as np


class Video(Pixels):
    name = "video"
    shape = "[batch, frames, height, width, channels]"
    meaning = "video, 0 .. 255; only in Python"
    ranks = (5,)
    last = (1, 3)
    form = VALUES
    shown = "numbers"

    def option(self, name: str, port: Port, task: Task) -> None:
        return None

    def from_request(self, name: str, port: Port, value: Any) -> Any:
        return numbers_of(name, value, port.dtype)

    def to_answer(self, port: Port, array: np.ndarray) -> Any:
        return array.tolist()

    def schema(self, port: Port) -> dict[str, Any]:
        return {"type": "array"}

    def pixels_a_step(self, tile: Tile) -> None:
        return None
