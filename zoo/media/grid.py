"""Pictures side by side in one, with white pixels between them, and each of them again out of the whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from ..errors import InvalidFileError

if TYPE_CHECKING:
    import numpy as np

GAP = 2  # pixels between the pictures of a grid


class Grid(msgspec.Struct, frozen=True):
    """How the pictures of a batch are arranged in one: row by row, with `GAP` white pixels between them.

    They may be enlarged (each pixel repeated) and have room for a caption above them.
    """

    count: int
    columns: int
    height: int  # of one picture before it is enlarged, pixels
    width: int
    gap: int = GAP
    scale: int = 1
    caption: int = 0  # height of the room for a caption, pixels

    @classmethod
    def of(cls, pictures: np.ndarray, columns: int | None = None, scale: int = 1, caption: int = 0) -> Grid:
        """The grid of a batch, uint8 [number, height, width, channels]; nearly square if no columns are given."""
        count, height, width, _ = pictures.shape
        columns = min(columns or math.ceil(math.sqrt(count)), count)
        return cls(count, columns, height, width, scale=scale, caption=caption)

    @property
    def rows(self) -> int:
        """The number of rows of pictures; the last may be shorter."""
        return -(-self.count // self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the whole, pixels."""
        down, across = self._pitch
        return self.rows * down - self.gap, self.columns * across - self.gap

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width of one picture as it is shown, pixels."""
        return self.height * self.scale, self.width * self.scale

    @property
    def _pitch(self) -> tuple[int, int]:
        """Pixels from one picture to the one below, and to the next one."""
        height, width = self.shown
        return self.caption + height + self.gap, width + self.gap

    def place(self, number: int) -> tuple[slice, slice]:
        """The slices of one picture's rows and columns of pixels."""
        (height, width), (down, across) = self.shown, self._pitch
        top = number // self.columns * down + self.caption
        left = number % self.columns * across
        return slice(top, top + height), slice(left, left + width)

    def join(self, pictures: np.ndarray) -> np.ndarray:
        """[number, height, width, channels] to one [height, width, channels]."""
        import numpy as np

        if self.count == 1 and not self.caption:  # each of many files
            return enlarge(pictures[0], self.scale)
        whole = np.full((*self.shape, pictures.shape[-1]), 255, np.uint8)
        for number, picture in enumerate(pictures):
            whole[self.place(number)] = enlarge(picture, self.scale)
        return whole

    def split(self, whole: np.ndarray) -> np.ndarray:
        """The pictures of a grid as a batch: the inverse of `join`. The whole must have this grid's `shape`."""
        import numpy as np

        return np.stack([shrink(whole[self.place(number)], self.scale) for number in range(self.count)])


def enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    """A picture [height, width, channels] with each pixel repeated `scale` times in both directions."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else picture


def shrink(picture: np.ndarray, scale: int) -> np.ndarray:
    """The inverse of `enlarge`.

    Raises:
        InvalidFileError: the pixels that `enlarge` made equal are not.
    """
    small = picture[::scale, ::scale]
    if scale > 1 and (enlarge(small, scale) != picture).any():
        raise InvalidFileError("its enlarged pixels are not uniform: another program changed it")
    return small
