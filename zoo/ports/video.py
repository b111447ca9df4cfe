"""Video: uint8 [batch, frames, height, width, channels] at a frame rate that the port fixes; animations in files."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from ..errors import InvalidFileError, UsageError
from ..hookspecs import Port, Task, Tile
from ..media.animation import (
    GIF_FRAMES_PER_SECOND,
    animation_text,
    check_animation_size,
    encode_animation,
    is_animated_png,
)
from ..media.extras import need
from ..media.files import InputFile
from ..media.films import FILM_ENDINGS, encode_film, film_format
from ..media.grid import Grid
from ..media.pictures import MAX_PIXELS, encode_png, picture_format
from ..media.sheet import View
from ..media.videos import (
    FRAME_ENDINGS,
    VIDEO_ENDINGS,
    check_video,
    exact_frames,
    longest,
    read_video_file,
    read_videos,
)
from ..text import warn
from .given import as_array, files_of, numbers_of
from .image import SHOWN_SIDE, Pictures, Pixels
from .kind import BATCH, Form, Option, Read, RealInputs, Source

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

CASE_FRAMES = 4
"""Of a golden case, if the port takes any number."""


_LOST = {".gif": "has at most 256 colours"} | dict.fromkeys(FILM_ENDINGS, "loses detail")
"""What files with these endings do not keep."""


class VideoFile(Pictures):
    """A batch as one animated picture, each frame a grid of the videos' frames, with its recipe inside."""

    name = "videos"
    suffixes = (".apng", ".webp", ".gif", *FILM_ENDINGS, ".png")
    moves = True
    media_type = "image/apng"

    def __init__(self, frame_rate: int | None = None, view: View | None = None, suffix: str = ".apng"):
        super().__init__(view)
        self.frame_rate = frame_rate  # a form that only reads has none
        self.suffix = suffix
        if lost := _LOST.get(suffix):
            self.loses = f"{suffix} is not exact: it {lost}, and has no recipe for zoo again; .apng and .webp have"

    def named(self, suffix: str) -> Form:
        return STRIP if suffix == ".png" else VideoFile(self.frame_rate, self.view, suffix or ".apng")

    def viewed(self, view: View) -> VideoFile:
        return VideoFile(self.frame_rate, view, self.suffix)

    def check_name(self, task: str, ports: Sequence[str], suffix: str) -> None:
        if suffix in FILM_ENDINGS:
            need("av", "video", f"writing {suffix}")
        if suffix == ".gif" and (self.frame_rate or 0) > GIF_FRAMES_PER_SECOND:
            raise UsageError(
                f"{task} gives {self.frame_rate} frames a second, and a GIF plays at most {GIF_FRAMES_PER_SECOND};"
                " use .apng"
            )

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        import numpy as np

        assert self.frame_rate, "the form of a port has its frame rate"
        check_animation_size(batch.shape[1], *self.view.grid(batch[:, 0]).shape)
        frames = np.stack([self.view.draw(batch[:, number]) for number in range(batch.shape[1])])
        if self.suffix in FILM_ENDINGS:
            return encode_film(frames, self.suffix, self.frame_rate)
        return encode_animation(frames, self.suffix, self.frame_rate, metadata=recipe)

    def layout(self, batch: np.ndarray) -> Any:
        return msgspec.to_builtins(self.view.grid(batch[:, 0])) | {
            "frames": batch.shape[1],
            "channels": batch.shape[4],
            "frame_rate": self.frame_rate,
        }

    def reads(self, file: InputFile) -> bool:
        return _is_exact(file) or bool(_lossy_format(file))

    def recipe_of(self, file: InputFile) -> str | None:
        if lossy := _lossy_format(file):
            raise InvalidFileError(f"{file.shown} is {lossy}, which is not exact: zoo again takes .apng and .webp")
        return animation_text(file.data)

    def decode_batch(self, file: InputFile, layout: Any, index: int | None) -> np.ndarray:
        import numpy as np

        told = _LAYOUTS.decode(msgspec.json.encode(layout))
        shape = (BATCH, "frames", "height", "width", told.channels)
        port = Port(
            kind="video", dtype="uint8", shape=shape, frame_rate=told.frame_rate, maximum_frames=told.frames
        )  # fmt: skip
        frames = exact_frames(file, port)
        return np.stack([self.split(frame, layout, index) for frame in frames], axis=1)


def _is_exact(file: InputFile) -> bool:
    return is_animated_png(file.data) or picture_format(file.data) == "WebP"


def _lossy_format(file: InputFile) -> str:
    """The format of a video file that is not exact; empty if it is another."""
    if picture_format(file.data) == "GIF":
        return "GIF"
    return {"mp4": "MP4", "webm": "WebM", "": ""}[film_format(file.data)]


class _Layout(msgspec.Struct, frozen=True):
    """What a recipe says about a video besides the grid of its frames."""

    frames: Annotated[int, msgspec.Meta(ge=2, le=MAX_PIXELS)]
    channels: Literal[1, 3]
    frame_rate: Annotated[int, msgspec.Meta(ge=1, le=240)]


_LAYOUTS = msgspec.json.Decoder(_Layout)  # here, as in `image.py`


class Strip(Form):
    """A batch as one PNG for looking at: a row for each video. It has lost the times, so it has no recipe."""

    name = "videos"
    suffixes = (".png",)
    shared = False

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        return encode_png(strips(batch))


VIDEO, STRIP = VideoFile(), Strip()

if TYPE_CHECKING:
    import numpy as np


class Video(Pixels):
    name = "video"
    shape = "[batch, frames, height, width, channels]"
    meaning = "video, grey or RGB, 0 .. 255, at the port's `frame_rate`; APNG, WebP and others in files"
    ranks = (5,)
    last = (1, 3)
    fields = (*Pixels.fields, "frame_rate", "maximum_frames")
    aligned = False
    form = VIDEO
    field = "video"
    shown = "video"
    sample = "video.apng"

    def problem(self, port: Port) -> str:
        if wrong := super().problem(port):
            return wrong
        if port.frame_rate is None:
            return "ports of the kind video state their frame_rate"
        if isinstance(port.shape[1], int) and port.maximum_frames:
            return f"the port has {port.shape[1]:,} frames, so it has no maximum_frames"
        if port.shape[1] == 1:
            return "a video has at least two frames; the kind image has one"
        return ""

    def limits(self, port: Port) -> Iterator[str]:
        yield f"{port.frame_rate} frames a second"
        if port.maximum_frames:
            yield f"at most {port.maximum_frames:,} frames"
        yield from super().limits(port)

    def form_in(self, port: Port, ports: Mapping[str, Port]) -> Form:
        return VideoFile(port.frame_rate)

    def images(self, array: np.ndarray) -> list[PIL.Image.Image]:
        """A strip of frames for each video."""
        import numpy as np

        return super().images(np.stack([strips(video[None]) for video in array]))

    def png(self, array: np.ndarray) -> bytes:
        """A strip of frames for each video, one below the other; small ones are enlarged by a whole factor."""
        return encode_png(strips(array, max(1, SHOWN_SIDE // max(array.shape[2:4]))))

    def from_value(self, name: str, port: Port, value: Any) -> np.ndarray:
        """An array, or the path of a file or a folder of frames, or several paths; what is changed gives a warning."""
        import numpy as np

        paths = value if isinstance(value, (list, tuple)) and value else [value]
        if all(isinstance(path, (str, PurePath)) for path in paths):
            return read_videos([read_video_file(str(path), port) for path in paths], port, warn)
        array = as_array(name, value)
        if array.dtype != np.uint8:
            raise UsageError(f"{name} is {array.dtype}; videos are uint8, 0 .. 255")
        return array

    def annotation(self, port: Port) -> Any:
        import numpy as np

        one = str | Path | np.ndarray
        return one | Sequence[one]

    def check_array(self, name: str, port: Port, array: np.ndarray) -> None:
        frames = array.shape[1]
        if frames == 1:
            raise UsageError(f"{name} has one frame; a video has at least two")
        if frames > longest(port):
            raise UsageError(f"{name} has {frames:,} frames; at most {longest(port):,} are allowed")
        super().check_array(name, port, array)

    def resized(self, port: Port, height: int, width: int) -> Port:
        return msgspec.structs.replace(port, shape=(*port.shape[:2], height, width, port.shape[4]))

    def option(self, name: str, port: Port, task: Task) -> Option:
        files = "APNG, WebP, GIF, a folder of frames; MP4, WebM with genzoo[video]; or - for stdin"
        help = self.help(name, port, "; ".join([*self.limits(port), files]))
        return Option(
            name, help, metavar="FILE", multiple=True, file=True, endings=(*VIDEO_ENDINGS, ".png"),
            folder=VIDEO_ENDINGS, frames=FRAME_ENDINGS, positional=True,
        )  # fmt: skip

    def read(self, given: Any, source: Source) -> Read:
        files = [read_video_file(path, source.port) for path in given]
        return Read({source.name: read_videos(files, source.port, source.note)}, files)

    def look(self, file: InputFile, port: Port) -> tuple[int, ...]:
        return check_video(file, port)

    def from_request(self, name: str, port: Port, value: Any) -> Any:
        """A video's file, as bytes or in base64, or several; else an array, as nested lists."""
        if (files := files_of(name, value)) is not None:
            return read_videos([read_video_file(file, port) for file in files], port, lambda line: None)
        return numbers_of(name, value, port.dtype)

    def to_answer(self, port: Port, array: np.ndarray) -> Any:
        form = self.form_in(port, {})
        return [b64encode(form.encode_batch(video[None], "")).decode() for video in array]

    def pixels_a_step(self, tile: Tile) -> None:
        return None

    def host_sample(self, port: Port) -> str:
        return "video.npy"

    def dimensions(self, port: Port, height: int, width: int) -> dict[str, int]:
        frames = port.shape[1]
        found = super().dimensions(port, height, width)
        return found | {frames: min(longest(port), CASE_FRAMES)} if isinstance(frames, str) else found

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        """A drawing that moves: one of a still picture, rolled by one to three pixels a frame."""
        import numpy as np

        from ..media.drawings import drawing

        batch, frames, height, width, channels = shape
        steps = rng.integers(1, 4, (batch, 2))
        pictures = [drawing(height, width, channels, rng) for _ in range(batch)]
        moved = [
            np.roll(picture, tuple(number * step), axis=(0, 1))
            for picture, step in zip(pictures, steps, strict=True)
            for number in range(frames)
        ]
        return np.stack(moved).reshape(shape)

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> None:
        return None


def strips(batch: np.ndarray, scale: int = 1) -> np.ndarray:
    """Videos as one picture, uint8 [height, width, channels]: a row for each, its frames from left to right."""
    frames = batch.reshape(-1, *batch.shape[2:])
    return Grid.of(frames, columns=batch.shape[1], scale=scale).join(frames)
