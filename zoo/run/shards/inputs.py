"""What a batch takes: listed one by one, without reading it, and read when its shard is made, in another process.

An input crosses to that process as an entry: a short list that says where it is. Nothing here is kept for all inputs.
"""

from __future__ import annotations

import os
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from ...errors import InvalidFileError, NotFoundError, UsageError
from ...media.files import STDIN, InputFile, checked_input
from ...media.sources import Item, Stack, each
from ...system.leftovers import left_behind
from ...system.paths import cannot_read, reason, user_path
from ...text import did_you_mean, safe_text
from ..tables import need_pyarrow

PARQUET, TAR = ".parquet", ".tar"
ROWS = 256
"""Rows of a Parquet file that are decoded at a time."""

MOST_OPEN = 4
"""Files with several inputs that a process has open."""

_BLOCK = 512  # bytes of a tar

Entry = list[Any]
"""`[form, path, …]`: `file`; `frames` and the endings of its frames; `image` and its number in an array; `row`, the
column and its number in a Parquet file; `member`, its name, offset and size in a tar."""


def list_entries(
    words: Iterable[str], column: str | None, endings: Collection[str], frames: Collection[str]
) -> Iterator[Entry]:
    """The inputs that words on a command line stand for, in that order.

    Args:
        words: as for `zoo.media.sources.each`, and Parquet files and tars: of a tar, the files with one of the endings.
        column: of Parquet files; None: `image`, or the only one that contains files.
        endings, frames: as for `each`.

    Raises:
        NotFoundError, InvalidFileError, UsageError: one line.
    """
    for word in words:
        if word in (STDIN, "@" + STDIN):
            raise UsageError("stdin cannot be read again to resume; give files, or a list in a file: @FILE")
    for item in each(words, (), {*endings, PARQUET, TAR}, frames):
        ending = os.path.splitext(item.path)[1].lower()  # noqa: PTH122 - there may be millions
        if item.stack:
            yield ["image", item.path, item.index]
        elif item.frames:
            yield ["frames", item.path, list(item.frames)]
        elif ending == PARQUET:
            name, count = _check_parquet(item.path, column)
            for row in range(count):
                yield ["row", item.path, name, row]
        elif ending == TAR:
            yield from _members(item.path, endings)
        elif item.path.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
            raise UsageError(f"{safe_text(item.path)} is compressed as a whole, so its files cannot be read one by one;"
                             " unpack it to a .tar")  # fmt: skip
        else:
            yield ["file", item.path]


@dataclass(frozen=True, slots=True)
class Input(Item):
    """An input that is read where it is, or was read already; `path` is what a message calls it."""

    called: str = ""
    source: Callable[[], InputFile] | None = None
    sha256: str = ""  # of its bytes, which must not change

    @property
    def stem(self) -> str:
        return self.called

    def read(self) -> InputFile:
        if self.file:
            return self.file
        assert self.source
        file = self.source()
        if self.sha256 and file.sha256 != self.sha256:
            raise UsageError(f"{file.shown} was changed while it was read; run the command again")
        return file


class Reader:
    """Reads entries; files with several of them stay open for the next."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, ...], Any] = {}

    def input_of(self, entry: Entry) -> Input:
        """The input that an entry stands for; it is not read yet.

        Raises:
            NotFoundError, InvalidFileError: the array that it is in cannot be read.
        """
        form, path, *where = entry
        if form == "row":
            column, row = where
            shown = f"{path}[{row}]"
            return Input(shown, called=f"{Path(path).stem}-{row}", source=partial(self._row, path, column, row, shown))
        if form == "member":
            name, offset, size = where
            shown = f"{path}/{name}"
            called = Path(name).name.partition(".")[0]
            return Input(shown, called=called, source=partial(self._member, path, offset, size, shown))
        if form == "image":
            item = Item(path, self._opened(Stack, path), where[0])
        else:
            item = Item(path, frames=tuple(where[0])) if form == "frames" else Item(path)
        return Input(item.shown, called=item.stem, source=item.read)

    def _opened(self, opens: Callable[..., Any], *key: str) -> Any:
        if key not in self._open:
            if len(self._open) >= MOST_OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[key] = opens(*key)
        return self._open[key]

    def _row(self, path: str, column: str, row: int, shown: str) -> InputFile:
        return checked_input(os.path.basename(shown), self._opened(_Rows, path, column).read(row, shown), shown)  # noqa: PTH119

    def _member(self, path: str, offset: int, size: int, shown: str) -> InputFile:
        try:
            file = self._opened(_opened_file, path)
            file.seek(offset)
            data = file.read(size)
        except OSError as e:
            raise cannot_read(path, e) from None
        if len(data) < size:
            raise InvalidFileError(f"{safe_text(shown)} is cut short")
        return checked_input(os.path.basename(shown), data, shown)  # noqa: PTH119


def _opened_file(path: str) -> Any:
    return user_path(path).open("rb")


def _parquet(path: str) -> Any:
    """An open Parquet file."""
    need_pyarrow(safe_text(path))
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = user_path(path)
    if not place.is_file():
        raise NotFoundError(f"{safe_text(path)} does not exist")
    try:
        return pq.ParquetFile(str(place))
    except (pa.ArrowException, OSError, ValueError) as e:
        raise InvalidFileError(f"{safe_text(path)} is not a Parquet file that can be read: {reason(e)[:200]}") from None


def _check_parquet(path: str, column: str | None) -> tuple[str, int]:
    """The column with the inputs, and how many rows there are."""
    with _parquet(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    files = [field.name for field in schema if _has_files(field.type)]
    shown = safe_text(path)
    if column is None:
        if "image" in files or len(files) == 1:
            return "image" if "image" in files else files[0], count
        which = f"several columns with files: {', '.join(files)}" if files else "no column with the bytes of files"
        raise UsageError(f"{shown} has {safe_text(which)[:300]}; --column names one")
    if column not in schema.names:
        known = did_you_mean(column, schema.names) or f"; it has {safe_text(', '.join(schema.names))[:300]}"
        raise UsageError(f"{shown} has no column '{safe_text(column)}'{known}")
    if column not in files:
        found = safe_text(schema.field(column).type)[:100]
        raise UsageError(
            f"{shown}: the column {safe_text(column)} has {found}; it must have the bytes of files (binary)"
        )
    return column, count


def _has_files(kind: Any) -> bool:
    """Whether a column has bytes, or structs with a field `bytes` of them, as data sets of pictures often do."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _has_files(field.type) for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


class _Rows:
    """A column of a Parquet file, read from front to back."""

    def __init__(self, path: str, column: str):
        self.path, self._column = path, column
        self._file = _parquet(path)
        lengths = [self._file.metadata.row_group(n).num_rows for n in range(self._file.num_row_groups)]
        self._starts = [0, *accumulate(lengths)][:-1]  # the first row of each row group
        self._batches: Iterator[Any] = iter(())
        self._values: Any = ()
        self._first = -1  # the row of the first of the values; nothing is read yet

    def read(self, row: int, shown: str) -> bytes:
        import pyarrow as pa

        try:
            group = bisect_right(self._starts, row) - 1
            if not self._starts[group] <= self._first <= row:  # else what is between is only passed over
                self._first, self._values = self._starts[group], ()
                groups = list(range(group, len(self._starts)))
                self._batches = self._file.iter_batches(ROWS, row_groups=groups, columns=[self._column])
            while row >= self._first + len(self._values):
                self._first += len(self._values)
                self._values = next(self._batches).column(0)
            value = self._values[row - self._first]
            if pa.types.is_struct(value.type):
                value = value["bytes"] if value.is_valid else value
            data = value.as_py()
        except (pa.ArrowException, OSError, ValueError, StopIteration, IndexError, KeyError) as e:
            raise InvalidFileError(f"{safe_text(shown)} cannot be read: {reason(e)[:200]}") from None
        if not isinstance(data, bytes):
            raise InvalidFileError(f"{safe_text(shown)} has no bytes")
        return data


def _members(path: str, endings: Collection[str]) -> Iterator[Entry]:
    """The files in a tar that have one of the endings, in its order; other files, such as labels, are left out."""
    place, found = user_path(path), False
    try:
        size = place.stat().st_size
        with place.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]
                if member.offset_data + member.size > size:
                    raise InvalidFileError(f"{safe_text(path)} is cut short: it ends within {safe_text(member.name)}")
                name = os.path.basename(member.name)  # noqa: PTH119
                if member.isreg() and os.path.splitext(name)[1].lower() in endings and not left_behind(name):  # noqa: PTH122
                    found = True
                    yield ["member", path, member.name, member.offset_data, member.size]
            file.seek(max(0, size - _BLOCK))
            if file.read().strip(b"\0") or size < 2 * _BLOCK:
                raise InvalidFileError(f"{safe_text(path)} is cut short: a tar ends with a block of zeros")
    except FileNotFoundError:
        raise NotFoundError(f"{safe_text(path)} does not exist") from None
    except tarfile.TarError as e:
        raise InvalidFileError(f"{safe_text(path)} is not a tar that can be read: {reason(e)[:200]}") from None
    except OSError as e:
        raise cannot_read(path, e) from None
    if not found:
        raise InvalidFileError(f"{safe_text(path)} has no files ({', '.join(sorted(endings))})")
