"""Recipes: how a file was made, stored inside it, e.g. in the text chunk `zoo` of a PNG.

A recipe is JSON that a stranger may have written. It is read with a strict schema, names a model by reference and
digest (never by folder), and input files by name and SHA-256.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ..errors import IntegrityError, InvalidFileError, NotFoundError, ZooError
from ..media.files import InputFile, read_input
from ..media.metadata import MAX_METADATA
from ..media.videos import read_video_file
from ..names import PortName, Sha256
from ..ports.kind import Form
from ..ports.kinds import forms
from ..system.paths import is_file, is_folder
from ..text import safe_text
from .reference import Reference

if TYPE_CHECKING:
    import numpy as np


FORMAT = 1


class FileRecord(msgspec.Struct, frozen=True):
    """An input file: its name without folders (`-` was stdin), and its SHA-256."""

    name: Annotated[str, msgspec.Meta(max_length=1000)]
    sha256: Sha256


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture was made: model, task and inputs."""

    format: int = FORMAT
    model: Annotated[str, msgspec.Meta(max_length=200)]  # reference; the digest is what counts
    digest: Sha256
    task: PortName
    output: PortName  # the port that gave these pictures
    options: dict[str, Any]
    seed: int | None  # of the first picture
    number: int | None  # -n
    tile: int | None = None  # --tile
    invert: bool = False  # --invert
    fit: bool = False  # --fit
    example: bool  # inputs came from the model's first golden case
    files: dict[str, list[FileRecord]]  # by option
    provider: str
    versions: dict[str, str]
    grid: Any = None  # how the whole batch is arranged in one file, as defined by the output's form
    index: int | None = None  # the element of the batch in this file; None: all


_IN_ARRAY = re.compile(r"(.+?(?:\.npz(:\w+))?)\[([0-9]{1,18})\]")  # `digits.npz:images[17]`

# Created here, before any thread: msgspec crashes if several threads are the first to decode a type.
_RECIPES = msgspec.json.Decoder(Recipe)


def read_recipe(path: str) -> tuple[Recipe, Form, np.ndarray]:
    """The recipe in a file that `zoo run` wrote, the form of the file, and the batch that it contains.

    Raises:
        InvalidFileError: zoo did not write the file, or another program changed it.
    """
    file = read_input(path)
    shown = file.shown
    form = next((form for form in forms() if form.reads(file)), None)
    text = form.recipe_of(file) if form else None
    if form is None or text is None:
        raise InvalidFileError(f"{shown} has no recipe: zoo did not write it, or it lost its metadata")
    try:
        if len(text) > MAX_METADATA:
            raise msgspec.ValidationError(f"{len(text):,} characters")
        recipe = _RECIPES.decode(text)
    except (msgspec.MsgspecError, RecursionError) as e:
        raise InvalidFileError(f"{shown}: its metadata is not what zoo writes: {safe_text(e)[:200]}") from None
    if recipe.format != FORMAT:
        raise InvalidFileError(f"{shown}: its recipe has format {recipe.format}; this zoo reads {FORMAT}: upgrade zoo")
    try:
        return recipe, form, form.decode_batch(file, recipe.grid, recipe.index)
    except (InvalidFileError, msgspec.ValidationError) as e:
        raise InvalidFileError(f"{shown}: {safe_text(e)[:200]}") from None


def recipe_reference(recipe: Recipe) -> str:
    """The reference to look up, including the digest. A recipe that names a path is refused."""
    reference = Reference.parse(recipe.model)
    return str(Reference(reference.name, reference.registry, reference.version, recipe.digest))


def recipe_model(recipe: Recipe) -> str:
    """`vqvae-fashion:1 (ab12cd34ef56…)`."""
    return f"{safe_text(recipe.model)[:200]} ({safe_text(recipe.digest)[:12]}…)"


def possible_names(record: FileRecord) -> list[str]:
    """What the file of a record may be called, without folders; of a picture in an array also the array's name."""
    name = Path(record.name).name
    found = _IN_ARRAY.fullmatch(name)
    return [name, found[1]] if found else [name]


def find_input(record: FileRecord, candidates: Sequence[str]) -> str | InputFile:
    """The path of an input file: the candidate with the right bytes. Of a picture in an array, the picture.

    Raises:
        NotFoundError, IntegrityError: there is none, or the one with that name has other bytes.
    """
    shown = "data from stdin" if record.name == "-" else safe_text(record.name)
    changed = None
    for path in candidates:
        file = _candidate(record, path)
        if file is None:
            continue
        if file.sha256 == record.sha256:
            return path if file.path == path else file
        if file.name == record.name:
            changed = path
    ask = f"give the file with --file FILE (SHA-256 {safe_text(record.sha256)[:12]}…)"
    if changed:
        raise IntegrityError(f"{safe_text(changed)} is no longer the file that the picture was made from; {ask}")
    raise NotFoundError(f"the picture was made from {shown}, which was not found; {ask}")


def _candidate(record: FileRecord, path: str) -> InputFile | None:
    """What a path has for a record: of an array, the picture with the record's number. None: there is no such file."""
    from ..media.sources import Stack

    if record.name.endswith("/"):  # a folder of frames
        return read_video_file(path) if is_folder(path) else None
    file, colon, _ = path.partition(".npz:")
    if not is_file(f"{file}.npz" if colon else path):
        return None
    if found := _IN_ARRAY.fullmatch(record.name):
        with suppress(ZooError):  # not an array, or without this picture
            stack = Stack(path if colon or not path.endswith(".npz") else path + (found[2] or ""))
            if (index := int(found[3])) < len(stack):
                return stack.read(index)
    return None if colon else read_input(path)
