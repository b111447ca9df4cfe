"""A whole batch: checks what is asked, lists the inputs, and makes the shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...media.files import read_input
from ...ports.kinds import drawn, kind_of
from ...runtime import physical_cores
from ...system.paths import user_path
from ...text import did_you_mean, safe_text
from ..call import options_of
from .folder import Folder
from .formats import check_format
from .inputs import Entry, list_entries
from .pool import Event, make_shards
from .shard import BATCH_SIZE, Job

if TYPE_CHECKING:
    from ...store.locate import Bundle

VERSION = 1
"""Of how shards are made: another one makes other bytes of the same inputs."""


@dataclass(frozen=True)
class Asked:
    """What a command asks for; as the options of `zoo batch`."""

    model: str
    bundle: Bundle
    task: str
    words: list[str]
    out: str
    format: str
    shard_size: int
    workers: int | None
    batch_size: int | None
    column: str | None
    given: dict[str, Any]
    invert: bool
    fit: bool
    device: Any
    isolated: bool | None
    registries: list[str]


class Run:
    """A checked batch; as a context, it makes the shards, and gives what happens.

    Attributes:
        task: its name.
        count: of the inputs.

    Raises:
        ZooError: one line; nothing is written by then.
    """

    def __init__(self, asked: Asked):
        self._asked = asked
        manifest = asked.bundle.manifest
        self.task, task = manifest.task(asked.task)
        options = options_of(task)
        self._main = next((one for one in options if one.positional and one.multiple), None)
        if self._main is None:
            raise UsageError(f"{self.task} takes no files, of which there could be many")
        names = [one.name for one in options if one is not self._main]
        if unknown := next((name for name in asked.given if name not in names), None):
            known = did_you_mean(unknown, names) or f"; it takes {', '.join(sorted(names)) or 'nothing else'}"
            raise UsageError(f"--set {safe_text(unknown)[:80]}=…: {self.task} has no such option{known}")
        for port in drawn(task.inputs):
            if not isinstance(asked.given.get(port), int):
                raise UsageError(
                    f"{self.task} draws: give --set {port}=N, the seed of the first input; else what is made again"
                    " would differ"
                )
        check_format(asked.format)
        given = dict(asked.given)
        contents = {}  # what is in the files of other options, rather than where
        for one in options:
            if one is not self._main and one.file and one.name in given:
                contents[one.name] = read_input(str(given[one.name])).sha256
                given[one.name] = [str(given[one.name])] if one.multiple else str(given[one.name])
        for name, value in given.items():
            if name in task.inputs and name not in contents:
                port = task.inputs[name]
                kind_of(port).check_array(name, port, kind_of(port).from_value(name, port, value))
        self._given = given
        shared = {
            "version": VERSION, "task": self.task,
            "model": f"{manifest.name}:{manifest.version}@sha256:{asked.bundle.digest}",
            "options": {**asked.given, **contents}, "invert": asked.invert, "fit": asked.fit,
            "format": asked.format, "batch size": asked.batch_size or BATCH_SIZE, "shard size": asked.shard_size,
        }  # fmt: skip
        self._identity = shared
        self._folder = Folder(asked.out, {**shared, "inputs": asked.words, "column": asked.column})
        self.count = sum(1 for _ in self._entries())
        self._stack = ExitStack()

    def _entries(self) -> Iterator[Entry]:
        assert self._main
        return list_entries(self._asked.words, self._asked.column, self._main.folder, self._main.frames)

    def __enter__(self) -> Iterator[Event]:
        assert self._main
        asked, workers = self._asked, self._asked.workers or _workers(self._asked.device)
        shards = -(-self.count // asked.shard_size)
        workers = max(1, min(workers, shards))
        job = Job(
            asked.model, asked.bundle.digest, asked.registries, asked.isolated, asked.device, workers, self.task,
            self._main.name, self._given, asked.invert, asked.fit, asked.batch_size, asked.format,
            str(user_path(asked.out, out=True).absolute()), self._identity,
        )  # fmt: skip
        self._stack.callback(self._folder.end)
        self._folder.begin()
        return self._stack.enter_context(
            closing(make_shards(job, self._folder.shards(self._entries(), asked.shard_size), workers))
        )

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def _workers(device: str) -> int:
    """A process for each core; one, where the GPU computes."""
    if device != "cpu":
        from ...runtime import cuda_obstacle

        if device == "cuda" or not cuda_obstacle():
            return 1
    return physical_cores()
