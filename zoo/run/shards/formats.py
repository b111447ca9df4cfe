"""What a shard is written as. A writer gets batches, and writes the same bytes for the same inputs."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...hookspecs import Task
from ...media.tensors import encode_safetensors
from ...ports.kind import BATCH
from ...ports.kinds import kind_of
from ..again import public_reference, write_recipe
from ..call import Result
from ..naming import fill
from ..outputs import artifacts_of, write_outputs
from ..tables import Table, need_pyarrow
from ..work import Batch, Work

if TYPE_CHECKING:
    import numpy as np

LONGEST = 100
"""Characters of an input's name in that of its outputs; a file name has at most 255 bytes."""


class Writer:
    """Writes the outputs of a shard.

    Attributes:
        ending: of the shard's name; empty: it is a folder.

    Args:
        path: a file or folder that does not exist yet.
        numbers: of the inputs among all of the batch.
    """

    ending = ""

    def __init__(self, path: Path, work: Work, numbers: Sequence[int]):
        self.path, self.work, self.numbers = path, work, numbers

    def add(self, batch: Batch, result: Result) -> None:
        """Adds a batch."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the file."""


class Files(Writer):
    """A folder with a file for each output, as `zoo run` writes it: `00000017-shoe.png`."""

    def __init__(self, path: Path, work: Work, numbers: Sequence[int]):
        super().__init__(path, work, numbers)
        self._open()

    def _open(self) -> None:
        self.path.mkdir()

    def _put(self, name: str, data: bytes) -> None:
        (self.path / name).write_bytes(data)

    def add(self, batch: Batch, result: Result) -> None:
        ending = artifacts_of(self.work.task)[0].form.suffixes[0]
        for place, index in enumerate(batch.indices):
            call, one = self.work.alone(batch, result, place)
            stem = self.work.asked.items[index].stem[:LONGEST]
            key = fill("{index}-{stem}", {"index": f"{self.numbers[index]:08}", "stem": stem})

            def write(target: str, data: bytes, key: str = key) -> list[str]:
                self._put(self._named(key, target), data)
                return []

            write_outputs(self.work.model, call, one, f"{key}{ending}", write)

    def _named(self, key: str, target: str) -> str:
        return target


class Tar(Files):
    """A tar as WebDataset reads it: the files of an input have one name up to the first dot."""

    ending = ".tar"

    def _open(self) -> None:
        self._tar = tarfile.open(self.path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - until `close`

    def _put(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # of no time and no user: the same bytes again
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def _named(self, key: str, target: str) -> str:
        """`key.png`, and for another output `key.tokens.safetensors`."""
        rest = target.removeprefix(key)
        return key.replace(".", "_") + (rest if rest.startswith(".") else f".{rest.removeprefix('-')}")

    def close(self) -> None:
        self._tar.close()


class Parquet(Writer):
    """A table: the input's name, and a column for each output. Numbers are nested lists, labels names, and pictures,
    sounds and videos files."""

    ending = ".parquet"

    def __init__(self, path: Path, work: Work, numbers: Sequence[int]):
        super().__init__(path, work, numbers)
        self._table, self._empty = Table(str(path), work.task), True

    def add(self, batch: Batch, result: Result) -> None:
        self._empty = False
        names = [self.work.asked.items[index].shown for index in batch.indices]
        ports = self.work.task.outputs
        outputs: dict[str, Any] = dict(result.outputs)
        apart = [name for name, port in ports.items() if not kind_of(port).form_in(port, ports).shared]
        alone = [self.work.alone(batch, result, place) for place in range(len(names))] if apart else []
        for name in apart:
            form = kind_of(ports[name]).form_in(ports[name], ports)
            outputs[name] = [
                form.encode_batch(one.outputs[name], write_recipe(self.work.model, call, one, name))
                for call, one in alone
            ]
        self._table.write(names, self.work.seeds_of(batch), outputs)

    def close(self) -> None:
        if self._empty:
            self._table.write([], None if self.work.seeds is None else [], _nothing(self.work.task))
        self._table.close()


class Safetensors(Writer):
    """The arrays of all outputs, one after the other, with the names of the inputs in the metadata."""

    ending = ".safetensors"

    def __init__(self, path: Path, work: Work, numbers: Sequence[int]):
        super().__init__(path, work, numbers)
        self._parts: list[dict[str, np.ndarray]] = []
        self._names: list[str] = []

    def add(self, batch: Batch, result: Result) -> None:
        self._parts.append(result.outputs)
        self._names += [self.work.asked.items[index].shown for index in batch.indices]

    def close(self) -> None:
        import numpy as np

        task, arrays = self.work.task, dict[str, "np.ndarray"]()
        for name, port in task.outputs.items():
            parts = [part[name] for part in self._parts]
            each = port.shape[:1] == (BATCH,)
            if parts and any(
                part.shape[each:] != parts[0].shape[each:] or (not each and (part != parts[0]).any()) for part in parts
            ):
                raise UsageError(
                    f"{name} has different shapes or values within a shard, and a safetensors file has one array of it;"
                    " use --format parquet, or give inputs of one size"
                )
            arrays[name] = _none_of(port) if not parts else np.concatenate(parts) if each else parts[0]
        model = self.work.model
        made_by = {"digest": model.digest, "model": public_reference(model), "task": self.work.name}
        made_by["files"] = json.dumps(self._names)
        self.path.write_bytes(encode_safetensors(arrays, made_by))


def _nothing(task: Task) -> dict[str, Any]:
    """The outputs for no inputs: files for what is written as files."""
    ports = task.outputs
    return {name: _none_of(port) if kind_of(port).form_in(port, ports).shared else [] for name, port in ports.items()}


def _none_of(port: Any) -> np.ndarray:
    import numpy as np

    lengths = [length if isinstance(length, int) else 0 if length == BATCH else 1 for length in port.shape]
    return np.zeros(lengths, port.dtype)


FORMATS: dict[str, type[Writer]] = {"parquet": Parquet, "files": Files, "tar": Tar, "safetensors": Safetensors}


def check_format(name: str) -> None:
    """Raises UsageError for a format that needs what is not installed."""
    if name == "parquet":
        need_pyarrow("--format parquet")
