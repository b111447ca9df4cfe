"""Sheets: several pictures as one, for looking at: enlarged, in rows and columns, each with a caption."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError
from .grid import Grid, enlarge
from .pictures import MAX_PIXELS

if TYPE_CHECKING:
    import numpy as np

MAX_SCALE = 64
LINE = 12  # pixels from one line of a caption to the next
ROOM = 112  # pixels that a picture with a caption is wide, at least


@dataclass(frozen=True)
class View:
    """How pictures are shown: enlarged, in how many columns, with which captions."""

    scale: int = 1  # 1 .. MAX_SCALE: each pixel becomes this many in both directions
    columns: int | None = None  # None: nearly square
    captions: tuple[tuple[str, ...], ...] = ()  # the lines above each picture

    def grid(self, pictures: np.ndarray) -> Grid:
        """The grid of a batch, uint8 [number, height, width, channels].

        Raises:
            UsageError: it would be larger than zoo reads.
        """
        lines = max(map(len, self.captions), default=0)
        grid = Grid.of(pictures, self.columns, self.scale, lines * LINE + 2 if lines else 0)
        height, width = grid.shape
        if height * width > MAX_PIXELS and (self.scale > 1 or lines):
            size = f"{width}x{height}, {height * width:,} pixels"
            raise UsageError(f"enlarged by {self.scale}, the pictures are {size}; at most {MAX_PIXELS:,} are allowed")
        return grid

    def draw(self, pictures: np.ndarray) -> np.ndarray:
        """The pictures as one, uint8 [height, width, channels]."""
        grid = self.grid(pictures)
        whole = grid.join(pictures)
        return _write_captions(whole, grid, self.captions) if self.captions else whole


def readable_scale(width: int) -> int:
    """The scale at which pictures of this width have room for a caption."""
    return min(MAX_SCALE, max(1, math.ceil(ROOM / width)))


def interleave(batches: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Batches of equal length as one, for a grid with that number of columns: under each row of the first, that of the
    second, and so on; the last row is filled with white pictures."""
    import numpy as np

    rows = [batch[start : start + columns] for start in range(0, len(batches[0]), columns) for batch in batches]
    return np.concatenate([
        np.concatenate([row, np.full((columns - len(row), *row.shape[1:]), 255, np.uint8)]) for row in rows
    ])  # fmt: skip


def alike(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Batches of pictures with one size and one number of channels: smaller ones are enlarged by a whole number and put
    on the middle of white, grey ones repeated in three channels if any has colour."""
    import numpy as np

    height, width, channels = (max(batch.shape[axis] for batch in batches) for axis in (1, 2, 3))

    def fitted(picture: np.ndarray) -> np.ndarray:
        scale = min(height // picture.shape[0], width // picture.shape[1])
        large = enlarge(picture, scale)
        whole = np.full((height, width, channels), 255, np.uint8)
        top, left = (height - large.shape[0]) // 2, (width - large.shape[1]) // 2
        whole[top : top + large.shape[0], left : left + large.shape[1]] = large
        return whole

    return [np.stack([fitted(picture) for picture in batch]) for batch in batches]


def _write_captions(whole: np.ndarray, grid: Grid, captions: Sequence[Sequence[str]]) -> np.ndarray:
    """The whole with the lines of each caption above its picture; a line that is too long is cut."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(whole[..., 0] if whole.shape[-1] == 1 else whole)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    for number, lines in enumerate(captions):
        down, across = grid.place(number)
        for row, line in enumerate(lines):
            place = (across.start, down.start - grid.caption + row * LINE)
            draw.text(place, _cut(line, font.getlength, grid.shown[1]), fill="black", font=font)
    return np.asarray(image).reshape(whole.shape)


def _cut(line: str, length: Callable[[str], float], room: int) -> str:
    """The line, or as much of it as fits into so many pixels, with an ellipsis."""
    if length(line) <= room:
        return line
    while line and length(line + "…") > room:
        line = line[:-1]
    return line + "…"
