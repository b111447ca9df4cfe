"""The folder of a batch's outputs: what it was made from, which shards are there, and the list of errors."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from ...errors import InvalidFileError, StoreError, UsageError
from ...system.files import made_beside, make_folder, write_atomically
from ...system.paths import user_path
from ...system.temporary import UNFINISHED, remove_abandoned
from ...text import safe_text
from .inputs import Entry
from .shard import ERRORS, SHARDS, Shard

RECORD = "batch.json"
"""What the outputs were made from, as JSON."""

ALL_ERRORS = "errors.jsonl"

LOCK = ".zoo-batch.lock"
"""Held by the command that works on the folder."""


class Folder:
    """The outputs of a batch, new or begun.

    Attributes:
        there: the names of its shards, by their numbers.

    Args:
        made_from: what all shards depend on, by what a message calls it.

    Raises:
        UsageError: it was made from something else, or by something else.
        StoreError, InvalidFileError: it cannot be read.
    """

    def __init__(self, out: str, made_from: dict[str, Any]):
        self.path = user_path(out, out=True)
        self._made_from = json.loads(json.dumps(made_from))
        self.there: dict[int, str] = {}
        self._new = not self.path.exists()
        self._lock: Any = None
        if self._new:
            if not self.path.parent.is_dir():
                raise StoreError(f"the folder {safe_text(self.path.parent)} does not exist; create it first")
            return
        if not self.path.is_dir():
            raise UsageError(f"--out {safe_text(out)} is not a folder")
        try:
            if not (self.path / RECORD).exists():
                if any(not path.name.startswith((UNFINISHED, LOCK)) for path in self.path.iterdir()):
                    raise UsageError(
                        f"--out {safe_text(out)} is not empty, and was not made by zoo batch; give a new folder"
                    )
                return
            self._compare(json.loads((self.path / RECORD).read_bytes()))
            names = [path.name for path in (self.path / SHARDS).iterdir()] if (self.path / SHARDS).is_dir() else []
        except OSError as e:
            raise StoreError(f"{safe_text(self.path)} cannot be read: {e.strerror}") from None
        except ValueError:
            raise InvalidFileError(f"{safe_text(self.path / RECORD)} is damaged; give a new folder") from None
        for name in names:
            number = name.partition("-")[0]
            if number.isdecimal():
                if twice := self.there.get(int(number)):
                    raise UsageError(f"{safe_text(self.path)} has two shards {number}, {name} and {twice}: remove one")
                self.there[int(number)] = name

    def _compare(self, before: Any) -> None:
        """Refuses a folder whose record differs, in a line that says in what."""
        if not isinstance(before, dict):
            raise ValueError
        for key in [*self._made_from, *(key for key in before if key not in self._made_from)]:
            old, new = before.get(key), self._made_from.get(key)
            if old != new:
                old, new = (safe_text(json.dumps(one, ensure_ascii=False))[:120] for one in (old, new))
                raise UsageError(
                    f"{safe_text(self.path)} was made with another {key}: {old}, not {new}; give another --out"
                )

    def begin(self) -> None:
        """Creates it, or removes what a process that was killed left in it.

        Raises:
            StoreError: another command works on it.
        """
        from filelock import FileLock, Timeout

        make_folder(self.path)
        self._lock = FileLock(self.path / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            self._new, self._lock = False, None
            raise StoreError(f"another zoo batch works on {safe_text(self.path)}; wait for it") from None
        for folder in (self.path, self.path / SHARDS, self.path / ERRORS):
            for left in folder.glob(f"{UNFINISHED}*"):
                remove_abandoned(left)
        if not (self.path / RECORD).exists():
            write_atomically(self.path / RECORD, json.dumps(self._made_from, indent=2).encode() + b"\n")
        make_folder(self.path / SHARDS)

    def shards(self, entries: Iterable[Entry], size: int) -> Iterator[Shard]:
        """Cuts inputs into shards.

        Raises:
            UsageError: at the end: there are more shards than these inputs give.
        """
        rest, number = iter(entries), 0
        while some := list(itertools.islice(rest, size)):
            yield Shard(number, number * size, some, self.there.get(number))
            number += 1
        if more := next((name for there, name in sorted(self.there.items()) if there >= number), None):
            raise UsageError(
                f"{safe_text(self.path / SHARDS / more)} was made of more inputs than there are now; give another --out"
            )

    def end(self) -> None:
        """Joins the errors of the shards in one file, or removes the folder if it was made now and nothing is in it."""
        if not self._lock:  # it is another's
            return
        try:
            self._end()
        finally:
            self._lock.release()

    def _end(self) -> None:
        shards = self.path / SHARDS
        if self._new and shards.is_dir() and not any(shards.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)
            return
        files = sorted((self.path / ERRORS).glob("*.jsonl"))
        if not files:
            return
        with made_beside(self.path / ALL_ERRORS) as path, path.open("wb") as joined:
            for file in files:
                joined.write(file.read_bytes())
