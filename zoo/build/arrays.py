"""Named arrays of a data set: what an example has besides image and label.

A reader of data gives a `Column` for each; only those are read that a model needs (`Tasks.example` in the contract).
What a column's values become is up to the kind of its port, as with the inputs of a task: numbers, texts, pictures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import UsageError
from ..hookspecs import ArrayFacts, Port, Task
from ..ports.inputs import check
from ..ports.kind import Source
from ..ports.kinds import kind_of
from ..text import did_you_mean, safe_text

IMAGES = "images"

MOST_CLASSES = 10_000
"""Every class up to the largest label gets a name; a manifest has room for few more, and memory for some millions."""

LONGEST_CLASS = 100
"""Characters of a class's name, as in manifests."""


@dataclass(frozen=True)
class Column:
    """A named array of a data set, one entry per picture."""

    facts: ArrayFacts
    read: Callable[[], Any]  # all values, as an array or a list
    rows: np.ndarray  # int64, the entries that belong to the pictures, in their order
    files: bool = False  # the values are paths of files

    def part(self, indices: Any) -> "Column":
        """The entries of some of the pictures."""
        return replace(self, rows=self.rows[indices])

    def values(self, name: str, port: Port, size: tuple[int, int]) -> np.ndarray:
        """The values as the port's kind has them; UsageError if it cannot.

        Labels with names are renumbered in the order of the port's names: data of fewer classes count them differently.

        Args:
            size: height and width of the pictures, to which files are cropped and scaled.
        """
        array = np.asarray(self.read())[self.rows]
        if self.files:
            return _from_files(name, port, array.tolist(), size)
        if self.facts.classes and port.classes:
            array = renumbered(f"'{safe_text(name)}'", array, self.facts.classes, port.classes)
        if array.ndim == len(port.shape) - 1 and port.shape[-1] == 1:  # grey pictures and masks without that axis
            array = array[..., None]
        return kind_of(port).from_value(name, port, array.tolist() if array.dtype == object else array)


def _from_files(name: str, port: Port, files: list[str], size: tuple[int, int]) -> np.ndarray:
    """Pictures or masks, as `zoo run` reads them."""
    kind = kind_of(port)
    if not kind.aligned:
        raise UsageError(f"'{safe_text(name)}' has picture files; the model takes {kind.describe(port)}")
    port = kind.resized(port, *size)
    task = Task(summary="training", inputs={name: port}, outputs={})
    source = Source(name, port, task, model="", digest="", given=(name,), note=lambda line: None)
    return kind.read(files, source).values[name]


def renumbered(source: str, labels: np.ndarray, found: tuple[str, ...], classes: tuple[str, ...]) -> np.ndarray:
    """Labels that are indices into `found`, as indices into `classes`; -1, no label, stays.

    Args:
        source: where they come from, for messages.

    Raises:
        UsageError: a class that is not one of `classes`, or a label that has no name.
    """
    if labels.dtype.kind not in "iu" or (len(labels) and not -1 <= labels.min() <= labels.max() < len(found)):
        raise UsageError(f"{source} must be integers from 0 to {len(found) - 1}, as there are {len(found)} class names")
    for name in found:
        if name not in classes:
            raise UsageError(
                f"{source} has the class '{safe_text(name)}', not one of {safe_text(', '.join(classes))}"
                + did_you_mean(name, classes)
            )
    places = np.array([classes.index(name) for name in found] + [-1], np.int64)
    return places[labels]  # -1, no label, indexes the last place


def taken(
    columns: Mapping[str, Column],
    example: Mapping[str, Port],
    images: np.ndarray,
    resized: Callable[[np.ndarray], np.ndarray],
    source: str,
) -> dict[str, np.ndarray]:
    """The arrays that an example has, checked: dtype, shape, range, and sizes that fit the pictures.

    Args:
        resized: what was done to the size of the pictures.
        source: the data, for messages.
    """
    ports = {IMAGES: Port(kind="image", dtype="uint8", shape=("batch", "height", "width", images.shape[-1]))}
    found = {IMAGES: images}
    for name, port in example.items():
        if name not in columns:
            there = f"it has {', '.join(columns)}" if columns else "it has no named arrays"
            raise UsageError(
                f"the model needs '{name}' ({kind_of(port).describe(port)}) of each picture, and {safe_text(source)}"
                f" has none: {safe_text(there)}{did_you_mean(name, columns)}; docs/data.md says where it comes from"
            )
        array = columns[name].values(name, port, (images.shape[1], images.shape[2]))
        found[name] = resized(array) if kind_of(port).aligned else array
    try:
        check(ports | dict(example), found)
    except UsageError as e:
        raise UsageError(f"{safe_text(source)}: {e}") from None
    del found[IMAGES]
    return found
