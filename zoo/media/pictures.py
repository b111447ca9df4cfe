"""Pictures: files to uint8 [height, width, channels] arrays, and back to PNG. The only place that knows pixel ranges.

A stranger's picture is read with care: its first bytes determine the format, and only that decoder is used; its size is
read from the header, and refused if too large, before a pixel is decoded; decoding may only take a limited time; and
any decoder's error becomes one line.
Each change to a picture (flattened, cropped, scaled, converted to grey) is reported in one line, through `note`.
Metadata never reach a decoder (`metadata.py`).
"""

from __future__ import annotations

import importlib
import io
import re
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import InvalidFileError, UsageError
from ..text import one_line, safe_text
from .files import InputFile, Note
from .metadata import Bare, bare, png_text

if TYPE_CHECKING:
    import numpy as np

    from ..hookspecs import Port


PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""The endings of files with one picture."""

MAX_PIXELS = 40_000_000
"""The limit for a picture whose port does not state `maximum_pixels`."""
MAX_SCANS = 100
"""The most scans of a progressive JPEG. Encoders write 10 or so; each takes as long to decode as a picture."""
DECODE_SECONDS = 30.0
"""How long a picture may take to decode; one of 40 million pixels takes a few seconds."""
METADATA_KEY = "zoo"

_PNG = b"\x89PNG\r\n\x1a\n"
_DECODERS = (  # format, first bytes, module, class; TIFF, EPS, PSD and the rest are too large an attack surface
    ("PNG", _PNG, "PngImagePlugin", "PngImageFile"),
    ("JPEG", b"\xff\xd8\xff", "JpegImagePlugin", "JpegImageFile"),
    ("GIF", b"GIF8", "GifImagePlugin", "GifImageFile"),
    ("BMP", b"BM", "BmpImagePlugin", "BmpImageFile"),
    ("WebP", b"RIFF", "WebPImagePlugin", "WebPImageFile"),
)
_OTHERS = {  # pictures that zoo does not read: their first bytes
    "HEIC": rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
    "AVIF": rb"....ftypavi[fs]",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "PSD": rb"8BPS",
    "PDF": rb"%PDF-",
    "SVG": rb"\s*(<\?xml[^>]*>|<!--.{,2000}?-->|<!DOCTYPE svg[^>]*>|\s)*<svg\b",
}


# --- Pictures in ------------------------------------------------------------------------------------------------------


def read_pictures(
    files: Sequence[InputFile], name: str, port: Port, note: Note, *, mask: bool = False, whole: bool = False
) -> np.ndarray:
    """Pictures as a batch, uint8 [number, height, width, channels], as an `image` or `mask` port needs them.

    Args:
        mask: see `decode_picture`.
        whole: see `decode_picture`.

    Raises:
        InvalidFileError: a file that is not a picture, is cut short, too small, too large, or differs in size from the
            first.
    """
    import numpy as np

    pictures = [decode_picture(file, name, port, note, mask=mask, whole=whole) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            first, other = (f"{p.shape[1]}x{p.shape[0]}" for p in (pictures[0], picture))
            raise InvalidFileError(
                f"{files[0].shown} is {first} and {file.shown} is {other} pixels;"
                " all pictures of one call must have the same size"
            )
    return np.stack(pictures)


def check_masks(pictures: Sequence[InputFile], masks: Sequence[InputFile]) -> None:
    """Checks that masks have their pictures' size: scaled separately, each by its own factor, they would not match.

    Raises:
        InvalidFileError: the first mask that has another.
    """
    for mask in masks:
        for picture in pictures:
            if (size := upright_size(mask)) != (expected := upright_size(picture)):
                raise InvalidFileError(
                    f"the mask {mask.shown} is {size[0]}x{size[1]} pixels and"
                    f" {picture.shown} is {expected[0]}x{expected[1]}; they must have the same size"
                )


def upright_size(file: InputFile) -> tuple[int, int]:
    """Width and height from the header, as a viewer would show the picture."""
    image, about = _open(file)
    lies = about.orientation >= 5  # the orientations that swap width and height
    return (image.height, image.width) if lies else (image.width, image.height)


def check_header(file: InputFile, port: Port) -> tuple[int, int]:
    """Like `upright_size`; refuses a picture that the port does not allow, before a pixel is decoded."""
    image, about = _open(file)
    check_stated_size(file.shown, port, image.height, image.width)
    return (image.height, image.width) if about.orientation >= 5 else (image.width, image.height)


def decode_picture(
    file: InputFile, name: str, port: Port, note: Note, *, mask: bool = False, whole: bool = False
) -> np.ndarray:
    """One picture, uint8 [height, width, channels]: upright (EXIF), on white, with the port's channels and fixed size.

    The first frame of an animation; 16 bits cut to 8. If the port fixes height and width, a picture of another size is
    cropped at the centre to that aspect ratio and scaled (Lanczos).

    Args:
        mask: the picture says what to mark: each pixel is as bright as its brightest channel, transparent parts are
            black, and scaling gives no values between those of the picture.
        whole: instead of being cropped, the picture gets edges: black ones for a mask, else of its own edges' colour.
    """
    shown = file.shown
    image, about = _open(file)
    check_stated_size(shown, port, image.height, image.width)
    return _decoded(image, about, shown, port, note, mask, whole)


def convert_picture(image: Any, shown: str, port: Port, note: Note, *, mask: bool = False) -> np.ndarray:
    """A Pillow picture of any mode but F, uint8 [height, width, channels], by the rules of `decode_picture`.

    Args:
        image: a `PIL.Image.Image`; it is not changed.
        shown: what messages call it.
        mask: as for `decode_picture`.

    Raises:
        UsageError: its mode is F, whose values have no agreed range.
        InvalidFileError: too small, too large, or its file cannot be decoded.
    """
    if image.mode == "F":
        raise UsageError(f"{shown} is a picture of floats (mode F); convert it to L or RGB, 0 .. 255")
    check_stated_size(
        shown, port, image.height, image.width
    )  # before its file is decoded, which some formats do for EXIF
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        image = image.copy()  # without the format of its file, so that what `Bare` lacks here is not asked for
        if image.mode == "P" and image.has_transparency_data:
            image = image.convert("RGBA")
    except Exception as e:
        raise InvalidFileError(f"{shown} cannot be decoded: {one_line(e)[:200]}") from None
    return _decoded(image, Bare(b"", orientation), shown, port, note, mask, whole=False)


_ORIENTATION = 0x0112
"""The EXIF tag."""


def _decoded(image: Any, about: Bare, shown: str, port: Port, note: Note, mask: bool, whole: bool) -> np.ndarray:
    import numpy as np

    try:
        if about.animated or getattr(image, "is_animated", False):
            note(f"{shown} is animated: using its first frame")
            image.seek(0)
        if image.format == "PNG" and _png_header(about)[0] == 16:
            note(f"{shown} has 16 bits per channel: using the upper 8")
        image = _with_alpha(image, about, shown, note)
        image = _brightness(image, shown, note) if mask else _on_white(image, shown, note)
        if about.orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[about.orientation])
        image = _channels(image, int(port.shape[-1]), shown, note)
        image = _fixed_size(image, port, shown, note, mask=mask, whole=whole)
        pixels = np.asarray(image, dtype=np.uint8)
    except Exception as e:  # the decoders of five formats raise anything
        reason = safe_text(str(e) or type(e).__name__).splitlines()[0]
        raise InvalidFileError(f"{shown} cannot be decoded: {reason[:200]}") from None
    return pixels.reshape(*pixels.shape[:2], -1)


_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Pillow's `Image.Transpose` that makes a picture with an EXIF orientation upright."""


def _open(file: InputFile) -> tuple[Any, Bare]:
    """The picture with its header read, by the one decoder that its first bytes select, and what its metadata say."""
    if kind := picture_format(file.data):
        try:
            about = bare(kind, file.data)
            if kind == "JPEG" and _count_scans(about.data) > MAX_SCANS:
                raise ValueError(f"it has more than {MAX_SCANS} scans")
            return decoder(kind)(Timed(about.data)), about
        except Exception as e:
            reason = safe_text(str(e) or type(e).__name__).splitlines()[0]
            raise InvalidFileError(f"{file.shown} is a damaged {kind} file: {reason[:200]}") from None
    raise InvalidFileError(
        f"{file.shown} is not a picture that zoo can read: PNG, JPEG, WebP, GIF or BMP{_other(file.data)}"
    )


def picture_format(data: bytes) -> str:
    """The format of a picture by its first bytes: `PNG`, `JPEG`, `GIF`, `BMP` or `WebP`; empty if it is another."""
    for kind, magic, *_ in _DECODERS:
        if data.startswith(magic) and (kind != "WebP" or data[8:12] == b"WEBP"):
            return kind
    return ""


@cache
def decoder(kind: str) -> Callable[[io.BytesIO], Any]:
    """Pillow's decoder of a format that `picture_format` returned."""
    module, class_name = next((module, name) for format, _, module, name in _DECODERS if format == kind)
    return getattr(importlib.import_module(f"PIL.{module}"), class_name)


def _other(data: bytes) -> str:
    """`; it is HEIC: …`, the end of a message about a file that zoo does not read; empty if it is none it knows."""
    first = data[:4096].removeprefix(b"\xef\xbb\xbf")
    for name, pattern in _OTHERS.items():
        if re.match(pattern, first, re.DOTALL):
            return f"; it is {name}: convert it to PNG, e.g. with `magick FILE x.png` (ImageMagick)"
    return ""


class Timed(io.BytesIO):
    """A file that can only be read for `DECODE_SECONDS`: the decoders read in small blocks."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self._end = time.monotonic() + DECODE_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self._end:
            raise TimeoutError(f"decoding it takes more than {DECODE_SECONDS:g} s")
        return super().read(size)


def _count_scans(data: bytes) -> int:
    """The scans of a JPEG file, counted up to the first above `MAX_SCANS`.

    Each begins with FF DA. In the coded data behind it, FF is followed by 00 or by a restart marker; in segments, which
    state their length, anything may follow it.
    """
    if data.count(b"\xff\xda") <= MAX_SCANS:
        return 0
    scans, position = 0, 2
    while scans <= MAX_SCANS and (position := data.find(b"\xff", position)) >= 0:
        marker, position = data[position + 1 : position + 2], position + 1
        if marker in (b"", b"\xd9"):  # the end of the file or of the picture
            break
        if marker[0] in (0, 1, *range(0xD0, 0xD9)):  # no segment: a byte FF of the data, a restart
            position += 1
        elif marker != b"\xff":  # a repeated FF only fills
            scans += marker == b"\xda"
            position += 1 + int.from_bytes(data[position + 1 : position + 3], "big")
    return scans


def check_stated_size(shown: str, port: Port, height: int, width: int) -> None:
    """Checks the size before a pixel is decoded. A picture to be scaled may have any size up to the general limit."""
    if height * width > MAX_PIXELS:
        pixels = f"{height * width:,} pixels"
        raise InvalidFileError(f"{shown} is {width}x{height}, {pixels}; at most {MAX_PIXELS:,} are allowed")
    if not all(isinstance(d, int) for d in port.shape[1:3]):
        most = port.maximum_pixels or MAX_PIXELS
        try:
            check_picture_size(shown, port, height, width)
        except UsageError as e:
            raise (TooManyPixels if height * width > most else InvalidFileError)(str(e)) from None


class TooManyPixels(InvalidFileError):
    """A picture file has more pixels than its port allows, which a task that works in tiles may avoid."""


def _png_header(about: Bare) -> tuple[int, int]:
    """Bit depth and colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""
    return about.data[24], about.data[25]


def _with_alpha(image: Any, about: Bare, shown: str, note: Note) -> Any:
    """The picture in mode L, RGB, LA or RGBA."""
    from PIL import Image

    alpha = None
    if about.transparency is not None:
        alpha, image = _png_alpha(image, about, shown, note)
    if image.mode.startswith("I"):  # 16 bits of grey
        import numpy as np

        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    grey = image.mode in ("LA", "La", "L", "1")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        grey |= image.format == "PNG" and _png_header(about)[1] == 4  # Pillow gives 16 bits of it as RGBA
        image = image.convert("RGBA").convert("LA" if grey else "RGBA")
    elif image.mode not in ("1", "L", "RGB", "P"):
        note(f"{shown} is {image.mode}: converted to RGB")
        image = image.convert("RGB")
    else:
        mode = "L" if grey else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    if alpha is not None:
        image.putalpha(alpha)  # L and RGB become LA and RGBA
    return image


def _png_alpha(image: Any, about: Bare, shown: str, note: Note) -> tuple[Any, Any]:
    """What the chunk tRNS says, as a picture of mode L (None if nothing), and the picture, decoded.

    A grey or RGB picture has one transparent colour, of its own depth; a palette has an alpha value for each entry.
    Pillow compares the colour with pixels that it has already scaled or cut to 8 bits.
    """
    import numpy as np
    from PIL import Image

    depth, colours = _png_header(about)
    given = about.transparency or b""
    channels = {0: 1, 2: 3}.get(colours, 0)
    if (channels and len(given) != 2 * channels) or not given or colours not in (0, 2, 3):
        note(f"{shown} has damaged transparency: ignored")
        return None, image
    if colours == 3:
        table = np.frombuffer(given.ljust(256, b"\xff"), np.uint8)
        return Image.fromarray(table[np.asarray(image)]), image
    key = np.frombuffer(given, ">u2") & (1 << depth) - 1
    if depth < 8:
        key = key * (255 // ((1 << depth) - 1))  # as Pillow scales the pixels
    pixels = np.asarray(image.convert("L") if depth == 1 else image)
    if (depth, colours) == (16, 2):
        pixels = pixels.astype(np.uint16) << 8 | _lower_bytes(about)
    same = (pixels.reshape(*pixels.shape[:2], channels) == key).all(axis=-1)
    return Image.fromarray(np.where(same, 0, 255).astype(np.uint8)), image


def _lower_bytes(about: Bare) -> np.ndarray:
    """The lower bytes of a PNG's RGB pixels of 16 bits, uint8 [height, width, 3]; Pillow gives the upper ones.

    It reads the pixels as little-endian, so that those are the upper ones.
    """
    import numpy as np
    from PIL.PngImagePlugin import PngImageFile

    image = PngImageFile(io.BytesIO(about.data))
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    return np.asarray(image)


def _on_white(image: Any, shown: str, note: Note) -> Any:
    """The picture in mode L or RGB."""
    from PIL import Image

    if image.mode not in ("LA", "RGBA"):
        return image
    plain = "L" if image.mode == "LA" else "RGB"
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert(plain)
    note(f"{shown} is partly transparent: put on white")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(plain)


def _brightness(image: Any, shown: str, note: Note) -> Any:
    """A mask in mode L: its brightest channel, times its alpha."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    colours, alpha = (pixels[..., :-1], pixels[..., -1:]) if image.mode in ("LA", "RGBA") else (pixels, None)
    if (colours != colours[..., :1]).any():
        note(f"{shown} is in colour: as bright as the brightest of red, green and blue")
    bright = colours.max(axis=-1)
    if alpha is not None and alpha.min() < 255:
        note(f"{shown} is partly transparent: its transparent parts are not marked")
        bright = ((bright.astype(np.uint16) * alpha[..., 0] + 127) // 255).astype(np.uint8)
    return Image.fromarray(bright)


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


def _fixed_size(image: Any, port: Port, shown: str, note: Note, *, mask: bool, whole: bool) -> Any:
    height, width = port.shape[1:3]
    if not (isinstance(height, int) and isinstance(width, int)) or image.size == (width, height):
        return image
    from PIL import Image, ImageOps

    method = Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS
    if whole:
        note(f"{shown} is {image.width}x{image.height}: scaled to fit {width}x{height}")
        colour = 0 if mask else _edge_colour(image)
        return ImageOps.pad(image, (width, height), method, color=colour)
    note(f"{shown} is {image.width}x{image.height}: cropped at the centre and scaled to {width}x{height}")
    return ImageOps.fit(image, (width, height), method)


def _edge_colour(image: Any) -> Any:
    """The median of a picture's outermost pixels, as Pillow takes a colour."""
    import numpy as np

    pixels = np.asarray(image)
    rows = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    median = np.median(np.concatenate(rows), axis=0).astype(int).tolist()
    return tuple(median) if isinstance(median, list) else median


# --- Pictures out -----------------------------------------------------------------------------------------------------


def encode_png(pixels: np.ndarray, metadata: str | None = None) -> bytes:
    """uint8 [height, width, 1 or 3] as PNG, with one text chunk `zoo` (iTXt, UTF-8) for `metadata`."""
    from PIL import Image

    height, width, channels = pixels.shape
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    # Pillow's encoder, which chooses a filter for each row, without its writer of files, which takes as long again.
    packed = image.tobytes("zip", image.mode, False, -1, -1, b"")
    header = struct.pack(">2I5B", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    text = METADATA_KEY.encode() + bytes(5) + metadata.encode() if metadata else b""
    chunks = ((b"IHDR", header), (b"iTXt", text), (b"IDAT", packed), (b"IEND", b""))
    return _PNG + b"".join(_png_chunk(kind, data) for kind, data in chunks if data or kind == b"IEND")


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def is_png(file: InputFile) -> bool:
    """Whether the first bytes are those of a PNG."""
    return file.data.startswith(_PNG)


def decode_png(file: InputFile) -> tuple[np.ndarray, str | None]:
    """The pixels of a PNG that `encode_png` wrote, exactly, [height, width, 1 or 3], and its metadata."""
    import numpy as np

    shown = file.shown
    image, _ = _open(file)
    if image.format != "PNG" or image.mode not in ("L", "RGB"):
        raise InvalidFileError(f"{shown} is not a grey or RGB PNG: zoo did not write it, or another program changed it")
    if image.height * image.width > MAX_PIXELS:
        raise InvalidFileError(f"{shown} has {image.height * image.width:,} pixels; at most {MAX_PIXELS:,} are allowed")
    try:
        pixels = np.asarray(image, dtype=np.uint8)
    except Exception as e:
        raise InvalidFileError(f"{shown} cannot be decoded: {safe_text(e).splitlines()[0][:200]}") from None
    return pixels.reshape(*pixels.shape[:2], -1), png_text(file.data, METADATA_KEY) or None


def check_picture_size(name: str, port: Port, height: int, width: int) -> None:
    """Refuses a picture smaller or larger than the port allows."""
    smallest, most = port.minimum_size or 1, port.maximum_pixels or MAX_PIXELS
    if min(height, width) < smallest:
        raise UsageError(f"{name} is {width}x{height} pixels; it must be at least {smallest}x{smallest}")
    if height * width > most:
        raise UsageError(f"{name} is {width}x{height}, {height * width:,} pixels; it may have at most {most:,}")
