"""Moving pictures: uint8 [batch, frames, height, width, channels]. No file is read or written yet, as with sound."""

from __future__ import annotations

from ..hookspecs import Port, Task, Tile
from .image import Pixels
from .kind import VALUES


class Video(Pixels):
    name = "video"
    shape = "[batch, frames, height, width, channels]"
    meaning = "moving pictures, 0 .. 255; in Python only"
    ranks = (5,)
    last = (1, 3)
    form = VALUES
    shown = "numbers"

    def option(self, name: str, port: Port, task: Task) -> None:
        return None

    def pixels_a_step(self, tile: Tile) -> None:
        return None
