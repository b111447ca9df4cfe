"""Processes that make shards: each gets the next one when it is done. What a process that died was working on is given
to another."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

import msgspec

from ... import errors
from ...errors import InvalidFileError, ZooError
from ...system.processes import child_environment, describe_end
from .shard import Done, Job, Shard

MODULE = "zoo.run.shards.worker"
TRIES = 3
"""How often a shard is begun whose process dies: another program may have killed it, or the shard does."""

Event = int | Done
"""The number of inputs that are done in addition, or a shard."""


def make_shards(job: Job, shards: Iterable[Shard], workers: int) -> Generator[Event, None, None]:
    """Makes all shards, in this many processes; gives what happens as it does. The shards are taken one by one.

    Raises:
        ZooError: the first error of a process, or of `shards`; the others are ended then.
    """
    events: SimpleQueue[Event | BaseException | None] = SimpleQueue()
    rest, turn = iter(shards), threading.Lock()

    def next_shard() -> Shard | None:
        with turn:
            return next(rest, None)

    crew = [_Member(job, next_shard, events.put) for _ in range(workers)]
    try:
        for member in crew:
            member.thread.start()
        working = len(crew)
        while working:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                working -= 1
            else:
                yield event
    finally:
        for member in crew:
            member.end()
        for member in crew:
            member.thread.join()


class _Member:
    """A thread with a process."""

    def __init__(self, job: Job, shards: Callable[[], Shard | None], tell: Callable[[Any], object]):
        self._job, self._shards, self._tell = job, shards, tell
        self._process: _Process | None = None
        self._ended, self._lock = False, threading.Lock()
        self.thread = threading.Thread(target=self._work, daemon=True)

    def end(self) -> None:
        """Ends the process, and soon the thread."""
        with self._lock:
            self._ended = True
            if self._process:
                self._process.kill()

    def _work(self) -> None:
        try:
            while not self._ended and (shard := self._shards()) is not None:
                self._make(shard)
            self._tell(None)
        except BaseException as e:
            self._tell(e)
        finally:
            if self._process:
                self._process.end()

    def _make(self, shard: Shard) -> None:
        for left in reversed(range(TRIES)):
            counted = 0
            try:
                if self._process is None:
                    self._start()
                assert self._process
                for reply in self._process.ask(shard):
                    if "count" in reply:
                        counted += reply["count"]
                        self._tell(reply["count"])
                    else:
                        self._tell(msgspec.convert(reply["done"], Done))
                return
            except _Died as e:
                self._tell(-counted)
                self._process = None
                if self._ended:
                    return
                if not left:
                    raise InvalidFileError(f"shard {shard.number} {e} {TRIES} times") from None

    def _start(self) -> None:
        with self._lock:
            if self._ended:
                raise _Died("")
            self._process = _Process()
        for _ in self._process.ask(self._job):
            pass


class _Died(Exception):
    """The process ended in the middle of a request."""


class _Process:
    def __init__(self) -> None:
        read = self._lifeline = -1
        options: dict[str, Any] = {}
        if os.name != "nt":
            # Nothing is ever written into this pipe: the process sees its end when this one is gone.
            read, self._lifeline = os.pipe()
            # A process group of its own: Ctrl-C on a terminal must reach this process only, which then ends that one.
            options = {"pass_fds": (read,), "process_group": 0}
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, "-" if read < 0 else str(read)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=child_environment(), **options,
            )  # fmt: skip
        finally:
            if read >= 0:
                os.close(read)

    def ask(self, request: Any) -> Iterator[dict[str, Any]]:
        """The replies to a request.

        Raises:
            _Died: the process ended.
            ZooError: what the process raised.
        """
        assert self._popen.stdin and self._popen.stdout
        with contextlib.suppress(OSError):  # it is gone, as its replies will show
            self._popen.stdin.write(msgspec.json.encode(request) + b"\n")
            self._popen.stdin.flush()
        while (line := self._popen.stdout.readline()).endswith(b"\n"):
            reply = msgspec.json.decode(line)
            if "bug" in reply:
                raise RuntimeError(reply["bug"])
            if "error" in reply:
                kind = getattr(errors, reply["error"], ZooError)
                raise kind(reply["text"])
            if "ready" in reply:
                return
            yield reply
            if "done" in reply:
                return
        raise _Died(describe_end(self.end(), "its process"))

    def kill(self) -> None:
        self._popen.kill()

    def end(self) -> int:
        """Waits for the process to end, which has nothing more to do; its exit code or negative signal."""
        assert self._popen.stdin and self._popen.stdout
        with contextlib.suppress(OSError):
            self._popen.stdin.close()
        self._popen.stdout.close()
        code = self._popen.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        return code
