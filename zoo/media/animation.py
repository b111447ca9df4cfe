"""Animated pictures: frames as GIF, APNG or WebP, by the ending of the file's name, and what such a file says about its
frames.

A file has the time at which each frame ends in whole milliseconds (GIF: hundredths of a second). These times are
rounded, not the durations, so that no error adds up.
"""

from __future__ import annotations

import html
import io
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidFileError, UsageError
from .metadata import MAX_METADATA, MAX_PARTS, png_chunks, png_text
from .pictures import MAX_PIXELS, METADATA_KEY, picture_format
from .wav import riff_chunks

if TYPE_CHECKING:
    import numpy as np

FORMATS = {".gif": "GIF", ".apng": "PNG", ".png": "PNG", ".webp": "WEBP"}
MOST_PIXELS = 5 * MAX_PIXELS
"""Of all frames together."""

GIF_FRAMES_PER_SECOND = 50
"""The most that viewers play: they take a hundredth of a second for a tenth."""

NO_DURATION = 0.1
"""Seconds for which browsers show a frame whose file says 0."""


def check_animation_size(frames: int, height: int, width: int) -> None:
    """Refuses an animation that would be too large, before it is computed."""
    if (total := frames * height * width) > MOST_PIXELS:
        raise UsageError(
            f"{frames:,} frames of {width}x{height} are {total:,} pixels; at most {MOST_PIXELS:,} are allowed"
        )


def encode_animation(
    frames: np.ndarray, suffix: str, frames_per_second: float, hold_seconds: float = 0, metadata: str = ""
) -> bytes:
    """Frames as a file that repeats forever. APNG and WebP lose nothing; a GIF has 256 colours.

    Args:
        frames: uint8 [number, height, width, 1 or 3].
        suffix: a key of `FORMATS`; GIF for any other.
        hold_seconds: how much longer the last frame is shown.
        metadata: what `animation_text` reads; a GIF has none.
    """
    from PIL import GifImagePlugin, Image, PngImagePlugin, WebPImagePlugin  # noqa: F401  registers the formats

    images = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames]
    kind = FORMATS.get(suffix, "GIF")
    step = 10 if kind == "GIF" else 1  # milliseconds
    ends = [step * round(1000 / step * number / frames_per_second) for number in range(len(images) + 1)]
    durations = [end - start for start, end in zip(ends, ends[1:], strict=False)]
    durations[-1] += round(1000 * hold_seconds)
    extra: dict[str, object] = {}
    if kind == "WEBP":
        images = [image.convert("RGB") for image in images]
        extra = (
            {"lossless": True, "xmp": _XMP.format(html.escape(metadata)).encode()} if metadata else {"lossless": True}
        )
    elif kind == "PNG":
        info = PngImagePlugin.PngInfo()
        if metadata:
            info.add_itxt(METADATA_KEY, metadata)
        # Without transparency both ways to blend are the same. Pillow merges equal frames only if they blend alike, and
        # makes a still picture of frames that are all equal.
        extra = {"pnginfo": info, "blend": [number % 2 for number in range(len(images))]}
    buffer = io.BytesIO()
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], duration=durations, loop=0, **extra)
    return buffer.getvalue()


_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:zoo="urn:zoo" zoo:recipe="{}"/></rdf:RDF></x:xmpmeta>'
)
_RECIPE = re.compile(rb'xmlns:zoo="urn:zoo" zoo:recipe="([^"<>]*)"')


def animation_text(data: bytes) -> str | None:
    """The metadata that `encode_animation` put into a file; None if it has none."""
    kind = picture_format(data)
    if kind == "PNG":
        return png_text(data, METADATA_KEY) or None
    if kind == "WebP":
        for name, start, length in riff_chunks(data, len(data)):
            if name == b"XMP " and (found := _RECIPE.search(data[start : start + min(length, 4 * MAX_METADATA)])):
                return html.unescape(found[1].decode("utf-8", "replace"))
    return None


@dataclass(frozen=True)
class Timeline:
    """The frames of an animated picture, by the structure of its file; nothing is decoded.

    Attributes:
        height, width: of the whole, pixels.
        seconds: how long each frame is shown.
        before: pictures before the first frame, for viewers that do not animate.
    """

    height: int
    width: int
    seconds: tuple[float, ...]
    before: int = 0

    @property
    def starts(self) -> list[float]:
        """When each frame appears, and when the last one ends, seconds."""
        starts = [0.0]
        for seconds in self.seconds:
            starts.append(starts[-1] + seconds)
        return starts


def timeline(data: bytes) -> Timeline | None:
    """The frames of an animated PNG, WebP or GIF; None for a still picture, and for any other file.

    Raises:
        InvalidFileError: it is damaged or cut short.
    """
    reads = {"PNG": _png_timeline, "WebP": _webp_timeline, "GIF": _gif_timeline}.get(picture_format(data))
    try:
        return reads(data) if reads else None
    except (struct.error, IndexError):
        raise InvalidFileError("cut short") from None


def _png_timeline(data: bytes) -> Timeline | None:
    """https://www.w3.org/TR/png-3/#apng-frame-based-animation"""
    size, stated, before, seconds = (0, 0), 0, 0, []
    for kind, start, _ in png_chunks(data):
        if kind == b"IHDR":
            size = struct.unpack_from(">II", data, start)
        elif kind == b"acTL":
            (stated,) = struct.unpack_from(">I", data, start)
        elif kind == b"fcTL":
            numerator, denominator = struct.unpack_from(">HH", data, start + 20)
            seconds.append(numerator / (denominator or 100) or NO_DURATION)
        elif kind == b"IDAT" and not seconds:
            before = 1
    if not stated:
        return None
    if stated != len(seconds):
        raise InvalidFileError(f"its header states {stated:,} frames, and it has {len(seconds):,}")
    return Timeline(size[1], size[0], tuple(seconds), before)


def _webp_timeline(data: bytes) -> Timeline | None:
    """RFC 9649, 2.7"""
    size, seconds = None, []
    for kind, start, length in riff_chunks(data, len(data)):
        if start + length > len(data):
            raise InvalidFileError("cut short")
        if kind == b"VP8X" and data[start] & 2:  # animated
            size = [1 + int.from_bytes(data[at : at + 3], "little") for at in (start + 7, start + 4)]
        elif kind == b"ANMF":
            seconds.append(int.from_bytes(data[start + 12 : start + 15], "little") / 1000 or NO_DURATION)
    return Timeline(size[0], size[1], tuple(seconds)) if size else None


def _gif_timeline(data: bytes) -> Timeline:
    """https://www.w3.org/Graphics/GIF/spec-gif89a.txt"""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, seconds, delay = 13 + _colours(flags), [], 0
    while (block := data[at]) != 0x3B:
        if len(seconds) > MAX_PARTS:
            raise InvalidFileError(f"more than {MAX_PARTS:,} frames")
        if block == 0x21:  # an extension
            if data[at + 1] == 0xF9:
                (delay,) = struct.unpack_from("<H", data, at + 4)
            at += 2
        elif block == 0x2C:  # a frame
            seconds.append(delay / 100 or NO_DURATION)
            at, delay = at + 11 + _colours(data[at + 9]), 0
        else:
            raise InvalidFileError(f"a block of the unknown type {block}")
        while data[at]:
            at += 1 + data[at]
        at += 1
    return Timeline(height, width, tuple(seconds))


def _colours(flags: int) -> int:
    """The bytes of a GIF's table of colours, if it has one."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def is_animated_png(data: bytes) -> bool:
    """Whether the first bytes are those of a PNG that says before its pixels that it is animated."""
    if picture_format(data) != "PNG":
        return False
    kinds = (kind for kind, *_ in png_chunks(data))
    return next((kind == b"acTL" for kind in kinds if kind in (b"acTL", b"IDAT")), False)
