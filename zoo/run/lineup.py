"""A lineup: several models draw from the same seeds, labels or pictures, and the results are put on one sheet."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..hookspecs import Task
from ..media.files import InputFile, Note, read_input, refuse_stdin_twice
from ..media.pictures import encode_png
from ..media.sheet import View, alike, interleave, readable_scale
from ..ports import label
from ..ports.image import images_of
from ..ports.kinds import drawn, kind_of
from ..ports.label import labels_of
from ..ports.text import main_text, refuse_no_text
from .again import public_reference
from .batches import batch_length
from .call import Call, Result, check_number, execute, gather, options_of
from .model import Model
from .products import captions, expand

if TYPE_CHECKING:
    import numpy as np

SEEDS = 8
"""How many pictures are drawn if nothing says so."""
COLUMNS = 8


@dataclass(frozen=True)
class Asked:
    """What every model is given."""

    task: str | None = None  # None: the first model's default task
    images: Sequence[str | InputFile] = ()
    labels: Sequence[str] = ()  # class names, numbers, lists
    texts: Sequence[str] = ()  # one for all pictures, or one for each; `@FILE`: its lines
    seed: int | Sequence[int] | None = None
    number: int | None = None
    others: Mapping[str, Any] = field(default_factory=dict)  # by port
    scale: int | None = None  # of the sheet; None: room for the captions


@dataclass(frozen=True)
class Row:
    """What one model gave."""

    model: Model
    call: Call
    result: Result
    notes: list[str]

    @property
    def pictures(self) -> np.ndarray:
        """uint8 [number, height, width, channels]."""
        return next(iter(self.result.outputs.values()))

    @property
    def seconds(self) -> float:
        """For one picture."""
        return self.result.seconds / len(self.pictures)


def row_captions(row: Row) -> tuple[tuple[str, ...], ...]:
    """What each picture of a model was made from, as far as the model takes it."""
    return captions(row.model.manifest.tasks[row.call.task], row.call)


@dataclass(frozen=True)
class Lineup:
    """What all models gave."""

    rows: list[Row]
    columns: int
    scale: int | None = None

    def sheet(self) -> bytes:
        """A PNG with a row for each model, under the pictures that they were given, if any."""
        first = self.rows[0]
        task = first.model.manifest.tasks[first.call.task]
        given = [first.call.inputs[name] for name in images_of(task.inputs)] if first.call.files else []
        batches = alike([*given, *(row.pictures for row in self.rows)])
        captioned = [("given", row_captions(first)) for _ in given]
        captioned += [(public_reference(row.model), row_captions(row)) for row in self.rows]
        texts: list[tuple[str, ...]] = []
        for start in range(0, len(first.pictures), self.columns):
            for name, lines in captioned:
                row = [(name, *line) for line in lines[start : start + self.columns]]
                texts += [*row, *[()] * (self.columns - len(row))]
        view = View(self.scale or readable_scale(batches[0].shape[2]), self.columns, tuple(texts))
        return encode_png(view.draw(interleave(batches, self.columns)))


def line_up(models: Sequence[Model], asked: Asked, note: Note) -> Lineup:
    """Runs every model on the same values. Labels are matched by their class names.

    Raises:
        UsageError: fewer than two models, a task that does not give pictures, or an option that no model has.
        NotFoundError: a model without the task.
    """
    if len(models) < 2:
        raise UsageError("name at least two models: zoo compare A B …")
    check_number(asked.number)
    name, _ = models[0].manifest.task(asked.task)
    tasks = [model.manifest.task(name)[1] for model in models]
    for model, task in zip(models, tasks, strict=True):
        port = next(iter(task.outputs.values()))
        form = kind_of(port).form_in(port, task.outputs)
        if not form.viewable or form.moves:
            raise UsageError(
                f"{name} of {model.reference} gives {form.name}; compare is for pictures: choose another --task"
            )
    seeded = next((task for task in tasks if drawn(task.inputs)), None)
    labelled = next((task for task in tasks if labels_of(task.inputs)), None)
    if asked.labels and not labelled:
        raise UsageError(f"none of the models takes a label for {name}")
    if (asked.seed is not None or asked.number is not None) and not seeded:
        raise UsageError(f"{name} takes no seed: every model gives the same picture every time")
    if asked.texts:
        if not (written := next((task for task in tasks if main_text(task.inputs)), None)):
            raise UsageError(f"none of the models takes a text for {name}")
        port_name = main_text(written.inputs) or ""
        port = written.inputs[port_name]
        asked = replace(asked, texts=kind_of(port).read_once(port_name, port, tuple(asked.texts)))
    lists, columns = _lists(seeded, labelled, asked, note)
    refuse_stdin_twice(asked.images)
    asked = replace(asked, images=[read_input(image) for image in asked.images])  # once: one may be stdin
    calls = [_call(model, name, lists, labelled, asked, note) for model in models]
    counts = [batch_length(task.inputs, call.inputs) for task, (call, _) in zip(tasks, calls, strict=True)]
    if len(set(counts)) > 1:
        raise UsageError(f"the models give {' and '.join(map(str, counts))} pictures; they must give the same number")
    columns = min(columns or COLUMNS, counts[0])
    _check_size(tasks, [call for call, _ in calls], columns, asked.scale)
    rows = [Row(model, call, execute(model, call), notes) for model, (call, notes) in zip(models, calls, strict=True)]
    return Lineup(rows, columns, asked.scale)


def _check_size(tasks: Sequence[Task], calls: Sequence[Call], columns: int, scale: int | None) -> None:
    """Refuses a sheet that would be too large, before a picture is drawn."""
    import numpy as np

    sizes = []
    for task, call in zip(tasks, calls, strict=True):
        given = [call.inputs[name].shape[1:3] for name in images_of(task.inputs)]
        stated = next(iter(task.outputs.values())).shape[1:3]
        sizes += given + ([stated] if all(isinstance(length, int) for length in stated) else [])
    if not sizes:
        return
    height, width = (max(int(size[axis]) for size in sizes) for axis in (0, 1))
    rows = -(-batch_length(tasks[0].inputs, calls[0].inputs) // columns) * len(calls)
    whole = np.broadcast_to(np.uint8(0), (rows * columns, height, width, 1))
    View(scale or readable_scale(width), columns, (("its model",),)).grid(whole)


def _lists(
    seeded: Task | None, labelled: Task | None, asked: Asked, note: Note
) -> tuple[dict[str, list[int]], int | None]:
    """A label and a seed for each picture, by kind, and the columns of the sheet."""
    inputs, given, number = {}, {}, asked.number
    if labelled and asked.labels:
        inputs["label"] = labelled.inputs[labels_of(labelled.inputs)[0]]
        given["label"] = tuple(asked.labels)
    if seeded:
        inputs["seed"] = seeded.inputs[drawn(seeded.inputs)[0]]
        given["seed"] = asked.seed
        if asked.seed is None or isinstance(asked.seed, int):
            each = len(asked.images) or (len(asked.texts) if len(asked.texts) > 1 else 0)
            default = each or (1 if asked.labels else SEEDS)
            seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
            if asked.seed is None:
                note(f"seed {seed}")
            array, _ = kind_of(inputs["seed"]).draw("seed", seed, number or default, note)
            given["seed"], number = array.tolist(), None
    product = expand(Task(summary="", inputs=inputs, outputs={}), given, number, note)
    return {kind: list(values) for kind, values in product.given.items()}, product.columns


def _call(
    model: Model, name: str, lists: Mapping[str, list[int]], labelled: Task | None, asked: Asked, note: Note
) -> tuple[Call, list[str]]:
    """What a model is given, and the notes about it."""
    task = model.manifest.tasks[name]
    notes: list[str] = []

    def say(line: str) -> None:
        notes.append(line)
        note(f"{model.reference}: {line}")

    if own_seed := next((name for name in drawn(task.inputs) if name in asked.others), None):
        raise UsageError(f"--set {own_seed}=…: the seed has an option of its own, --seed")
    if asked.labels and (own_label := next((name for name in labels_of(task.inputs) if name in asked.others), None)):
        raise UsageError(f"--label and --set {own_label}=… name the label twice; give one of the two")
    given: dict[str, Any] = dict(asked.others)
    if "seed" in lists:
        if seeds := drawn(task.inputs):
            given |= dict.fromkeys(seeds, lists["seed"])
        else:
            say("takes no seed")
    if "label" in lists and labelled:
        if own := labels_of(task.inputs):
            classes = labelled.inputs[labels_of(labelled.inputs)[0]].classes
            numbers = label.numbers("label", labelled.inputs[labels_of(labelled.inputs)[0]], lists["label"])
            named = [classes[value] if 0 <= value < len(classes) else value for value in numbers]
            same = task.inputs[own[0]].classes
            given[own[0]] = named if same else numbers
        else:
            say("takes no label")
    own_text = main_text(task.inputs)
    if asked.texts and own_text:
        if own_text in asked.others:
            raise UsageError(f"--text and --set {own_text}=… name the text twice; give one of the two")
        given[own_text] = list(asked.texts)
    elif asked.texts:
        say("takes no text")
    refuse_no_text(f"{name} of {model.reference}", task.inputs, given)
    if asked.images:
        main = next((option for option in options_of(task) if option.positional), None)
        if main is None or main.name not in images_of(task.inputs):
            takes = f"{main.name}, not pictures" if main else "no picture"
            others = [other for other, it in model.manifest.tasks.items() if images_of(it.inputs) and not it.part_of]
            choose = f"; --task chooses another: {', '.join(others)}" if others else ""
            raise UsageError(f"{name} of {model.reference} takes {takes}{choose}")
        if main.name in asked.others:
            raise UsageError(f"--image and --set {main.name}=… name the picture twice; give one of the two")
        given[main.name] = tuple(asked.images)
    return gather(model, name, given, note=say), notes
