"""Frames of an animation: a sampler's steps, or a walk from one seed's noise to another's.

Both need what is inside a task: the graphs of its parts (docs/decisions/0006-host-loop.md), or a task that takes the
latents that the seed's noise becomes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import noise
from ..errors import UsageError
from ..hookspecs import Tolerance
from ..media.animation import FORMATS, check_animation_size, encode_animation
from ..media.files import Note
from ..media.sheet import ROOM, readable_scale
from ..ports.kind import BATCH, Form
from ..ports.kinds import drawn, kind_of
from ..ports.text import main_text, refuse_no_text
from .again import public_reference
from .batches import MOST_AT_ONCE
from .call import Call, gather
from .comparison import compare
from .model import Model
from .products import with_view
from .steps import Parts, Step, begun, ended, parts_of, steps

if TYPE_CHECKING:
    import numpy as np

Tell = Callable[[int, int], None]
CheckSize = Callable[[int, "np.ndarray"], None]

HOLD_SECONDS = 1.0
"""How much longer the last step is shown."""


class AnimationForm(Form):
    """The files of animations."""

    name = "an animation"
    suffixes = tuple(FORMATS)
    shared = True


ANIMATION = AnimationForm()


@dataclass(frozen=True)
class Asked:
    """What to animate."""

    task: str | None = None  # None: the model's default task
    given: Mapping[str, Any] = field(default_factory=dict)  # options of the task, without seeds
    texts: tuple[str, ...] = ()
    walk: tuple[int, int] | None = None
    frames: int = 24  # of a walk
    seed: int | None = None
    number: int | None = None  # of pictures in each frame
    predicted: bool = False
    scale: int | None = None  # None: wide enough to look at


@dataclass(frozen=True)
class Animation:
    """What was computed."""

    name: str  # for a file
    frames: np.ndarray  # uint8 [frames, height, width, channels]
    seconds: float
    hold_seconds: float

    def encode(self, suffix: str, frames_per_second: float) -> bytes:
        """The bytes of a file with this ending."""
        return encode_animation(self.frames, suffix, frames_per_second, self.hold_seconds)


def animate(model: Model, asked: Asked, note: Note, tell: Tell) -> Animation:
    """The frames of an animation.

    Args:
        note: called with one line for each thing that the user should know.
        tell: called with the number of steps done, and of all.

    Raises:
        NotFoundError, UsageError: one line.
    """
    import numpy as np

    name, task = model.manifest.task(asked.task)
    port = next(iter(task.outputs.values()))
    form = kind_of(port).form_in(port, task.outputs)
    if not form.viewable or form.moves:
        raise UsageError(f"{name} gives {form.name}, which cannot be animated")
    seeds = drawn(task.inputs)
    if not seeds:
        raise UsageError(f"{name} has no seed, so it has neither steps nor a walk")
    if own := next((name for name in seeds if name in asked.given), None):
        raise UsageError(f"--set {own}=…: the seed has an option of its own, --seed")
    given = dict(asked.given)
    if asked.texts:
        text = main_text(task.inputs)
        if text is None or text in given:
            raise UsageError(f"--text and --set {text}=… name the text twice" if text else f"{name} takes no text")
        given[text] = tuple(asked.texts)
    refuse_no_text(name, task.inputs, given)
    seed = list(asked.walk) if asked.walk else asked.seed
    call = gather(model, name, {**dict.fromkeys(seeds, seed), **given}, number=asked.number, note=note)
    width = port.shape[2]
    shown = with_view(
        model, call, asked.scale or readable_scale(width if isinstance(width, int) else ROOM), None, False
    )

    def check_size(number: int, batch: np.ndarray) -> None:
        check_animation_size(number, *shown.view.grid(batch).shape)

    if asked.walk and all(isinstance(length, int) for length in port.shape[1:]):
        # The line above found all lengths to be numbers.
        check_size(asked.frames, np.empty((1, *port.shape[1:]), np.uint8))  # type: ignore[arg-type]
    start = time.perf_counter()
    if asked.walk:
        pictures = walk_of(model, call, asked.frames, tell)[:, None]
        check_size(len(pictures), pictures[0])
    else:
        pictures = steps_of(model, call, predicted=asked.predicted, check_size=check_size, tell=tell)
    seconds = time.perf_counter() - start
    frames = np.stack([shown.view.draw(batch) for batch in pictures])
    numbers = [str(number) for number in (asked.walk or [call.seed])]
    file = "-".join([model.manifest.name, "walk" if asked.walk else "steps", *numbers])
    return Animation(file, frames, seconds, 0 if asked.walk else HOLD_SECONDS)


def steps_of(
    model: Model, call: Call, *, predicted: bool = False, check_size: CheckSize = lambda number, batch: None, tell: Tell
) -> np.ndarray:
    """The pictures after each step of a task's loop, uint8 [frames, batch, height, width, channels].

    The first frame is the noise that it starts from, the last one what the task gives.

    Args:
        predicted: instead, the picture that each step predicts; that of the last step is what the task gives.
        check_size: called before the first step with the number of frames and the first of them, or one of its size.
        tell: called with the number of steps done, and of all.

    Raises:
        UsageError: the model has no graphs for the parts of this task.
    """
    import numpy as np

    parts = parts_of(model.manifest.tasks, call.task)
    if parts is None:
        raise UsageError(f"{public_reference(model)} does not have the steps of {call.task} as graphs of their own")
    frames = []
    begin = begun(model, parts, call.inputs)
    check_size(int(begin["plan"].any(axis=-1).sum()) + (not predicted), _picture(model, parts, begin["x"]))
    for step in _watched(steps(model, parts, call.inputs, begin), tell):
        shown = step.x0 if predicted else step.x
        if shown is not None:
            frames.append(_picture(model, parts, shown))
    return np.stack(frames)


def walk_of(model: Model, call: Call, frames: int, tell: Tell) -> np.ndarray:
    """Pictures from the call's first seed to its second, uint8 [frames, height, width, channels].

    The noise in between lies on the arc between the two (spherical interpolation; White 2016, arXiv:1609.04468), so it
    has the length of normal noise everywhere. The call has two pictures; its other inputs are those of the first.

    Raises:
        UsageError: the model's noise cannot be reached.
    """
    import numpy as np

    task = model.manifest.tasks[call.task]
    one = {name: a[:1] if task.inputs[name].shape[:1] == (BATCH,) else a for name, a in call.inputs.items()}
    slices = [slice(at, min(at + MOST_AT_ONCE, frames)) for at in range(0, frames, MOST_AT_ONCE)]
    if parts := parts_of(model.manifest.tasks, call.task):
        begin = begun(model, parts, call.inputs)
        points, pictures = _arc(begin["x"][0], begin["x"][1], frames), []
        for number, part in enumerate(slices):
            x = points[part]
            many = {name: a.repeat(len(x), axis=0) if a.ndim and len(a) == 1 else a for name, a in one.items()}
            start = {**begin, "x": x, "previous_x0": begin["previous_x0"][:1].repeat(len(x), axis=0)}

            def tell_part(done: int, total: int, before: int = number) -> None:
                tell(before * total + done, len(slices) * total)

            *_, last = _watched(steps(model, parts, many, start), tell_part)
            pictures.append(_picture(model, parts, last.x))
        return np.concatenate(pictures)
    seeds = drawn(task.inputs)
    if len(seeds) == 1 and (found := _decoder(model, call, seeds[0])):
        decode, port, latents = found
        points, pictures = _arc(latents[0], latents[1], frames), []
        for number, part in enumerate(slices):
            pictures.append(next(iter(model.run(decode, **{port: points[part]}).values())))
            tell(number + 1, len(slices))
        return np.concatenate(pictures)
    raise UsageError(
        f"{public_reference(model)} only takes a seed, and nearby seeds draw unrelated pictures; a walk needs graphs"
        f" for the parts of {call.task}, or a task that takes its latents"
    )


def _watched(found: Iterator[Step], tell: Tell) -> Iterator[Step]:
    """The same steps, each of which is told."""
    for step in found:
        if step.number:
            tell(step.number, step.of)
        yield step


def _picture(model: Model, parts: Parts, x: np.ndarray) -> np.ndarray:
    return next(iter(ended(model, parts, x).values()))


def _decoder(model: Model, call: Call, seed: str) -> tuple[str, str, np.ndarray] | None:
    """A task that makes the pictures of `call` from its seeds' noise: its name, its port, and the noise.

    Found by trying: a task that takes one tensor of a fixed shape must give from the noise what `call` gives.
    """
    wanted = model.run(call.task, **call.inputs)
    picture = next(iter(wanted))
    for name, task in model.manifest.tasks.items():
        [(port_name, port), *others] = task.inputs.items()
        fixed = [length for length in port.shape[1:] if isinstance(length, int)]
        if others or port.dtype != "float32" or port.shape != (BATCH, *fixed):
            continue
        latents = noise.normal(call.inputs[seed], fixed)
        output, given = next(iter(model.run(name, **{port_name: latents}).items()))
        same = given.shape == wanted[picture].shape and kind_of(task.outputs[output]).form.viewable
        if same and compare(task.outputs[output], wanted[picture], given, Tolerance()).verdict != "differs":
            return name, port_name, latents
    return None


def _arc(first: np.ndarray, last: np.ndarray, frames: int) -> np.ndarray:
    """Points on the arc from one array to another, both included, float32 [frames, *shape]."""
    import numpy as np

    a, b = (array.astype(np.float64) for array in (first, last))
    cosine = float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))
    angle = np.arccos(np.clip(cosine, -1, 1))
    share = np.linspace(0, 1, frames).reshape(-1, *[1] * a.ndim)
    if np.sin(angle) < 1e-6:  # the same noise twice
        return (a * (1 - share) + b * share).astype(np.float32)
    return ((np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)).astype(np.float32)
