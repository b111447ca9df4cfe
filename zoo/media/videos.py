"""Video files to arrays: animated PNG, WebP and GIF by Pillow, MP4 and WebM by PyAV (`films.py`), folders of frames.

A port has a frame rate, and a file has times. A file's video is what a viewer shows near the middle of each frame of
the port: frame i at (i + `_MIDDLE`) / rate seconds. So equal frames that a writer has merged are expanded by their
duration, and a file with another rate keeps its speed. What a file's structure says about length and size is compared
with the port before a frame is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import InvalidFileError
from ..system.paths import is_folder
from ..text import one_line
from .animation import MOST_PIXELS, Timeline, timeline
from .files import STDIN, InputFile, Note, read_folder, read_input, shown_name
from .films import FILM_ENDINGS, film_format, film_frames, open_film
from .metadata import bare
from .pictures import (
    MAX_PIXELS,
    PICTURE_ENDINGS,
    Timed,
    check_header,
    check_stated_size,
    convert_picture,
    decode_picture,
    decoder,
    picture_format,
    upright_size,
)

if TYPE_CHECKING:
    import numpy as np

    from ..hookspecs import Port

VIDEO_ENDINGS = (".apng", ".webp", ".gif", *FILM_ENDINGS)
"""The endings of video files; contents decide what a file is. An animated PNG may also be called .png."""

FRAME_ENDINGS = tuple(ending for ending in PICTURE_ENDINGS if ending not in VIDEO_ENDINGS)
"""The endings of the frames in a folder."""

_MIDDLE = 0.45
"""Just before the middle, where a file with twice the frame rate changes: so it gives every other frame, whichever way
its times are rounded."""

_OFF = 0.25
"""The part of a frame by which a time may miss a frame's beginning without being another frame rate."""

_MISSING_SECONDS = 0.5
"""How much of what its header states a film may lack."""


@dataclass(frozen=True)
class _Opened:
    """A video file whose structure was read.

    Attributes:
        count: of its frames; None if only decoding tells.
        seconds: its length; None if it has no times, or only decoding tells.
        frames: when each frame appears, seconds, and what decodes it: its function takes the port of one picture.
    """

    height: int
    width: int
    count: int | None
    seconds: float | None
    frames: Callable[[], Iterable[tuple[float, Callable[[Port, Note], np.ndarray]]]]


def longest(port: Port) -> int:
    """The most frames that a port takes."""
    return port.shape[1] if isinstance(port.shape[1], int) else port.maximum_frames or MAX_PIXELS


def picture_port(port: Port) -> Port:
    """The port that one frame would have."""
    shape = (port.shape[0], *port.shape[2:])
    return msgspec.structs.replace(port, kind="image", shape=shape, frame_rate=None, maximum_frames=None)


def read_video_file(source: str | InputFile, port: Port | None = None) -> InputFile:
    """The bytes of a file, as `zoo.media.files.read_input` gives them, or those of the frames in a folder. One with
    more frames than the port takes is refused without reading them.
    """
    if not isinstance(source, str) or source == STDIN or not is_folder(source):
        return read_input(source)

    def check(number: int) -> None:
        if port and number > longest(port):
            raise _too_long(shown_name(source), port, f"{number:,} frames")

    return read_folder(source, FRAME_ENDINGS, check)


def check_video(file: InputFile, port: Port) -> tuple[int, ...]:
    """The frames that a file has for a port, and its height and width; by its structure, without decoding.

    Raises:
        InvalidFileError: it is not a video, is damaged, has only one frame, is too long, too large or too small.
        UsageError: it needs a package that is not installed.
    """
    opened = _open(file, port)
    return _frames_for(file.shown, port, opened) or 0, opened.height, opened.width


def read_video(file: InputFile, port: Port, note: Note) -> np.ndarray:
    """One video as a `video` port needs it: uint8 [frames, height, width, channels].

    Each frame is treated as a picture: put on white, with the port's channels and fixed size. If the port fixes the
    number of frames, the last one is repeated up to it.

    Args:
        note: called with one line for each change, once for all frames.

    Raises:
        InvalidFileError, UsageError: as for `check_video`, or a frame cannot be decoded.
    """
    import numpy as np

    opened, shown, rate = _open(file, port), file.shown, _rate(port)
    number, said = _frames_for(shown, port, opened), set[str]()

    def once(line: str) -> None:
        if line not in said:
            said.add(line)
            note(line)

    frames, starts = _on_screen(shown, port, opened, number, once)
    if any(abs(start * rate - round(start * rate)) > _OFF for start in starts):
        once(f"{shown}: {len(starts) - 1:,} frames in {starts[-1]:.6g} s, taken at {rate} a second as {len(frames):,}")
    if isinstance(wanted := port.shape[1], int) and len(frames) < wanted:
        once(f"{shown}: its last frame repeated, from {len(frames):,} frames to {wanted:,}")
        frames += frames[-1:] * (wanted - len(frames))
    return np.stack(frames)


def read_videos(files: Sequence[InputFile], port: Port, note: Note) -> np.ndarray:
    """Videos as a batch, uint8 [number, frames, height, width, channels].

    Raises:
        InvalidFileError: as for `read_video`, or a file with another length or size than the first.
    """
    import numpy as np

    videos = [read_video(file, port, note) for file in files]
    for file, video in zip(files, videos, strict=True):
        if video.shape != videos[0].shape:
            first, other = (f"{v.shape[0]:,} frames of {v.shape[2]}x{v.shape[1]}" for v in (videos[0], video))
            raise InvalidFileError(
                f"{files[0].shown} has {first} and {file.shown} has {other} pixels at {_rate(port)} frames a second;"
                " all videos of one call must have the same length and size"
            )
    return np.stack(videos)


def exact_frames(file: InputFile, port: Port) -> np.ndarray:
    """What `zoo.media.animation.encode_animation` wrote: uint8 [frames, height, width, channels], with as many frames
    as the port takes at most.

    Raises:
        InvalidFileError: it is something else.
    """
    number = longest(port)

    def refuse(line: str) -> None:
        raise InvalidFileError("its frames are not what zoo writes: another program changed it")

    if timeline(file.data) is None:  # frames that are all equal are a still picture
        picture = decode_picture(file, file.name, picture_port(port), refuse)
        if number * picture.shape[0] * picture.shape[1] > MOST_PIXELS:
            raise InvalidFileError("it has more frames than zoo writes: another program changed it")
        return picture[None].repeat(number, axis=0)
    video = read_video(file, port, refuse)
    if len(video) != number:
        raise InvalidFileError("the number of its frames does not match its recipe: another program changed it")
    return video


def _on_screen(
    shown: str, port: Port, opened: _Opened, number: int | None, note: Note
) -> tuple[list[np.ndarray], list[float]]:
    """The frames of the port, `number` if that is known, and when each of the file's appears, with the end."""
    rate, picture, most = _rate(port), picture_port(port), number or longest(port)
    frames: list[np.ndarray] = []
    starts: list[float] = []
    held: Callable[[Port, Note], np.ndarray] | None = None

    def show(until: float) -> None:
        """Shows the frame that is held up to a time. It is only decoded if it is on screen in the middle of a frame."""
        last = min(most, _shown_until(until, rate))
        if held and len(frames) < last:
            frames.extend([held(picture, note)] * (last - len(frames)))

    for start, decode in opened.frames():
        show(start)
        starts.append(start)
        held = decode
        if number is None and _shown_until(start, rate) > most:
            raise _too_long(shown, port, f"more than {most:,} frames")
    if not starts:
        raise InvalidFileError(f"{shown} has no frames")
    if len(starts) == 1:
        raise _one_frame(shown)
    end = starts[-1] + (starts[-1] - starts[0]) / (len(starts) - 1)
    if opened.seconds is not None:
        if opened.seconds - end > _MISSING_SECONDS and opened.count is None:
            raise InvalidFileError(
                f"{shown} is cut short: its header states {opened.seconds:.6g} s, and it has {end:.6g} s"
            )
        end = opened.seconds
    show(end)
    return frames, [*starts, end]


def _frames_for(shown: str, port: Port, opened: _Opened) -> int | None:
    """The frames that a video has at the port's rate; None if only decoding tells. Refuses one that is too long."""
    rate = _rate(port)
    if opened.count is not None and opened.count < 2:
        raise _one_frame(shown)
    if opened.seconds is None:
        return None
    number = _shown_until(opened.seconds, rate)
    if number > longest(port):
        raise _too_long(shown, port, f"{number:,} frames ({opened.seconds:,.6g} s)")
    if number < 2:
        raise InvalidFileError(
            f"{shown} is {opened.seconds:.6g} s long, less than two frames at {rate} frames a second"
        )
    sides = zip(port.shape[2:4], (opened.height, opened.width), strict=True)
    height, width = (has if isinstance(wanted, str) else wanted for wanted, has in sides)
    if (pixels := number * height * width) > MAX_PIXELS:
        raise InvalidFileError(
            f"{shown} is {number:,} frames of {width}x{height}, {pixels:,} pixels; at most {MAX_PIXELS:,} are allowed"
        )
    return number


def _shown_until(seconds: float, rate: int) -> int:
    """The frames of a port whose middle comes before a time."""
    return max(0, math.ceil(seconds * rate - _MIDDLE))


def _too_long(shown: str, port: Port, has: str) -> InvalidFileError:
    return InvalidFileError(
        f"{shown} has {has} at {_rate(port)} frames a second; at most {longest(port):,} are allowed"
    )


def _one_frame(shown: str) -> InvalidFileError:
    return InvalidFileError(f"{shown} has one frame: it is a picture; a video has at least two frames")


def _rate(port: Port) -> int:
    assert port.frame_rate, "the kind video requires it"
    return port.frame_rate


# --- Formats ----------------------------------------------------------------------------------------------------------


def _open(file: InputFile, port: Port) -> _Opened:
    if file.parts:
        return _open_folder(file, port)
    kind, picture = picture_format(file.data), picture_port(port)
    if kind in ("PNG", "WebP", "GIF"):
        try:
            times = timeline(file.data)
        except InvalidFileError as e:
            raise InvalidFileError(f"{file.shown} is a damaged {kind} file: {e}") from None
        if times is None:
            raise _one_frame(file.shown)
        check_stated_size(file.shown, picture, times.height, times.width)
        starts = times.starts

        def decoded() -> Iterator[tuple[float, Callable[[Port, Note], np.ndarray]]]:
            image = _pillow(file, kind)
            for index, start in enumerate(starts[:-1]):
                number = index + times.before
                yield start, lambda port, note, number=number: _frame(image, number, times, file.shown, port, note)

        return _Opened(times.height, times.width, len(times.seconds), starts[-1], decoded)
    if kind:
        raise _one_frame(file.shown)
    if film_format(file.data):
        film = open_film(file)
        check_stated_size(file.shown, picture, film.height, film.width)

        def played() -> Iterator[tuple[float, Callable[[Port, Note], np.ndarray]]]:
            for start, image in film_frames(file, film):
                yield start, lambda port, note, image=image: convert_picture(image(), file.shown, port, note)

        return _Opened(film.height, film.width, None, film.seconds, played)
    raise InvalidFileError(
        f"{file.shown} is not a video that zoo can read: an animated PNG, WebP or GIF, MP4, WebM, or a folder of frames"
    )


def _pillow(file: InputFile, kind: str) -> Any:
    try:
        return decoder(kind)(Timed(bare(kind, file.data, frames=True).data))
    except Exception as e:  # the decoders raise anything
        raise InvalidFileError(f"{file.shown} is a damaged {kind} file: {one_line(e)[:200]}") from None


def _frame(image: Any, index: int, times: Timeline, shown: str, port: Port, note: Note) -> np.ndarray:
    try:
        image.seek(index)
        if image.size != (times.width, times.height):  # Pillow enlarges a GIF for a frame that sticks out
            raise ValueError(f"it is not inside {times.width}x{times.height} pixels")
        image.load()
    except Exception as e:
        raise InvalidFileError(f"{shown} cannot be decoded: frame {index}: {one_line(e)[:200]}") from None
    return convert_picture(image, shown, port, note)


def _open_folder(file: InputFile, port: Port) -> _Opened:
    """A folder's frames have no times: each is one frame of the port."""
    frames, picture, rate = file.parts, picture_port(port), _rate(port)
    width, height = upright_size(frames[0])
    for frame in frames:
        if (size := check_header(frame, picture)) != (width, height):
            raise InvalidFileError(
                f"{file.shown} has frames of {width}x{height} and {size[0]}x{size[1]} pixels ({frame.name});"
                " all must have the same size"
            )

    def decoded() -> Iterator[tuple[float, Callable[[Port, Note], np.ndarray]]]:
        for number, frame in enumerate(frames):
            yield number / rate, lambda port, note, frame=frame: decode_picture(frame, frame.name, port, note)

    return _Opened(height, width, len(frames), len(frames) / rate, decoded)
