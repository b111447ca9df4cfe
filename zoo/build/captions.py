"""What a folder says about its pictures besides their pixels: captions, and named values in a table.

`NAME.txt` next to `NAME.png` is its caption, with one line for each if there are several. A table is `metadata.jsonl`,
`metadata.csv` or `captions.csv`, as Hugging Face's image folders have it; its column `NAME_file_name` has files, such
as masks, which are not pictures of the data set themselves. docs/data.md describes both.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..errors import InvalidFileError, UsageError
from ..hookspecs import ArrayFacts
from ..media.files import read_input
from ..media.pictures import PICTURE_ENDINGS, upright_size
from ..names import PORT_NAME
from ..ports.label import repeated
from ..text import safe_text
from .arrays import IMAGES, LONGEST_CLASS, MOST_CLASSES, Column

TABLES = ("metadata.jsonl", "metadata.csv", "captions.csv")
FILE, TEXT = "file_name", "text"
FILES = f"_{FILE}"
"""How the name of a column of files ends."""
MOST_BYTES = 1 << 16
"""The longest caption."""


@dataclass(frozen=True)
class Table:
    """What a folder's table says, by line."""

    path: Path
    rows: list[tuple[int, dict[str, Any]]]
    pictures: frozenset[Path]  # that the rows are about
    files: frozenset[Path]  # named next to a picture, such as its mask


def table(folder: Path, others: Sequence[Path]) -> Table | None:
    """The table of a folder, if it has one.

    Args:
        folder: to whose table names of files belong.
        others: files that are not pictures.

    Raises:
        UsageError: there are several tables.
        InvalidFileError: a table has a wrong line.
    """
    tables = [path for path in others if path.parent == folder and path.name in TABLES]
    tables = [path for path in tables if _is_table(path)]
    if len(tables) > 1:
        raise UsageError(f"{safe_text(folder)} has {' and '.join(path.name for path in tables)}; keep one of them")
    if not tables:
        return None
    path = tables[0]
    text = _decoded(path, read_input(str(path)).data)
    rows = (_json_rows if path.suffix == ".jsonl" else _csv_rows)(path, text)
    files = set()
    for line, row in rows:
        for name in [name for name, value in row.items() if _names_files(name) and value is not None]:
            row[name] = _file(path, line, name, row[name])
            files.add(row[name])
    pictures = frozenset(folder / row[FILE] for _, row in rows if isinstance(row.get(FILE), str))
    return Table(path, rows, pictures, frozenset(files))


def columns(
    folder: Path, known: Table | None, pictures: Sequence[Path], others: Sequence[Path]
) -> tuple[dict[str, Column], frozenset[Path]]:
    """The named values of the pictures, and the files that they are in.

    Args:
        folder: to whose table names of files belong.
        known: its table.
        pictures: in the order of the values.
        others: files that are not pictures.

    Raises:
        UsageError: there are captions in a table and in files.
        InvalidFileError: the table has a wrong line.
    """
    tables = [known.path] if known else []
    stems = {picture.with_suffix("") for picture in pictures}
    texts = {path.with_suffix(""): path for path in others if path.suffix == ".txt" and path.with_suffix("") in stems}
    found = _of_table(folder, known, pictures) if known else {}
    if not texts:
        return found, frozenset(tables)
    if TEXT in found:
        first = min(texts.values())
        raise UsageError(
            f"{safe_text(folder)} has captions in {tables[0].name} and in files such as {safe_text(first.name)};"
            " keep one"
        )
    facts = ArrayFacts(dtype="str", shape=())
    found[TEXT] = Column(facts, partial(_captions, pictures, texts), np.arange(len(pictures)))
    return found, frozenset((*tables, *texts.values()))


# --- Files with captions ----------------------------------------------------------------------------------------------


def _captions(pictures: Sequence[Path], texts: Mapping[Path, Path]) -> np.ndarray:
    files = [texts.get(picture.with_suffix("")) for picture in pictures]
    _refuse_missing(TEXT, [picture for picture, file in zip(pictures, files, strict=True) if file is None])
    return _objects([_text(file) for file in files if file])


def _text(path: Path) -> str:
    data = read_input(str(path)).data
    if len(data) > MOST_BYTES:
        raise InvalidFileError(f"{safe_text(path)} has {len(data):,} bytes; a caption has at most {MOST_BYTES:,}")
    return _decoded(path, data).strip()


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidFileError(f"{safe_text(path)} is not UTF-8") from None


# --- Tables -----------------------------------------------------------------------------------------------------------


def _is_table(path: Path) -> bool:
    """Whether a table is about files: others of these names may be anything."""
    try:
        with path.open("rb") as file:
            return FILE.encode() in file.read(1 << 16).partition(b"\n")[0]
    except OSError:
        return False


def _of_table(folder: Path, known: Table, pictures: Sequence[Path]) -> dict[str, Column]:
    path = known.path
    places = {picture.relative_to(folder).as_posix(): place for place, picture in enumerate(pictures)}
    by_place: dict[int, dict[str, Any]] = {}
    for line, row in known.rows:
        name = row.get(FILE)
        if not isinstance(name, str) or name not in places:
            _refuse(path, line, f"{FILE} is {safe_text(repr(name))[:100]}, which is not a picture of this folder")
        if places[name] in by_place:
            _refuse(path, line, f"{safe_text(name)} is there twice")
        by_place[places[name]] = row
    names = sorted({name for row in by_place.values() for name in row})
    found = {name: _column(path, name, pictures, by_place) for name in names if _is_name(name)}
    for name in filter(_names_files, names):
        array = name.removesuffix(FILES)
        if array in found:
            raise InvalidFileError(f"{safe_text(path)} has the columns {array} and {name}; keep one of them")
        found[array] = _column_of_files(array, pictures, [by_place.get(i, {}).get(name) for i in range(len(pictures))])
    return found


def _is_name(name: str) -> bool:
    reserved = (IMAGES, "labels", "classes", FILE)
    return bool(PORT_NAME.fullmatch(name)) and name not in reserved and not _names_files(name)


def _names_files(name: str) -> bool:
    return name.endswith(FILES) and _is_name(name.removesuffix(FILES))


def _file(path: Path, line: int, name: str, value: Any) -> Path:
    """The picture that a table names, which must be in its folder."""
    parts = value.split("/") if isinstance(value, str) else []
    file = path.parent.joinpath(*parts)
    inside = parts and ".." not in parts and file.is_relative_to(path.parent)
    if not inside or file.suffix.lower() not in PICTURE_ENDINGS or not file.is_file():
        _refuse(path, line, f"{name} is {safe_text(repr(value))[:100]}, which is not a picture file in this folder")
    return file


def _column_of_files(name: str, pictures: Sequence[Path], files: Sequence[Path | None]) -> Column:
    """A column of pictures or masks. Each has the size of its picture, since both are cropped and scaled alike."""

    def read() -> np.ndarray:
        _refuse_missing(name, [picture for picture, file in zip(pictures, files, strict=True) if file is None])
        for picture, file in zip(pictures, files, strict=True):
            size, expected = (upright_size(read_input(str(path))) for path in (file, picture))
            if size != expected:
                raise InvalidFileError(
                    f"{safe_text(file)} is {size[0]}x{size[1]} pixels and {safe_text(picture)} is"
                    f" {expected[0]}x{expected[1]}; they must have the same size"
                )
        return _objects([str(file) for file in files])

    first = next(file for file in files if file is not None)
    width, height = upright_size(read_input(str(first)))
    return Column(ArrayFacts(dtype="uint8", shape=(height, width)), read, np.arange(len(pictures)), files=True)


def _json_rows(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for line, written in enumerate(text.splitlines(), 1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            _refuse(path, line, "it is not a JSON object")
        rows.append((line, row))
    return rows


def _csv_rows(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        header = next(reader)
        for row in reader:
            if row and len(row) != len(header):
                _refuse(path, reader.line_num, f"it has {len(row)} values; the header has {len(header)}")
            if row:
                values = zip(header, row, strict=True)
                rows.append((reader.line_num, {name: value for name, value in values if value != ""}))
    except csv.Error as e:
        _refuse(path, reader.line_num, str(e))
    return rows


def _column(path: Path, name: str, pictures: Sequence[Path], rows: Mapping[int, Mapping[str, Any]]) -> Column:
    """A column of a table: captions, a choice of words, or numbers."""
    values = [rows.get(place, {}).get(name) for place in range(len(pictures))]
    missing = [picture for picture, value in zip(pictures, values, strict=True) if value is None]
    given = [value for value in values if value is not None]

    def column(facts: ArrayFacts, made: Callable[[], np.ndarray]) -> Column:
        def read() -> np.ndarray:
            _refuse_missing(name, missing)
            return made()

        return Column(facts, read, np.arange(len(pictures)))

    if name == TEXT:
        long = next((v for v in given if not isinstance(v, str) or len(v.encode()) > MOST_BYTES), None)
        if long is not None:
            raise InvalidFileError(f"{safe_text(path)}: a text is not a text of at most {MOST_BYTES:,} bytes")
        return column(ArrayFacts(dtype="str", shape=()), lambda: _objects(values))
    numbers = [_number(value) for value in given]
    if None not in numbers:
        whole = all(isinstance(number, int) for number in numbers)
        dtype = np.int64 if whole else np.float32
        return column(ArrayFacts(dtype=np.dtype(dtype).name, shape=()), lambda: np.array(numbers, dtype))
    words = sorted({str(value) for value in given})
    if len(words) > MOST_CLASSES or any(len(word) > LONGEST_CLASS for word in words):
        raise InvalidFileError(
            f"{safe_text(path)}: {name} must be numbers, or at most {MOST_CLASSES:,} names of at most {LONGEST_CLASS}"
            " characters; captions are the column 'text'"
        )
    if twice := repeated(words):
        raise InvalidFileError(f"{safe_text(path)}: {name}: {twice}")
    places = {word: place for place, word in enumerate(words)}
    facts = ArrayFacts(dtype="int64", shape=(), classes=tuple(words))
    return column(facts, lambda: np.array([places[str(value)] for value in given], np.int64))


def _number(value: Any) -> int | float | None:
    """The number of a JSON value or of a field of a CSV; None: it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return None


def _objects(values: Sequence[Any]) -> np.ndarray:
    """As an array of objects: one of text would be as wide as the longest text, in every row."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _refuse_missing(name: str, missing: Sequence[Path]) -> None:
    if missing:
        others = f" and {len(missing) - 1:,} others" if len(missing) > 1 else ""
        raise UsageError(
            f"{safe_text(missing[0])}{others} {'have' if others else 'has'} no {name}; every picture needs it"
        )


def _refuse(path: Path, line: int, reason: str) -> NoReturn:
    raise InvalidFileError(f"{safe_text(path)}, line {line}: {safe_text(reason)}")
