"""How a picture was made: the text chunk `zoo` of a PNG, and making the picture again from it.

A recipe is JSON that a stranger may have written: it is read by a strict schema, names a model by reference and digest
(never a folder), and input files by name and SHA-256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import IntegrityError, InvalidFileError, NotFoundError, UsageError
from .hookspecs import Tolerance
from .media import MAX_METADATA, Grid, InputFile, Note, decode_png, read_input
from .model import Model
from .registry import Reference
from .run import MAX_NUMBER, TOKENS, Call, Result, execute, gather
from .sameness import Comparison, compare
from .text import safe_text

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1


class FileRecord(msgspec.Struct, frozen=True):
    """An input file: its name without folders (`-` was stdin), and its SHA-256."""

    name: str
    sha256: str


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a picture was made from and with."""

    format: int = FORMAT
    model: str  # reference; the digest decides
    digest: str
    task: str
    output: str  # the port whose pictures these are
    options: dict[str, Any]
    seed: int | None  # of the first picture
    number: int | None  # -n
    tile: int | None = None  # --tile
    example: bool  # inputs from the model's first golden case
    files: dict[str, list[FileRecord]]  # by option
    provider: str
    versions: dict[str, str]
    grid: Grid  # of the whole batch
    index: int | None = None  # the one picture of the batch that this file holds; None: all, as a grid


# Made here, before any thread: msgspec crashes where several threads are the first to decode a type.
_RECIPES = msgspec.json.Decoder(Recipe)


@dataclass(frozen=True)
class Remade:
    """A picture that was made again."""

    call: Call
    result: Result
    pictures: np.ndarray  # uint8 [number, height, width, channels]: what the file holds
    comparison: Comparison


def write_recipe(model: Model, call: Call, result: Result, output: str, index: int | None = None) -> str:
    """The recipe of a call's pictures, as JSON."""
    import onnxruntime

    from . import __version__

    recipe = Recipe(
        model=public_reference(model),
        digest=model.digest,
        task=call.task,
        output=output,
        options=call.options,
        seed=call.seed,
        number=call.number,
        tile=call.tile,
        example=call.example,
        files={port: [FileRecord(f.name, f.sha256) for f in files] for port, files in call.files.items()},
        provider=result.provider,
        versions={"zoo": __version__, "onnxruntime": onnxruntime.__version__},
        grid=Grid.of(result.outputs[output]),
        index=index,
    )
    return msgspec.json.encode(recipe).decode()


def public_reference(model: Model) -> str:
    """The model's name for a file that travels: never the folder on this machine that a bundle was run from."""
    from .bundle import is_path

    own = f"{model.manifest.name}:{model.manifest.version}"
    return own if is_path(model.reference) else model.reference


def read_recipe(picture: str) -> tuple[Recipe, np.ndarray]:
    """A PNG's recipe, and its pictures as a batch.

    Raises:
        InvalidFileError: no PNG of zoo's, or one that another program changed.
    """
    file = read_input(picture)
    shown = safe_text(file.name)
    whole, text = decode_png(file)
    if text is None:
        raise InvalidFileError(f"{shown} does not say how it was made: zoo did not write it, or it lost its metadata")
    try:
        if len(text) > MAX_METADATA:
            raise msgspec.ValidationError(f"{len(text):,} characters")
        recipe = _RECIPES.decode(text)
    except (msgspec.MsgspecError, RecursionError) as e:
        raise InvalidFileError(f"{shown}: its metadata is not what zoo writes: {safe_text(e)[:200]}") from None
    if recipe.format != FORMAT:
        raise InvalidFileError(f"{shown}: its recipe has format {recipe.format}; this zoo reads {FORMAT}: upgrade zoo")
    grid = recipe.grid
    numbers = (grid.count, grid.columns, grid.height, grid.width)
    inside = recipe.index is None or 0 <= recipe.index < grid.count
    expected = grid.shape if recipe.index is None and min(numbers) > 0 else (grid.height, grid.width)
    if min(numbers) < 1 or grid.count > MAX_NUMBER or grid.gap < 0 or not inside or whole.shape[:2] != expected:
        raise InvalidFileError(f"{shown}: the picture's size and its recipe differ: another program changed it")
    return recipe, grid.split(whole) if recipe.index is None else whole[None]


def make_again(recipe: Recipe, expected: np.ndarray, model: Model, candidates: Sequence[str], note: Note) -> Remade:
    """Runs a recipe and compares its pictures with the expected ones, by the model's own tolerance.

    Args:
        model: with the recipe's digest.
        candidates: files that may be the recipe's inputs; they are told by their SHA-256.
    """
    if model.digest != recipe.digest:
        raise UsageError(
            f"{model.reference} has the digest {model.digest[:12]}…; the picture was made by {recipe_model(recipe)}"
        )
    _, task = model.manifest.task(recipe.task)
    if recipe.output not in task.outputs:
        raise InvalidFileError(f"the recipe names no output of {recipe.task}: '{safe_text(recipe.output)}'")
    kinds = {name: port.kind for name, port in task.inputs.items()}
    for option in recipe.options:
        if option == TOKENS or kinds.get(option) in ("image", "mask", "tensor"):
            raise InvalidFileError(
                f"the recipe gives the option {option} a path; files are named by their SHA-256 alone"
            )
    given: dict[str, Any] = dict(recipe.options)
    for option, records in recipe.files.items():
        paths = [find_input(record, candidates) for record in records]
        single = option == TOKENS or kinds.get(option) == "tensor"
        given[option] = paths[0] if single and paths else paths
    if recipe.seed is not None:
        given |= {name: recipe.seed for name, kind in kinds.items() if kind == "seed"}
    call = gather(model, recipe.task, given, number=recipe.number, example=recipe.example, tile=recipe.tile, note=note)
    result = execute(model, call)
    pictures = result.outputs[recipe.output]
    if recipe.index is not None:
        pictures = pictures[recipe.index : recipe.index + 1]
    key = f"{model.manifest.export.precision}/{result.provider}"
    tolerance = model.manifest.tolerances.get(key, Tolerance())
    return Remade(call, result, pictures, compare(task.outputs[recipe.output], expected, pictures, tolerance))


def recipe_reference(recipe: Recipe) -> str:
    """The reference to look for, digest included. A recipe that names a path is refused."""
    reference = Reference.parse(recipe.model)
    return str(Reference(reference.name, reference.registry, reference.version, recipe.digest))


def recipe_model(recipe: Recipe) -> str:
    """`vqvae-fashion:1 (ab12cd34ef56…)`."""
    return f"{safe_text(recipe.model)[:200]} ({safe_text(recipe.digest)[:12]}…)"


def find_input(record: FileRecord, candidates: Sequence[str]) -> str:
    """The path of an input file: the candidate with its bytes.

    Raises:
        NotFoundError, IntegrityError: none is there, or the one of that name has other bytes.
    """
    shown = "what stdin gave" if record.name == "-" else safe_text(record.name)
    changed = None
    for path in candidates:
        if not Path(path).is_file():
            continue
        file: InputFile = read_input(path)
        if file.sha256 == record.sha256:
            return path
        if file.name == record.name:
            changed = path
    ask = f"give the file with --file FILE (SHA-256 {safe_text(record.sha256)[:12]}…)"
    if changed:
        raise IntegrityError(f"{safe_text(changed)} is no longer the file that the picture was made from; {ask}")
    raise NotFoundError(f"the picture was made from {shown}, which is not here; {ask}")
