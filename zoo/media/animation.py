"""Animations: frames as GIF, APNG or WebP, by the ending of the file's name."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ..errors import UsageError
from .pictures import MAX_PIXELS

if TYPE_CHECKING:
    import numpy as np

FORMATS = {".gif": "GIF", ".apng": "PNG", ".png": "PNG", ".webp": "WEBP"}
MOST_PIXELS = 5 * MAX_PIXELS
"""Of all frames together."""


def check_animation_size(frames: int, height: int, width: int) -> None:
    """Refuses an animation that would be too large, before it is computed."""
    if (total := frames * height * width) > MOST_PIXELS:
        raise UsageError(
            f"{frames:,} frames of {width}x{height} are {total:,} pixels; at most {MOST_PIXELS:,} are allowed"
        )


def encode_animation(frames: np.ndarray, suffix: str, frames_per_second: float, hold_seconds: float) -> bytes:
    """Frames as a file that repeats forever. APNG and WebP lose nothing; a GIF has 256 colours.

    Args:
        frames: uint8 [number, height, width, 1 or 3].
        suffix: a key of `FORMATS`; GIF for any other.
        hold_seconds: how much longer the last frame is shown.
    """
    from PIL import GifImagePlugin, Image, PngImagePlugin, WebPImagePlugin  # noqa: F401  registers the formats

    images = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames]
    kind = FORMATS.get(suffix, "GIF")
    if kind == "WEBP":
        images = [image.convert("RGB") for image in images]
    each = round(1000 / frames_per_second)
    durations = [*[each] * (len(images) - 1), each + round(1000 * hold_seconds)]
    extra = {"lossless": True} if kind == "WEBP" else {}
    buffer = io.BytesIO()
    images[0].save(
        buffer, kind, save_all=True, append_images=images[1:], duration=durations, loop=0, **extra
    )  # fmt: skip
    return buffer.getvalue()
