"""Video: uint8 [batch, frames, height, width, channels]. Files are not supported yet, as for sound."""

from __future__ import annotations

from ..hookspecs import Port, Task, Tile
from .image import Pixels
from .kind import VALUES


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

    def pixels_a_step(self, tile: Tile) -> None:
        return None
