"""Lists of values on a command line, and the pictures of their product.

`--label sneaker,bag --seed 0..7 --guidance 1,2,4` is 48 pictures: every label with every seed and every guidance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..hookspecs import Port, Task
from ..media.files import Note
from ..media.sheet import MAX_SCALE, View, readable_scale
from ..ports.kind import BATCH, MAX_BATCH
from ..ports.kinds import drawn, kind_of
from ..text import safe_text
from .call import Call, check_number, option_name

if TYPE_CHECKING:
    from .model import Model

__all__ = [
    "MAX_SCALE", "Product", "captions", "check_resume", "expand", "refuse_product", "seen_again", "takes_list",
    "with_view",
]  # fmt: skip

ONE_ROW = 10
"""The most pictures of a single list that are put in one row."""


@dataclass(frozen=True)
class Product:
    """Options for `zoo.run.call.gather`, with a value for each picture, and how many columns the pictures have.

    Attributes:
        lists: the ports whose options had several values.
    """

    given: dict[str, Any]
    number: int | None
    columns: int | None = None
    lists: tuple[str, ...] = ()


def takes_list(port: Port) -> bool:
    """Whether the option of a port may be a list: it has a value for each picture, and the value is not a file."""
    return port.shape[:1] == (BATCH,) and kind_of(port).repeats


def expand(task: Task, given: Mapping[str, Any], number: int | None, note: Note) -> Product:
    """The product of all lists in `given`, in the order of the task's ports, with seeds last; they change fastest.

    Without a list, everything stays as it is. With one, `-n N` is a list of N seeds, and labels or texts that are given
    by several options are a list, too.

    Raises:
        UsageError: too many pictures, or -n next to a list of seeds.
    """
    ports = {name: port for name, port in task.inputs.items() if given.get(name) is not None and takes_list(port)}
    found = {name: kind_of(port).several(name, port, given[name]) for name, port in ports.items()}
    lists = {name: values for name, values in found.items() if values is not None}
    if not lists:
        return Product(dict(given), number)
    for name in ports.keys() - lists.keys():
        if isinstance(given[name], tuple) and len(given[name]) > 1:
            lists[name] = kind_of(ports[name]).several(name, ports[name], given[name], always=True) or []
    check_number(number)
    seeds = drawn(task.inputs)
    listed = [name for name in seeds if name in lists]
    if number is not None and listed:
        raise UsageError(f"-n counts seeds up, and {option_name(listed[0])} lists them; give one of the two")
    count = math.prod(map(len, lists.values())) * (number or 1)
    if count > MAX_BATCH:
        parts = [f"{len(values):,} of {option_name(name)}" for name, values in lists.items()]
        parts += [] if number is None else [f"{number:,} of -n"]
        raise UsageError(f"{' x '.join(parts)} is {count:,} pictures; one call makes at most {MAX_BATCH:,}")
    if seeds and not listed:
        name = seeds[0]
        array, _ = kind_of(task.inputs[name]).draw(name, given.get(name), number or 1, note)
        lists[name] = array.tolist()
        number = None
    ordered = sorted(lists, key=lambda name: name in seeds)
    flat = zip(*itertools.product(*(lists[name] for name in ordered)), strict=True)
    values = {name: list(column) for name, column in zip(ordered, flat, strict=True)}
    several = tuple(name for name in ordered if len(lists[name]) > 1)
    return Product({**given, **values}, number, _columns([len(lists[name]) for name in ordered]), several)


def check_resume(task: Task, given: Mapping[str, Any]) -> None:
    """Refuses `--resume` without a seed, before one is drawn."""
    seeds = drawn(task.inputs)
    if seeds and all(given.get(name) is None for name in seeds):
        raise UsageError(f"--resume needs --{seeds[0]}: another seed would give other pictures than those there")


def refuse_product(lists: Sequence[str], pictures: int) -> None:
    """Refuses several lists next to several pictures: each picture has one value of a list, and not all of them."""
    if pictures > 1 and len(lists) > 1:
        names = " and ".join(option_name(name) for name in lists)
        raise UsageError(f"{names} are lists; with several pictures, give one list, with a value for each picture")


def _columns(lengths: Sequence[int]) -> int | None:
    """The last list of several is a row; a single list is one row if it is short; else the grid is nearly square."""
    several = [length for length in lengths if length > 1]
    if len(several) > 1 or (several and several[0] <= ONE_ROW):
        return several[-1]
    return None


def with_view(model: Model, call: Call, scale: int | None, columns: int | None, sheet: bool) -> Call:
    """The call with the look of its pictures: enlarged, in columns, on a sheet with captions.

    Raises:
        UsageError: something that is not a picture, or tiles, cannot be enlarged; the picture would be too large.
    """
    import numpy as np

    if not sheet and not scale:
        return replace(call, view=View(columns=columns)) if columns else call
    if call.tile:
        raise UsageError(f"{'--sheet' if sheet else '--scale'} is not possible with --tile")
    task = model.manifest.tasks[call.task]
    port = next(iter(task.outputs.values()))
    form = kind_of(port).form_in(port, task.outputs)
    if not form.viewable:
        raise UsageError(f"{'--sheet' if sheet else '--scale'} is for pictures; {call.task} gives {form.name}")
    given = next((array.shape[-3:-1] for array in call.inputs.values() if array.ndim >= 4), (0, 0))
    sizes = zip(port.shape[-3:-1], given, strict=True)
    height, width = (known if isinstance(length, str) else length for length, known in sizes)
    chosen = scale or (readable_scale(width) if width else 1)
    view = View(chosen, columns, captions(task, call) if sheet else ())
    view.grid(np.broadcast_to(np.uint8(0), (_batch(task, call), height, width, 1)))  # refuses what is too large
    return replace(call, view=view)


def seen_again(model: Model, call: Call, layout: Any) -> Call:
    """The call with the look that a recipe's layout of pictures describes."""
    if not isinstance(layout, dict):
        return call
    scale, columns = layout.get("scale", 1), layout.get("columns")
    sheet = bool(layout.get("caption"))  # without a scale, a sheet chooses its own
    return with_view(model, call, scale if scale > 1 or sheet else None, columns, sheet)


def captions(task: Task, call: Call) -> tuple[tuple[str, ...], ...]:
    """What each picture of a call was made from, a line each: its file, class and seed, and the numbers that differ."""
    batch = _batch(task, call)
    lines: list[list[str]] = [[] for _ in range(batch)]

    def add(texts: Iterable[str]) -> None:
        for line, text in zip(lines, texts, strict=True):
            line.append(safe_text(text))

    for files in call.files.values():
        if len(files) == batch:
            add(file.name for file in files)
    shown = [(name, port) for name, port in task.inputs.items() if takes_list(port)]
    for name, port in sorted(shown, key=lambda item: kind_of(item[1]).drawn):
        if texts := kind_of(port).captions(name, port, call.inputs[name].tolist()):
            add(texts)
    return tuple(map(tuple, lines))


def _batch(task: Task, call: Call) -> int:
    return max((len(a) for name, a in call.inputs.items() if task.inputs[name].shape[:1] == (BATCH,)), default=1)
