"""Pictures: uint8 [batch, height, width, channels] in a graph, PNG and other formats in files."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import InvalidFileError
from ..hookspecs import Port, Task, Tile, Tolerance
from ..media.animation import is_animated_png
from ..media.files import InputFile, read_input
from ..media.grid import Grid, shrink
from ..media.pictures import (
    PICTURE_ENDINGS,
    TooManyPixels,
    check_header,
    check_picture_size,
    decode_png,
    encode_png,
    is_png,
    read_pictures,
)
from ..media.sheet import MAX_SCALE, View
from .given import FILE_SCHEMA, files_of, numbers_of, pictures
from .kind import MAX_BATCH, Form, Kind, Option, Read, RealInputs, Source, percent

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image


SHOWN_SIDE = 112
"""Pixels of the longer side that a picture has at least, more or less, when a notebook shows it."""

# Created here, before any thread: msgspec crashes if several threads are the first to decode a type.
_GRIDS = msgspec.json.Decoder(Grid)


class Pictures(Form):
    """A batch as one PNG, in a grid, with its recipe in a text chunk."""

    name = "pictures"
    suffixes = (".png",)
    shared = False
    viewable = True
    media_type = "image/png"

    def __init__(self, view: View | None = None):
        self.view = view or View()

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        return encode_png(self.view.draw(batch), recipe)

    def layout(self, batch: np.ndarray) -> Grid:
        return self.view.grid(batch)

    def viewed(self, view: View) -> Pictures:
        return Pictures(view)

    def count(self, layout: Any, batch: np.ndarray) -> int:
        return _GRIDS.decode(msgspec.json.encode(layout)).count

    def reads(self, file: InputFile) -> bool:
        return is_png(file) and not is_animated_png(file.data)

    def recipe_of(self, file: InputFile) -> str | None:
        return decode_png(file)[1]

    def decode_batch(self, file: InputFile, layout: Any, index: int | None) -> np.ndarray:
        return self.split(decode_png(file)[0], layout, index)

    def split(self, whole: np.ndarray, layout: Any, index: int | None) -> np.ndarray:
        """The pictures that `encode_batch` joined, uint8 [number, height, width, channels]; see `decode_batch`."""
        grid = _GRIDS.decode(msgspec.json.encode(layout))
        numbers = (grid.count, grid.columns, grid.height, grid.width)
        numbers_fit = min(numbers) > 0 and grid.count <= MAX_BATCH and min(grid.gap, grid.caption) >= 0
        sound = numbers_fit and 1 <= grid.scale <= MAX_SCALE
        if sound and index is None and whole.shape[:2] == grid.shape:
            return grid.split(whole)
        if sound and index in range(grid.count) and whole.shape[:2] == grid.shown:
            return shrink(whole, grid.scale)[None]
        raise InvalidFileError("the picture's size does not match its recipe: another program changed it")


PICTURES = Pictures()


class Pixels(Kind):
    """What pictures and masks have in common. Not a kind itself."""

    dtype = "uint8"
    ranks = (4,)
    fields = ("minimum_size", "maximum_pixels")
    follows = True
    aligned = True
    form = PICTURES
    codec = "pixels"
    shown = "pictures"
    marks = False  # its pictures say which pixels to work on

    def limits(self, port: Port) -> Iterator[str]:
        if port.minimum_size:
            yield f"{port.minimum_size}x{port.minimum_size} or more"
        if port.maximum_pixels:
            yield f"at most {port.maximum_pixels:,} pixels"
        yield from super().limits(port)

    def from_value(self, name: str, port: Port, value: Any) -> np.ndarray:
        import numpy as np

        if isinstance(value, np.ndarray) and value.ndim == 4 and value.dtype == np.uint8:
            return value  # the usual batch, without a detour
        return pictures(name, port, value, mask=self.marks)

    def annotation(self, port: Port) -> Any:
        import numpy as np
        import PIL.Image

        one = str | Path | PIL.Image.Image | np.ndarray
        return one | Sequence[one]

    def images(self, array: np.ndarray) -> list[PIL.Image.Image]:
        from PIL import Image

        return [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in array]

    def png(self, array: np.ndarray) -> bytes:
        """The batch in a grid. Small pictures are enlarged by a whole factor, so that their pixels can be seen."""
        factor = max(1, SHOWN_SIDE // max(array.shape[1:3]))
        return encode_png(Grid.of(array).join(array).repeat(factor, axis=0).repeat(factor, axis=1))

    def from_request(self, name: str, port: Port, value: Any) -> Any:
        """A picture's file, as bytes or in base64, or several of one size; else an array, as nested lists."""
        files = files_of(name, value)
        if files is None:
            return numbers_of(name, value, port.dtype)
        return read_pictures(files, name, port, lambda line: None, mask=self.marks)

    def to_answer(self, port: Port, array: np.ndarray) -> Any:
        return [b64encode(encode_png(picture)).decode() for picture in array]

    def schema(self, port: Port) -> dict[str, Any]:
        return FILE_SCHEMA

    def check_array(self, name: str, port: Port, array: np.ndarray) -> None:
        height, width = array.shape[-3:-1]
        check_picture_size(name, port, height, width)
        super().check_array(name, port, array)

    def check_lengths(self, name: str, port: Port, lengths: Sequence[int]) -> None:
        check_picture_size(name, port, *lengths[-3:-1])

    def resized(self, port: Port, height: int, width: int) -> Port:
        return msgspec.structs.replace(port, shape=(port.shape[0], height, width, port.shape[3]))

    def read(self, given: Any, source: Source) -> Read:
        files = [read_input(path) for path in given]
        try:
            batch = read_pictures(files, source.name, source.port, source.note, whole=source.whole)
        except TooManyPixels as e:
            if source.task.tile is None:
                raise
            raise InvalidFileError(f"{e}; --tile PIXELS works on larger ones in tiles of that side length") from None
        return Read({source.name: batch}, files)

    def look(self, file: InputFile, port: Port) -> tuple[int, ...]:
        return check_header(file, port)

    def compare(
        self, port: Port, expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance
    ) -> tuple[float, bool, str]:
        import numpy as np

        levels = np.abs(actual.astype(np.int16) - expected.astype(np.int16))
        worst, near = int(levels.max()), float((levels <= tolerance.pixel_levels).mean())
        within = near >= tolerance.pixel_share and worst <= tolerance.pixel_levels_worst
        unit = "level" if tolerance.pixel_levels == 1 else "levels"
        return worst, within, f"{percent(near)} within {tolerance.pixel_levels} {unit}, worst {worst}"

    def pixels_a_step(self, tile: Tile) -> int | None:
        return 1

    def host_sample(self, port: Port) -> str:
        return "picture.png"

    def dimensions(self, port: Port, height: int, width: int) -> dict[str, int]:
        smallest = port.minimum_size or 1
        wanted = [
            max(smallest, size) if isinstance(dim, str) else dim
            for dim, size in zip(port.shape[-3:-1], (height, width), strict=True)
        ]
        if port.maximum_pixels and wanted[0] * wanted[1] > port.maximum_pixels:
            wanted = [smallest, smallest]
        return {dim: size for dim, size in zip(port.shape[-3:-1], wanted, strict=True) if isinstance(dim, str)}

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> np.ndarray | None:
        return _shrunk(inputs.pictures, port.shape)


class Image(Pixels):
    name = "image"
    shape = "[batch, height, width, channels]"
    last = (1, 3)
    meaning = "1 (grey) or 3 (RGB) channels, 0 .. 255; all of a batch have the same size"
    fed = False
    field = "picture"
    sample = "picture.png"

    def option(self, name: str, port: Port, task: Task) -> Option:
        limits = "PNG, JPEG, WebP, GIF, BMP, or - for stdin"
        if (port.minimum_size or 1) > 1:
            limits = f"at least {port.minimum_size} pixels per side; {limits}"
        help = self.help(name, port, limits)
        endings = (*PICTURE_ENDINGS, ".npz", ".npy")  # single ones, and many in an array
        return Option(
            name,
            help,
            metavar="FILE",
            multiple=True,
            file=True,
            endings=endings,
            folder=PICTURE_ENDINGS,
            positional=True,
        )

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        import numpy as np

        from ..media.drawings import drawing

        batch, height, width, channels = shape
        return np.stack([drawing(height, width, channels, rng) for _ in range(batch)])


def channels_of(ports: Iterable[Port]) -> int | None:
    """1 or 3: the channels of the first port that is an image; None if there is none."""
    return next((int(port.shape[-1]) for port in ports if port.kind == Image.name), None)


def images_of(ports: Mapping[str, Port]) -> list[str]:
    """The names of the ports that are images."""
    return [name for name, port in ports.items() if port.kind == Image.name]


def first_image(ports: Iterable[Port]) -> Port | None:
    """The first port that is an image."""
    return next((port for port in ports if port.kind == Image.name), None)


def _shrunk(pictures: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray | None:
    """Pictures in a port's fixed size, each pixel the mean of a block; None if no block size fits."""
    sizes = zip(pictures.shape[1:3], shape[1:3], strict=True)
    height, width = (have if isinstance(want, str) else want for have, want in sizes)
    number, rows, columns, channels = pictures.shape
    if rows % height or columns % width:
        return None
    blocks = pictures.reshape(number, height, rows // height, width, columns // width, channels)
    return blocks.mean(axis=(2, 4)).round().astype(pictures.dtype)
