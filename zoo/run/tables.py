"""Tables of labels, numbers and tokens: one row per picture, as CSV, JSON lines or Parquet, with its file first."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidFileError, StoreError, UsageError
from ..hookspecs import Port, Task
from ..ports.kind import BATCH
from ..ports.kinds import kind_of
from ..ports.label import labels_of
from ..system.installation import install_command
from ..system.paths import reason, user_path
from ..text import safe_text
from .naming import refuse_placeholders

if TYPE_CHECKING:
    import numpy as np

ENDINGS = (".csv", ".jsonl", ".parquet")
GROUP_BYTES = 32 << 20
"""Of rows that are kept to become one row group of a Parquet file."""
FILE = "file"


def is_table(out: str | None) -> bool:
    """Whether a name asks for a table."""
    return bool(out) and Path(str(out)).suffix.lower() in ENDINGS


def check_table(task_name: str, task: Task, out: str) -> None:
    """Refuses a table that cannot be written, before anything is run.

    Raises:
        UsageError: the task gives pictures, the name has a placeholder, or Parquet files need an extra.
        StoreError: the folder does not exist or cannot be written.
    """
    for name, port in task.outputs.items():
        if not (form := kind_of(port).form_in(port, task.outputs)).shared:
            endings = " or ".join(form.suffixes)
            raise UsageError(f"{task_name} gives {name}, which does not fit into a table; --out must end in {endings}")
    refuse_placeholders(out)
    path = user_path(out, out=True)
    if path.exists() and not path.is_file():  # a named pipe would wait for its reader, and could not be resumed
        raise StoreError(f"cannot write {safe_text(path)}: a table must be a plain file")
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        wrong = "cannot be written; give another --out" if folder.is_dir() else "does not exist; create it first"
        raise StoreError(f"the folder {safe_text(folder)} {wrong}")
    if out.lower().endswith(".parquet"):
        need_pyarrow(f"--out {safe_text(out)}")


def need_pyarrow(what: str) -> None:
    """Raises UsageError if there is no pyarrow, which Parquet files need."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UsageError(f"{what}: Parquet files need pyarrow: {install_command('tables')}") from None


class Table:
    """A table that is written batch by batch. Rows that are in the file are safe from what comes later.

    Columns: `file` with the name of the picture, `seed` for a task that draws one, then one per output. A label is its
    class name. CSV has one column per number of a short list (`probabilities.Shirt`), and JSON for a longer one.

    Args:
        resume: keep the rows that are there, and add others. `done` has their first column.

    Raises:
        InvalidFileError: to resume a file that is not such a table.
        StoreError: it cannot be written.
    """

    def __init__(self, out: str, task: Task, *, resume: bool = False):
        self.path = user_path(out, out=True)
        self._task, self._kind = task, self.path.suffix.lower()
        self._file: Any = None
        self._header: list[str] | None = None
        self.done: set[str] = set()
        try:
            if self._kind == ".parquet":
                self._writer: Any = None
                self._rows: list[Any] = []  # tables that are not written yet
                self._new = self.path.with_name(f".{self.path.name}.{os.getpid()}~")
                self._old = self._read_parquet() if resume and self.path.exists() else None
                return
            if resume and self.path.exists():
                self._read_text()
            self._file = self.path.open(
                "a" if self.done else "w", newline="", encoding="utf-8", errors="surrogateescape"
            )
        except OSError as e:
            raise self._cannot_write(e) from None

    def write(
        self, names: Sequence[str], seeds: Sequence[int] | None, outputs: Mapping[str, np.ndarray | list[bytes]]
    ) -> None:
        """Adds the rows of a batch.

        Args:
            names: of the pictures.
            outputs: by port, with the batch axis where the port has one; or files, for a column of Parquet.
        """
        import numpy as np

        columns: dict[str, Any] = {FILE: list(names)}
        if seeds is not None:
            columns["seed"] = _typed(np.asarray(seeds, np.int64)) if self._kind == ".parquet" else list(seeds)
        for name, port in self._task.outputs.items():
            output = outputs[name]
            if isinstance(output, list):
                columns[name] = _files(output)
                continue
            each = port.shape[:1] == (BATCH,)
            if self._kind == ".parquet" and not each:
                output, each = np.broadcast_to(output, (len(names), *output.shape)), True
            for column, values in self._columns(name, port, output).items():
                columns[column] = values if each else [values] * len(names)
        try:
            getattr(self, f"_write_{self._kind[1:]}")(columns)
        except OSError as e:
            raise self._cannot_write(e) from None

    def close(self) -> None:
        """Ends the file. A Parquet file only now replaces the one that was there."""
        try:
            if self._kind != ".parquet":
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
            elif self._rows or self._writer:
                self._write_group()
                self._writer.close()
                self._new.replace(self.path)
        except OSError as e:
            raise self._cannot_write(e) from None

    def _columns(self, name: str, port: Port, array: np.ndarray) -> dict[str, list[Any]]:
        if labels_of({name: port}):
            return {name: [port.classes[n] if 0 <= n < len(port.classes) else n for n in array.tolist()]}
        if self._kind == ".parquet":
            return {name: _typed(array)}
        if array.dtype.kind == "f":
            array = array.astype(str).astype(float)  # 0.1, and not the 0.10000000149011612 that is in the float32
        if self._kind == ".jsonl":
            return {name: array.tolist()}
        if array.ndim == 2 and port.shape[:1] == (BATCH,) and isinstance(port.shape[1], int):
            return {f"{name}.{column}": array[:, i].tolist() for i, column in enumerate(self._names(port))}
        if array.ndim > 1 or port.shape[:1] != (BATCH,):
            texts = [json.dumps(value) for value in (array if port.shape[:1] == (BATCH,) else array[None]).tolist()]
            # Without a batch there is one text, which goes into each row.
            return {name: texts if port.shape[:1] == (BATCH,) else texts[0]}  # type: ignore[dict-item]
        return {name: array.tolist()}

    def _names(self, port: Port) -> Sequence[object]:
        """Names of the entries of a short list: those of the classes, if there is one for each."""
        length = int(port.shape[1])
        for name in labels_of(self._task.outputs):
            if len(classes := self._task.outputs[name].classes) == length:
                return classes
        return range(length)

    def _write_csv(self, columns: Mapping[str, Sequence[Any]]) -> None:
        import csv

        writer = csv.writer(self._file, lineterminator="\n")
        if self._header is None:
            writer.writerow(columns)
        self._check_columns(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        self._file.flush()

    def _check_columns(self, columns: Mapping[str, object]) -> None:
        """Refuses rows with other columns than those that are in the file."""
        if self._header is None:
            self._header = list(columns)
        elif self._header != list(columns):
            raise self._other_table()

    def _write_jsonl(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._check_columns(columns)
        for row in zip(*columns.values(), strict=True):
            self._file.write(json.dumps(dict(zip(columns, row)), ensure_ascii=False) + "\n")
        self._file.flush()

    def _write_parquet(self, columns: Mapping[str, Sequence[Any]]) -> None:
        import pyarrow as pa

        names = [os.fsencode(name).decode("utf-8", "replace") for name in columns[FILE]]
        texts = {
            name: pa.array(values, pa.string())
            for name, values in columns.items()
            if isinstance(values, list) and not values
        }
        table = pa.table({**columns, **texts, FILE: pa.array(names, pa.string())})
        if not self._rows and not self._writer and self._old is not None and self._old.schema != table.schema:
            raise self._other_table()  # before there is a writer, whose end would replace the user's table
        self._rows.append(table)
        if sum(rows.nbytes for rows in self._rows) >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            return
        table = pa.concat_tables(self._rows)
        self._rows = []
        if self._writer is None:
            self._writer = pq.ParquetWriter(str(self._new), table.schema)
            if self._old is not None:
                self._writer.write_table(self._old)
        self._writer.write_table(table)

    def _read_parquet(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            old = pq.read_table(str(self.path))
            self.done = set(old.column(FILE).to_pylist())
        except (pa.ArrowException, KeyError, ValueError):
            raise self._other_table() from None
        return old

    def _read_text(self) -> None:
        """Reads the first column, and cuts off a last line that was not finished."""
        import csv

        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        start = f"{FILE}," if self._kind == ".csv" else f'{{"{FILE}": '
        if not whole and not start.startswith(data[: len(start)].decode("ascii", "replace")):
            raise self._other_table()
        lines = whole.decode("utf-8", "surrogateescape").split("\n")[:-1]
        try:
            if self._kind == ".csv":
                rows = csv.reader(line + "\n" for line in lines)
                self._header = next(rows, None)
                if self._header and self._header[0] != FILE:
                    raise ValueError
                self.done = {row[0] for row in rows}
                self._header = self._header if self.done else None
            else:
                for line in lines:
                    row = json.loads(line)
                    self._header = self._header or list(row)
                    self.done.add(row[FILE])
        except (ValueError, KeyError, TypeError, IndexError, RecursionError, csv.Error):
            raise self._other_table() from None
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))

    def _other_table(self) -> InvalidFileError:
        return InvalidFileError(f"{safe_text(self.path)} is not a table that this command wrote; give another --out")

    def _cannot_write(self, error: OSError) -> StoreError:
        return StoreError(f"cannot write {safe_text(self.path)}: {reason(error)}")


def _typed(array: np.ndarray) -> Any:
    """Nested lists, whose numbers have the array's dtype: a column for an array with the batch axis."""
    import numpy as np
    import pyarrow as pa

    values = pa.array(np.ravel(array))
    for length in reversed(array.shape[1:]):
        values = pa.ListArray.from_arrays(np.arange(0, len(values) + 1, length, dtype=np.int32), values)
    return values


def _files(contents: list[bytes]) -> Any:
    import pyarrow as pa

    return pa.array(contents, pa.binary())
