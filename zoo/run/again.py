"""Writes and follows recipes: `zoo run` records how a file was made, and `zoo again` regenerates it.

`zoo.formats.recipe` defines and reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import InvalidFileError, UsageError
from ..formats.recipe import FileRecord, Recipe, find_input, recipe_model
from ..hookspecs import Task, Tolerance
from ..media.files import Note
from ..ports.kind import BATCH, Form, shape_text
from ..ports.kinds import drawn, kind_of
from ..text import safe_text, utf8
from .call import Call, Result, execute, gather, options_of
from .comparison import Comparison, compare
from .model import Model
from .products import seen_again

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Remade:
    """A regenerated output."""

    call: Call
    result: Result
    batch: np.ndarray  # what the file contains
    form: Form  # of the file
    comparison: Comparison


def write_recipe(model: Model, call: Call, result: Result, output: str, index: int | None = None) -> str:
    """The recipe of a call's pictures, as JSON."""
    from .. import __version__

    ports = model.manifest.tasks[call.task].outputs
    recipe = Recipe(
        model=public_reference(model),
        digest=model.digest,
        task=call.task,
        output=output,
        options=call.options,
        seed=call.seed,
        number=call.number,
        tile=call.tile,
        invert=call.invert,
        fit=call.fit,
        example=call.example,
        files={port: [FileRecord(utf8(f.name), f.sha256) for f in files] for port, files in call.files.items()},
        provider=result.provider,
        versions={"zoo": __version__, "onnxruntime": result.runtime_version},
        grid=call.form(ports[output], ports).layout(result.outputs[output]),
        index=index,
    )
    return msgspec.json.encode(recipe).decode()


def public_reference(model: Model) -> str:
    """The model's name for a file that may be shared: never the folder on this machine that a bundle was run from."""
    from ..store.locate import is_path

    own = f"{model.manifest.name}:{model.manifest.version}"
    return own if is_path(model.reference) else model.reference


def make_again(recipe: Recipe, expected: np.ndarray, model: Model, candidates: Sequence[str], note: Note) -> Remade:
    """Runs a recipe and compares its pictures with the expected ones, within the model's own tolerance.

    Args:
        model: a model with the recipe's digest.
        candidates: files that may be the recipe's inputs; they are recognised by their SHA-256.
    """
    if model.digest != recipe.digest:
        raise UsageError(
            f"{model.reference} has the digest {model.digest[:12]}…; the picture was made by {recipe_model(recipe)}"
        )
    _, task = model.manifest.task(recipe.task)
    if recipe.output not in task.outputs:
        raise InvalidFileError(
            f"the recipe names '{safe_text(recipe.output)}', which is not an output of {recipe.task}"
        )
    options = {option.name: option for option in options_of(task)}
    for name in recipe.options:
        if name in options and options[name].file:
            raise InvalidFileError(f"the recipe gives the option {name} a path; files must be named by their SHA-256")
    _check_number(recipe, task, expected)
    given: dict[str, Any] = dict(recipe.options)
    for name, records in recipe.files.items():
        paths = [find_input(record, candidates) for record in records]
        single = name in options and not options[name].multiple
        given[name] = paths[0] if single and paths else paths
    if recipe.seed is not None:
        given |= dict.fromkeys(drawn(task.inputs), recipe.seed)
    call = gather(
        model, recipe.task, given, number=recipe.number, example=recipe.example, tile=recipe.tile,
        invert=recipe.invert, fit=recipe.fit, note=note,
    )  # fmt: skip
    call = seen_again(model, call, recipe.grid)
    result = execute(model, call)
    port = task.outputs[recipe.output]
    form = kind_of(port).form_in(port, task.outputs)
    batch = form.kept(result.outputs[recipe.output])
    if recipe.index is not None:
        batch = batch[recipe.index : recipe.index + 1]
    key = f"{model.manifest.export.precision}/{result.provider}"
    tolerance = model.manifest.tolerances.get(key, Tolerance())
    return Remade(call, result, batch, form, compare(port, expected, batch, tolerance))


def _check_number(recipe: Recipe, task: Task, expected: np.ndarray) -> None:
    """Refuses a recipe whose inputs are not one, or as many as the outputs that its file has.

    A stranger's recipe may ask for any number: for a file with one picture, 100,000 would be computed.
    """
    port = task.outputs[recipe.output]
    form = kind_of(port).form_in(port, task.outputs)
    fits = len(port.shape) == expected.ndim and all(
        d == length for d, length in zip(port.shape, expected.shape, strict=True) if isinstance(d, int)
    )
    if form.shared or not fits:
        given = f"{expected.dtype} {shape_text(expected.shape)}"
        raise InvalidFileError(f"the file contains {given}; {recipe.task} gives {kind_of(port).describe(port)}")
    count = form.count(recipe.grid, expected)
    lists = {
        name: value
        for name, value in recipe.options.items()
        if isinstance(value, list) and name in task.inputs and task.inputs[name].shape[:1] == (BATCH,)
    }
    for name, given in (lists | recipe.files).items():
        if len(given) not in (1, count):
            raise InvalidFileError(f"the recipe has {len(given):,} values of {safe_text(name)} for {count:,} outputs")
    if recipe.number not in (None, count):
        raise InvalidFileError(f"the recipe asks for {recipe.number:,} outputs; its file is one of {count:,}")
