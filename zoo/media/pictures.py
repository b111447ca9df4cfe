"""Pictures: files to uint8 [height, width, channels] arrays, and back to PNG. The only place that knows pixel ranges.

A stranger's picture is read with care: its first bytes determine the format, and only that decoder is used; its size is
read from the header, and refused if too large, before a pixel is decoded; and any decoder's error becomes one line.
Each change to a picture (flattened, cropped, scaled, converted to grey) is reported in one line, through `note`.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import InvalidFileError, UsageError
from ..hookspecs import Port
from ..text import safe_text
from .files import InputFile, Note, shown_name

if TYPE_CHECKING:
    import numpy as np


MAX_PIXELS = 40_000_000
"""The limit for a picture whose port does not state `maximum_pixels`."""
GAP = 2  # pixels between the pictures of a grid
METADATA_KEY = "zoo"
MAX_METADATA = 1 << 20

_PNG = b"\x89PNG\r\n\x1a\n"
_DECODERS = (  # format, first bytes, module, class; TIFF, EPS, PSD and the rest are too large an attack surface
    ("PNG", _PNG, "PngImagePlugin", "PngImageFile"),
    ("JPEG", b"\xff\xd8\xff", "JpegImagePlugin", "JpegImageFile"),
    ("GIF", b"GIF8", "GifImagePlugin", "GifImageFile"),
    ("BMP", b"BM", "BmpImagePlugin", "BmpImageFile"),
    ("WebP", b"RIFF", "WebPImagePlugin", "WebPImageFile"),
)


# --- Pictures in ------------------------------------------------------------------------------------------------------


def read_pictures(files: Sequence[InputFile], name: str, port: Port, note: Note, *, smooth: bool = True) -> np.ndarray:
    """Pictures as a batch, uint8 [number, height, width, channels], as an `image` or `mask` port needs them.

    Args:
        smooth: scaling may give values between those of the picture; not for masks.

    Raises:
        InvalidFileError: a file that is not a picture, is cut short, too small, too large, or differs in size from the
            first.
    """
    import numpy as np

    pictures = [decode_picture(file, name, port, note, smooth=smooth) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            first, other = (f"{p.shape[1]}x{p.shape[0]}" for p in (pictures[0], picture))
            raise InvalidFileError(
                f"{shown_name(files[0].name)} is {first} and {shown_name(file.name)} is {other} pixels;"
                " all pictures of one call must have the same size"
            )
    return np.stack(pictures)


def upright_size(file: InputFile) -> tuple[int, int]:
    """Width and height from the header, as a viewer would show the picture."""
    image = _open(file)
    lies = image.getexif().get(0x0112, 1) >= 5  # the EXIF orientations that swap width and height
    return (image.height, image.width) if lies else (image.width, image.height)


def decode_picture(file: InputFile, name: str, port: Port, note: Note, *, smooth: bool = True) -> np.ndarray:
    """One picture, uint8 [height, width, channels]: upright (EXIF), on white, with the port's channels and fixed size.

    The first frame of an animation; 16 bits cut to 8. If the port fixes height and width, a picture of another size is
    cropped at the centre to that aspect ratio and scaled (Lanczos).
    """
    import numpy as np
    from PIL import ImageOps

    shown = shown_name(file.name)
    image = _open(file)
    _check_size(shown, port, image.height, image.width)
    try:
        if getattr(image, "is_animated", False):
            note(f"{shown} is animated: using its first frame")
            image.seek(0)
        if image.format == "PNG" and file.data[24] == 16:  # bit depth
            note(f"{shown} has 16 bits per channel: using the upper 8")
        image.load()
        image = ImageOps.exif_transpose(image)
        image = _on_white(image, shown, note)
        image = _channels(image, int(port.shape[-1]), shown, note)
        image = _fixed_size(image, port, shown, note, smooth)
        pixels = np.asarray(image, dtype=np.uint8)
    except Exception as e:  # the decoders of five formats raise anything
        reason = safe_text(str(e) or type(e).__name__).splitlines()[0]
        raise InvalidFileError(f"{shown} cannot be decoded: {reason[:200]}") from None
    return pixels.reshape(*pixels.shape[:2], -1)


def _open(file: InputFile) -> Any:
    """The picture with its header read, by the one decoder that its first bytes select."""
    shown = shown_name(file.name)
    for kind, magic, module, class_name in _DECODERS:
        if file.data.startswith(magic) and (kind != "WebP" or file.data[8:12] == b"WEBP"):
            decoder = getattr(importlib.import_module(f"PIL.{module}"), class_name)
            try:
                return decoder(io.BytesIO(file.data))
            except Exception as e:
                reason = safe_text(str(e) or type(e).__name__).splitlines()[0]
                raise InvalidFileError(f"{shown} is a damaged {kind} file: {reason[:200]}") from None
    raise InvalidFileError(f"{shown} is not a picture that zoo can read: PNG, JPEG, WebP, GIF or BMP")


def _check_size(shown: str, port: Port, height: int, width: int) -> None:
    """Checks the size before a pixel is decoded. A picture to be scaled may have any size up to the general limit."""
    if height * width > MAX_PIXELS:
        pixels = f"{height * width:,} pixels"
        raise InvalidFileError(f"{shown} is {width}x{height}, {pixels}; at most {MAX_PIXELS:,} are allowed")
    if not all(isinstance(d, int) for d in port.shape[1:3]):
        try:
            check_picture_size(shown, port, height, width)
        except UsageError as e:
            raise InvalidFileError(str(e)) from None


def _on_white(image: Any, shown: str, note: Note) -> Any:
    """The picture in mode L or RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey
        import numpy as np

        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        grey = image.mode in ("LA", "La", "L", "1")
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] < 255:
            note(f"{shown} is partly transparent: put on white")
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return rgba.convert("L" if grey else "RGB")
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.mode not in ("RGB", "P"):
        note(f"{shown} is {image.mode}: converted to RGB")
    return image.convert("RGB")


def _channels(image: Any, channels: int, shown: str, note: Note) -> Any:
    """L for one channel, RGB for three; notes if colour is lost or grey is repeated."""
    if channels == 1 and image.mode == "RGB":
        red, green, blue = image.split()
        if red.tobytes() != green.tobytes() or red.tobytes() != blue.tobytes():
            note(f"{shown} is in colour: converted to grey")
        return image.convert("L")
    if channels == 3 and image.mode == "L":
        note(f"{shown} is grey: repeated in three channels")
        return image.convert("RGB")
    return image


def _fixed_size(image: Any, port: Port, shown: str, note: Note, smooth: bool) -> Any:
    height, width = port.shape[1:3]
    if not (isinstance(height, int) and isinstance(width, int)) or image.size == (width, height):
        return image
    from PIL import Image, ImageOps

    note(f"{shown} is {image.width}x{image.height}: cropped at the centre and scaled to {width}x{height}")
    method = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return ImageOps.fit(image, (width, height), method)


# --- Pictures out -----------------------------------------------------------------------------------------------------


class Grid(msgspec.Struct, frozen=True):
    """How the pictures of a batch are arranged in one: row by row, with `GAP` white pixels between them."""

    count: int
    columns: int
    height: int  # of one picture, pixels
    width: int
    gap: int = GAP

    @classmethod
    def of(cls, pictures: np.ndarray) -> Grid:
        """The nearly square grid of a batch, uint8 [number, height, width, channels]."""
        count, height, width, _ = pictures.shape
        return cls(count, math.ceil(math.sqrt(count)), height, width)

    @property
    def rows(self) -> int:
        """The number of rows of pictures; the last may be shorter."""
        return -(-self.count // self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the whole, pixels."""
        return self.rows * (self.height + self.gap) - self.gap, self.columns * (self.width + self.gap) - self.gap

    def place(self, number: int) -> tuple[slice, slice]:
        """The slices of one picture's rows and columns of pixels."""
        top = number // self.columns * (self.height + self.gap)
        left = number % self.columns * (self.width + self.gap)
        return slice(top, top + self.height), slice(left, left + self.width)

    def join(self, pictures: np.ndarray) -> np.ndarray:
        """[number, height, width, channels] to one [height, width, channels]."""
        import numpy as np

        whole = np.full((*self.shape, pictures.shape[-1]), 255, np.uint8)
        for number, picture in enumerate(pictures):
            whole[self.place(number)] = picture
        return whole

    def split(self, whole: np.ndarray) -> np.ndarray:
        """The pictures of a grid as a batch: the inverse of `join`. The whole must have this grid's `shape`."""
        import numpy as np

        return np.stack([whole[self.place(number)] for number in range(self.count)])


def encode_png(pixels: np.ndarray, metadata: str | None = None) -> bytes:
    """uint8 [height, width, 1 or 3] as PNG, with one text chunk `zoo` (iTXt, UTF-8) for `metadata`."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    if metadata:
        info.add_itxt(METADATA_KEY, metadata)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def is_png(file: InputFile) -> bool:
    """Whether the first bytes are those of a PNG."""
    return file.data.startswith(_PNG)


def decode_png(file: InputFile) -> tuple[np.ndarray, str | None]:
    """The pixels of a PNG that `encode_png` wrote, exactly, [height, width, 1 or 3], and its metadata."""
    import numpy as np

    shown = shown_name(file.name)
    image = _open(file)
    if image.format != "PNG" or image.mode not in ("L", "RGB"):
        raise InvalidFileError(f"{shown} is not a grey or RGB PNG: zoo did not write it, or another program changed it")
    if image.height * image.width > MAX_PIXELS:
        raise InvalidFileError(f"{shown} has {image.height * image.width:,} pixels; at most {MAX_PIXELS:,} are allowed")
    try:
        text = image.text.get(METADATA_KEY)
        pixels = np.asarray(image, dtype=np.uint8)
    except Exception as e:
        raise InvalidFileError(f"{shown} cannot be decoded: {safe_text(e).splitlines()[0][:200]}") from None
    return pixels.reshape(*pixels.shape[:2], -1), str(text) if text else None


def check_picture_size(name: str, port: Port, height: int, width: int) -> None:
    """Refuses a picture smaller or larger than the port allows."""
    smallest, most = port.minimum_size or 1, port.maximum_pixels or MAX_PIXELS
    if min(height, width) < smallest:
        raise UsageError(f"{name} is {width}x{height} pixels; it must be at least {smallest}x{smallest}")
    if height * width > most:
        raise UsageError(f"{name} is {width}x{height}, {height * width:,} pixels; it may have at most {most:,}")
