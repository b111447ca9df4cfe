"""Maps: a number for each position of a picture, as heat maps and depth, or several, as logits.

float32 [batch, height, width] or [batch, height, width, channels]; .npy in files, with the recipe in its header, and
colours for looking at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..hookspecs import Port
from ..media.files import InputFile
from ..media.grid import Grid
from ..media.pictures import encode_png
from ..media.tensors import NPY_MAGIC, encode_npy, npy_metadata, read_npy
from .image import SHOWN_SIDE
from .kind import Form, counted
from .tensor import Tensor

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""From the smallest value of a map to its largest: five of matplotlib's viridis. `zoo play` has the same."""


def colours(maps: np.ndarray) -> np.ndarray:
    """Maps as pictures, uint8 [batch, height, width, 3]; several channels side by side, all on one scale.

    NaN and infinity are drawn as the smallest value.
    """
    import numpy as np

    if maps.ndim == 4:  # [batch, height, width, channels] -> [batch, height, channels * width]
        maps = maps.transpose(0, 1, 3, 2).reshape(*maps.shape[:2], -1)
    finite = np.isfinite(maps)
    low, high = (maps[finite].min(), maps[finite].max()) if finite.any() else (0.0, 0.0)
    share = np.where(finite, maps.astype(np.float64) - low, 0) / ((float(high) - float(low)) or 1.0)
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(share, stops, values) for values in zip(*COLOURS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


class MapFile(Form):
    """A batch of maps as one .npy, with its recipe in the header; as .png it is only for looking at."""

    name = "maps"
    suffixes = (".npy", ".png")
    shared = False

    def named(self, suffix: str) -> Form:
        return MAP_PICTURE if suffix == ".png" else self

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        return encode_npy(batch, recipe)

    def layout(self, batch: np.ndarray) -> int:
        return len(batch)

    def count(self, layout: Any, batch: np.ndarray) -> int:
        return counted(layout, "maps")

    def reads(self, file: InputFile) -> bool:
        return file.data.startswith(NPY_MAGIC)

    def recipe_of(self, file: InputFile) -> str | None:
        return npy_metadata(file)

    def decode_batch(self, file: InputFile, layout: Any, index: int | None) -> np.ndarray:
        return read_npy(file)


class MapPicture(Form):
    """A batch of maps as one PNG, in colours. It has lost the numbers, so it has no recipe."""

    name = "maps"
    suffixes = (".png",)
    shared = False

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        return _png(batch)


MAP_FILE, MAP_PICTURE = MapFile(), MapPicture()


class Map(Tensor):
    name = "map"
    shape = "[batch, height, width]"
    meaning = "a number for each position: heat maps, depth; several, as logits, with a last dimension; .npy in files"
    ranks = (3, 4)
    fields = ()
    follows = True
    form = MAP_FILE
    shown = "maps"
    sample = "map.npy"

    def images(self, array: np.ndarray) -> list[PIL.Image.Image]:
        from PIL import Image

        return [Image.fromarray(picture) for picture in colours(array)]

    def png(self, array: np.ndarray) -> bytes:
        """The batch in a grid; small maps are enlarged by a whole factor."""
        return _png(array, max(1, SHOWN_SIDE // max(array.shape[1:3])))

    def host_sample(self, port: Port) -> str:
        return "map.npy"


def _png(maps: np.ndarray, scale: int = 1) -> bytes:
    pictures = colours(maps)
    return encode_png(Grid.of(pictures, scale=scale).join(pictures))
