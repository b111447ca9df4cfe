"""MP4 and WebM by PyAV (extra `video`). Both lose: neighbouring pixels share colours, and the encoder rounds.

Only the two demuxers are used, on bytes that were read already: FFmpeg's other formats can name further files.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InvalidFileError, UsageError
from ..text import one_line
from .extras import need
from .files import InputFile
from .pictures import Timed

if TYPE_CHECKING:
    import numpy as np

FILM_ENDINGS = (".mp4", ".webm")

_CODECS = {".mp4": ("libx264", {"crf": "12"}), ".webm": ("libvpx-vp9", {"crf": "12", "b:v": "0"})}
"""Encoders, and how well they are to keep what they are given."""


def film_format(data: bytes) -> str:
    """`mp4` or `webm` by the first bytes; empty if it is another format."""
    if data[4:8] == b"ftyp" and data[8:11] not in (b"hei", b"hev", b"mif", b"msf", b"avi"):  # those are pictures
        return "mp4"
    return "webm" if data.startswith(b"\x1a\x45\xdf\xa3") else ""


@dataclass(frozen=True)
class Film:
    """What the header of a film says.

    Attributes:
        height, width: before it is turned upright, pixels.
        seconds: how long it is; None if the header does not say it.
        frames_per_second: on average.
    """

    height: int
    width: int
    seconds: float | None
    frames_per_second: float


def open_film(file: InputFile) -> Film:
    """The header of a film.

    Raises:
        InvalidFileError: it is damaged, or has no pictures.
        UsageError: PyAV is not installed.
    """
    with _opened(file) as (container, stream):
        seconds = None
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration:
            seconds = container.duration / 1_000_000
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        return Film(stream.codec_context.height, stream.codec_context.width, seconds, rate)


def film_frames(file: InputFile, about: Film) -> Iterator[tuple[float, Callable[[], Any]]]:
    """When each frame appears, seconds from the first, and a function that gives it as a picture of Pillow. One frame
    is decoded at a time.

    Raises:
        InvalidFileError: it cannot be decoded, or its frames change their size.
    """
    with _opened(file) as (container, stream):
        first = None
        for number, frame in enumerate(container.decode(stream)):
            if (frame.height, frame.width) != (about.height, about.width):
                raise InvalidFileError(
                    f"{file.shown} changes from {about.width}x{about.height} to {frame.width}x{frame.height} pixels"
                )
            time = number / about.frames_per_second if frame.time is None else frame.time
            first = time if first is None else first
            yield time - first, lambda frame=frame: _upright(frame)


def encode_film(frames: np.ndarray, suffix: str, frames_per_second: int) -> bytes:
    """Frames as MP4 (H.264) or WebM (VP9).

    Args:
        frames: uint8 [number, height, width, 1 or 3].
        suffix: `.mp4` or `.webm`.

    Raises:
        UsageError: PyAV is not installed; an odd height or width, which these files cannot have.
    """
    av = need("av", "video", f"writing {suffix}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise UsageError(
            f"{suffix} needs an even height and width, and the video is {width}x{height}; use .webp, or --scale 2"
        )
    codec, options = _CODECS[suffix]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=suffix[1:]) as container:
        stream = container.add_stream(codec, rate=frames_per_second, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames.repeat(3, axis=-1) if frames.shape[-1] == 1 else frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@contextmanager
def _opened(file: InputFile) -> Iterator[tuple[Any, Any]]:
    """A film's container and its first stream of pictures; what PyAV raises becomes one line."""
    av = need("av", "video", f"{file.shown} is {'MP4' if film_format(file.data) == 'mp4' else 'WebM'}; reading it")
    try:
        with av.open(Timed(file.data), format={"mp4": "mp4", "webm": "matroska"}[film_format(file.data)]) as container:
            if not container.streams.video:
                raise InvalidFileError(f"{file.shown} has no pictures, only sound")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, ValueError, TimeoutError) as e:
        raise InvalidFileError(f"{file.shown} cannot be decoded: {one_line(e)[:200]}") from None


def _upright(frame: Any) -> Any:
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation % 360 else image
