"""Whether pictures look like what a model was trained on, judged by what it draws itself.

The only pictures of its kind that a bundle has are those that its golden cases draw from seeds. They say which size the
training pictures had, and how bright their edges were: MNIST's digits are white on black, a scan's black on white.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec

from ..errors import InvalidFileError, UsageError
from ..hookspecs import Task
from ..media.files import InputFile
from ..names import GOLDEN
from ..ports.image import first_image, images_of
from ..ports.kind import BATCH
from ..ports.kinds import drawn, kind_of
from ..text import safe_text

if TYPE_CHECKING:
    import numpy as np

    from .model import Model

LEAST = 4
"""Fewer drawn pictures say nothing about others."""


@dataclass(frozen=True)
class Drawn:
    """What a model draws, from its golden cases."""

    height: int  # pixels
    width: int
    darkest: float  # the mean of the edge pixels of the picture with the darkest edge, 0 .. 255
    lightest: float

    def distance(self, edge: float) -> float:
        """How far an edge's brightness is outside of the range."""
        return max(self.darkest - edge, edge - self.lightest, 0)


_KNOWN: WeakKeyDictionary[Model, Drawn | None] = WeakKeyDictionary()


def what_it_draws(model: Model) -> Drawn | None:
    """What a model draws from seeds; None if its golden cases have too few such pictures, or of several sizes."""
    if model not in _KNOWN:  # each batch asks again
        _KNOWN[model] = _from_cases(model)
    return _KNOWN[model]


def _from_cases(model: Model) -> Drawn | None:
    import numpy as np

    from ..formats.golden import read_cases

    tasks = {name for name, task in model.manifest.tasks.items() if _draws(task)}
    if not tasks:
        return None
    try:
        cases = read_cases(model.folder / GOLDEN, model.manifest)
    except InvalidFileError:  # `zoo verify` reports it
        return None
    batches = [next(iter(case.outputs.values())) for name in tasks for case in cases[name]]
    sizes = {batch.shape[1:3] for batch in batches}
    if len(sizes) > 1 or sum(map(len, batches)) < LEAST:
        return None
    found = np.concatenate([edges(batch) for batch in batches])
    [(height, width)] = sizes
    return Drawn(height, width, float(found.min()), float(found.max()))


def _draws(task: Task) -> bool:
    """Whether a task draws pictures from seeds, and from nothing that was given as a file."""
    whole = all(port.shape in ((), (BATCH,)) for port in task.inputs.values()) and not task.part_of
    return whole and bool(drawn(task.inputs)) and first_image([next(iter(task.outputs.values()))]) is not None


def edges(pictures: np.ndarray) -> np.ndarray:
    """The mean of each picture's outermost pixels, float64 [number]."""
    import numpy as np

    outer = np.ones(pictures.shape[1:3], bool)
    outer[1:-1, 1:-1] = False
    return pictures[:, outer].mean(axis=(1, 2))


def unlike(
    model: Model, task: Task, files: Mapping[str, list[InputFile]], values: Mapping[str, np.ndarray], each: bool = False
) -> Iterator[str]:
    """A line for each way in which given pictures differ from what the model was trained on.

    Args:
        each: a line for each picture, too.
    """
    given = [name for name in images_of(task.inputs) if files.get(name)]
    made = what_it_draws(model) if given else None
    if made is None:
        return
    for name in given:
        pictures = values[name]
        height, width = pictures.shape[1:3]
        fixed = all(isinstance(length, int) for length in task.inputs[name].shape[1:3])
        if not fixed and (height, width) != (made.height, made.width):
            for file in files[name] if each else files[name][:1]:
                yield (
                    f"{file.shown} is {width}x{height}; {safe_text(model.manifest.name)} was trained on"
                    f" {made.width}x{made.height}: --fit scales it"
                )
        # Turned over, it must be much nearer: a photograph has edges of any brightness.
        brightness = edges(pictures)
        numbers = [n for n, edge in enumerate(brightness) if made.distance(edge) > 2 * made.distance(255 - edge)]
        more = f" and {len(numbers) - 1} more" if len(numbers) > 1 and not each else ""
        for number in numbers if each else numbers[:1]:
            here, there = ("light", "dark") if brightness[number] > made.lightest else ("dark", "light")
            who = safe_text(model.manifest.name)
            yield (
                f"{files[name][number].shown}{more}: {here} at the edges, and what {who} draws is {there} there;"
                " --invert makes a negative"
            )


def fitted(model: Model, name: str, task: Task) -> Task:
    """The task with the size of its pictures fixed, so that they are scaled: to that of what the model draws.

    Raises:
        UsageError: the model takes pictures of any size, and its golden cases do not say which it was trained on.
    """
    images = images_of(task.inputs)
    if not images:
        raise UsageError(f"--fit is for pictures; {name} takes none")
    free = any(isinstance(length, str) for image in images for length in task.inputs[image].shape[1:3])
    if not free:
        return task
    made = what_it_draws(model)
    if made is None:
        raise UsageError(f"--fit: {safe_text(model.manifest.name)} takes any size, and does not say which one fits it")
    ports = {n: kind_of(port).resized(port, made.height, made.width) for n, port in task.inputs.items()}
    return msgspec.structs.replace(task, inputs=ports)
