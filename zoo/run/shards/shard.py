"""One shard: reads its inputs, names it by their digests, and makes it if it is not there yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from ...errors import InvalidFileError, NotFoundError, StoreError, UsageError, ZooError
from ...ports.kinds import drawn
from ...store.locate import locate
from ...system.files import made_beside, make_folder, write_atomically
from ...text import safe_text
from ..batches import BatchSize
from ..model import Model, prepare
from ..work import Asked, Work
from .formats import FORMATS
from .inputs import Entry, Input, Reader

SHARDS, ERRORS = "shards", "errors"
"""The folders of the outputs: the shards, and for those with inputs that failed, a file of these."""

BATCH_SIZE = 64
"""The elements of a batch. It is not measured as in `zoo run`: the last bits of a result may depend on it."""

MOST_PIXELS = 1 << 22
"""Of all pictures of a batch, or values, if their size is not fixed by the port and not one number of them is asked."""

MAX_KEPT = 64 << 20
"""The bytes of files that are kept from taking their digests until their turn; more are read again."""


class Job(msgspec.Struct, frozen=True):
    """What to do with every shard; it crosses to other processes as JSON.

    Attributes:
        model: a reference, or a folder.
        digest: of the model.
        share: by how many processes the cores are shared.
        main: the option of the inputs.
        given: the task's other options.
        identity: what a shard depends on besides its inputs.
        out: the folder of the outputs.
    """

    model: str
    digest: str
    registries: list[str]
    isolated: bool | None
    device: Any
    share: int
    task: str
    main: str | None
    given: dict[str, Any]
    invert: bool
    fit: bool
    batch_size: int | None
    format: str
    out: str
    identity: dict[str, Any]


class Shard(msgspec.Struct, frozen=True):
    """Inputs that become one file, or one folder.

    Attributes:
        number: among the shards, from 0.
        first: the number of the first input, among all.
        there: the name of the shard of this number that was made before.
    """

    number: int
    first: int
    entries: list[Entry]
    there: str | None = None


class Done(msgspec.Struct, frozen=True):
    """A shard that is there.

    Attributes:
        made: it was made now, not before.
        failed: of its inputs.
        notes: lines about changes to inputs: what was changed, how often, and the first line.
    """

    number: int
    name: str
    inputs: int
    failed: int
    made: bool
    notes: dict[str, tuple[int, str]] = {}
    device: str = ""


class EqualBatches(BatchSize):
    """A size that follows from the inputs only, so that the same inputs become the same bytes."""

    def __init__(self, given: int | None, processes: Sequence[int]):
        super().__init__(given or BATCH_SIZE, processes)
        self._asked = given is not None

    def most(self, elements: int) -> int:
        return self.size if self._asked else max(1, min(self.size, MOST_PIXELS // max(elements, 1)))


class Maker:
    """Makes shards, with the model open.

    Raises:
        ZooError: the model is not there, or is another one by now.
    """

    def __init__(self, job: Job):
        self.job = job
        bundle = locate(job.model, registries=job.registries, isolated=job.isolated, meanwhile=prepare)
        if bundle.digest != job.digest:
            raise InvalidFileError(f"{safe_text(job.model)} was changed while the command ran; run it again")
        self.model = Model(bundle, job.device, share=job.share)
        self._reader = Reader()

    def make(self, shard: Shard, progress: Callable[[int], object]) -> Done:
        """Makes a shard, unless it is there.

        Args:
            progress: called with the number of inputs that are done, again and again.

        Raises:
            UsageError: there is a shard of this number that was made of other inputs.
            ZooError: as `Model.run`, and what no other input could change: the disk is full.
        """
        job, out = self.job, Path(self.job.out)
        inputs, failed = self._read(shard)
        name = f"{shard.number:05}-{self._digest(shard, inputs, failed)}{FORMATS[job.format].ending}"
        errors = out / ERRORS / f"{name.partition('.')[0]}.jsonl"
        if shard.there == name:
            progress(len(shard.entries))
            return Done(shard.number, name, len(shard.entries), _lines(errors), False)
        if shard.there:
            raise UsageError(
                f"{safe_text(out / SHARDS / shard.there)} was made of other inputs than those from"
                f" {safe_text(_shown(shard.entries[0]))} on; give another --out"
            )
        progress(len(failed))
        said: dict[str, tuple[int, str]] = {}
        with made_beside(out / SHARDS / name) as path:
            device = self._compute(shard, inputs, failed, path, said, progress)
            if failed:  # before the shard gets its name: what has that is done
                rows = [{"file": _shown(shard.entries[n]), "error": text} for n, text in sorted(failed.items())]
                make_folder(errors.parent)
                write_atomically(errors, "".join(json.dumps(row) + "\n" for row in rows).encode())
        return Done(shard.number, name, len(shard.entries), len(failed), True, said, device)

    def _read(self, shard: Shard) -> tuple[dict[int, Input], dict[int, str]]:
        """The inputs by their place, with their digests, and the first of them with their bytes; what cannot be read,
        and why."""
        inputs: dict[int, Input] = {}
        failed: dict[int, str] = {}
        room = MAX_KEPT
        for place, entry in enumerate(shard.entries):
            try:
                one = self._reader.input_of(entry)
                file = one.read()
            except (NotFoundError, InvalidFileError) as e:
                failed[place] = str(e)
                continue
            room -= len(file.data) + sum(len(part.data) for part in file.parts)
            inputs[place] = replace(one, sha256=file.sha256, file=file if room >= 0 else None)
        return inputs, failed

    def _digest(self, shard: Shard, inputs: dict[int, Input], failed: dict[int, str]) -> str:
        """What the name of a shard tells: the model, the task, its options, and the name and contents of each input."""
        digest = hashlib.sha256(json.dumps(self.job.identity, sort_keys=True).encode())
        for place, entry in enumerate(shard.entries):
            contents = inputs[place].sha256 if place in inputs else f"failed: {failed[place]}"
            digest.update(json.dumps([shard.first + place, _shown(entry), contents]).encode())
        return digest.hexdigest()[:16]

    def _compute(
        self, shard: Shard, inputs: dict[int, Input], failed: dict[int, str], path: Path,
        said: dict[str, tuple[int, str]], progress: Callable[[int], object],
    ) -> str:  # fmt: skip
        """Writes the shard; adds what fails to `failed`, and what is changed in inputs to `said`."""
        job, task = self.job, self.model.manifest.tasks[self.job.task]
        places = list(inputs)
        given = dict(job.given)
        for port in drawn(task.inputs):
            given[port] = [given[port] + shard.first + place for place in places]
        places_of: dict[str, list[int]] = {}
        for place in places:
            places_of.setdefault(inputs[place].shown, []).append(place)

        def fail(shown: str, error: ZooError) -> None:
            failed[places_of[shown].pop(0)] = str(error)
            progress(1)

        def note(line: str) -> None:
            what = line.rpartition(": ")[2]
            count, first = said.get(what, (0, line))
            said[what] = count + 1, first

        asked = Asked(
            given if places else dict(job.given), job.main, [inputs[place] for place in places], None, "", None,
            job.invert, job.fit, None, job.batch_size, True,
        )  # fmt: skip
        work = Work(self.model, job.task, asked, note)
        writer = FORMATS[job.format](path, work, [shard.first + place for place in places])
        session = self.model.session(job.task)
        if places:
            try:
                for batch, result in work.computed(fail, EqualBatches(job.batch_size, session.processes)):
                    writer.add(batch, result)
                    progress(len(batch.indices))
            except OSError as e:
                raise StoreError(f"cannot write {safe_text(path.name)}: {e.strerror or safe_text(e)}") from None
        writer.close()
        return str(session)


def _shown(entry: Entry) -> str:
    """What an input is called in tables and messages."""
    form, path, *where = entry
    if form == "member":
        return f"{path}/{where[0]}"
    return f"{path}[{where[-1]}]" if form in ("row", "image") else path


def _lines(file: Path) -> int:
    """How many lines a file has; none if it is not there."""
    try:
        return file.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
    except OSError as e:
        raise StoreError(f"{safe_text(file)} cannot be read: {e.strerror}") from None
