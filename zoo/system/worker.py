"""A process that runs a model apart from this one: with a deadline and a memory limit, and killed when it must end.

Messages are lines of JSON over two pipes; arrays lie in a file in memory that both processes have open (memfd where
there is one), read and written rather than mapped, so that a worker that shrinks it cannot crash this process. What
runs in the worker is `zoo.run.worker`.

Linux enforces all limits. macOS does not limit a process's memory, and Windows has neither that limit nor
the signals by which an ended process explains itself; deadline and Ctrl-C work everywhere.
"""

from __future__ import annotations

import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InvalidFileError, UsageError
from ..text import human_bytes, safe_text
from .memory import machine_memory
from .processes import child_environment, describe_end

MODULE = "zoo.run.worker"
MODULES = ("onnxruntime", "zoo.run.isolated")
"""What a worker imports while this process does other things."""
CHECK = "zoo.graph.check"
CALL_SECONDS = 3600.0
"""The default deadline of a call, and of opening a graph. A diffusion model that draws a large batch on one core takes
minutes, and so does opening a graph of 100,000 nodes."""
MEMORY_SHARE = 0.75
"""The default memory limit, as a share of what this machine, or this control group, has."""
LEAST_MEMORY = 64 << 20
"""With less, it cannot even start."""
LONGEST_REPLY = 16 << 20
GRACE_SECONDS = 2.0  # for a worker that closed its pipe, before it is killed

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class WorkerEnded(InvalidFileError):
    """The process ended in the middle of a request, or was ended since that took too long."""


@dataclass(frozen=True)
class Limits:
    """What a worker may use."""

    seconds: float  # of a call, or of opening a graph
    memory: int  # bytes of its own, without shared libraries and mapped weights

    @classmethod
    def here(cls) -> Limits:
        """From `ZOO_WORKER_SECONDS` and `ZOO_WORKER_MEMORY` (bytes, or with a unit: `8G`), else the defaults.

        Raises:
            UsageError: one of them is not such a number.
        """
        seconds, memory = os.environ.get("ZOO_WORKER_SECONDS"), os.environ.get("ZOO_WORKER_MEMORY")
        if seconds and not (re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", seconds) and float(seconds)):
            raise UsageError(f"ZOO_WORKER_SECONDS is '{safe_text(seconds)}'; it must be a number of seconds, e.g. 600")
        found = re.fullmatch(r"([0-9]{1,15})\s*([kmgt]?)i?b?", memory.lower()) if memory else None
        if memory and not (found and int(found[1])):
            raise UsageError(f"ZOO_WORKER_MEMORY is '{safe_text(memory)}'; it must be a number of bytes, e.g. 8G")
        most = int(found[1]) * _UNITS[found[2]] if found else int(machine_memory() * MEMORY_SHARE)
        if most < LEAST_MEMORY:
            raise UsageError(f"ZOO_WORKER_MEMORY is '{safe_text(memory)}'; a worker needs {human_bytes(LEAST_MEMORY)}")
        most = min(most, sys.maxsize)
        return cls(float(seconds) if seconds else CALL_SECONDS, most)


class Worker:
    """A process for the sessions of one model. It is started by `start` or by the first request, and again by the next
    request after it ended. One request at a time; several threads take turns.

    Args:
        name: of the model, for messages.
        checks: whether its first request is to check graphs.
    """

    def __init__(self, name: str, *, checks: bool = False):
        self.name, self.limits = name, Limits.here()
        self._modules = (*((CHECK,) if checks else ()), *MODULES)
        self.generation = 0
        """How many processes there have been: what an earlier one had opened is gone."""
        self.unneeded: list[int] = []
        """Numbers of sessions that nobody uses any more; the next request closes them."""
        self._process: _Process | None = None
        self._inside = 0  # turns that have begun, one within the other
        self._lock = threading.RLock()
        _workers.add(self)

    def start(self) -> None:
        """Starts the process, if it does not run; does not wait until it is ready."""
        with self._lock:
            if self._process is not None and self._process.is_ours() and self._process.has_ended():
                self.close()
            if self._process is None or not self._process.is_ours():
                self._process = _Process(self.limits, self._modules)
                self.generation += 1
                self._finalizer = weakref.finalize(self, self._process.end)

    @contextmanager
    def turn(self) -> Iterator[BinaryIO]:
        """Keeps other threads out while a request and its arrays are exchanged; gives the file for the arrays."""
        with self._lock:
            # Not replaced in the middle of an exchange: a new process does not have the sessions of this one.
            if self._process is None or not self._inside:
                self.start()
            assert self._process is not None
            self._inside += 1
            try:
                yield self._process.shared
            finally:
                self._inside -= 1

    def request(self, message: dict[str, Any], doing: str, *, seconds: float | None = None) -> dict[str, Any]:
        """The reply to a message. Ctrl-C ends the process before it is raised here.

        Args:
            doing: what the worker does, for messages: `running double.onnx`.
            seconds: a deadline of this request's own; it replaces a later one of ZOO_WORKER_SECONDS.

        Raises:
            WorkerEnded: the process ended, took too long, or replied something else.
        """
        limit = min(self.limits.seconds, seconds or math.inf)
        with self.turn():
            process = self._process
            assert process is not None
            try:
                line, late = process.ask(json.dumps(message).encode() + b"\n", limit)
                if line.endswith(b"\n") and isinstance(reply := json.loads(line), dict):
                    return reply
            except (ValueError, RecursionError):
                late = False
            except BaseException:
                self.close()
                raise
            code = process.end(0 if late else GRACE_SECONDS)
            self._process = None
            self._finalizer.detach()
            what = f"{safe_text(self.name)}: {doing}"
            if late:
                settable = "; ZOO_WORKER_SECONDS sets this limit" if limit == self.limits.seconds else ""
                raise WorkerEnded(f"{what} takes more than {limit:g} s, so its worker process was ended{settable}")
            aborted = -code in (signal.SIGABRT, getattr(signal, "SIGKILL", None))
            hint = f"; it may use {human_bytes(self.limits.memory)} (ZOO_WORKER_MEMORY)" if aborted else ""
            raise WorkerEnded(f"{what} {describe_end(code, 'its worker process')}{hint}")

    @property
    def processes(self) -> tuple[int, ...]:
        """The id of its process; none before it is started."""
        process = self._process
        return (process.id,) if process else ()

    def kill(self) -> None:
        """Ends the process at once, from another thread than the one that waits for its reply, where that raises."""
        if (process := self._process) and process.is_ours():
            process.kill()

    def close(self) -> None:
        """Ends the process. A later request starts another one."""
        with self._lock:
            if self._process:
                self._finalizer()
                self._process = None


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


def _forget_processes() -> None:
    """In the child of a fork: a thread of the parent that held a worker's lock, e.g. during a call, does not exist here
    and would never release it. The process is the parent's; its object is leaked, since closing its pipes could wait
    for such a thread too."""
    import ctypes

    for worker in list(_workers):
        if worker._process:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(worker._process))
        worker._process, worker._inside, worker._lock = None, 0, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_processes)


class _Process:
    """The process itself, and what connects it."""

    def __init__(self, limits: Limits, modules: Sequence[str]):
        self.owner = os.getpid()
        self.shared = _shared_file()
        lifeline = self._lifeline = -1
        where: list[str] = [self.shared.name if os.name == "nt" else str(self.shared.fileno()), "-"]
        options: dict[str, Any] = {}
        if os.name != "nt":
            # Nothing is ever written into this pipe: the worker sees its end when this process is gone.
            lifeline, self._lifeline = os.pipe()
            where[1] = str(lifeline)
            # A process group of its own: Ctrl-C on a terminal must reach this process only, which then ends the worker.
            options = {"pass_fds": (self.shared.fileno(), lifeline), "process_group": 0}
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(limits.memory), *where, *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                **options,
            )
        finally:
            if lifeline >= 0:
                os.close(lifeline)

    @property
    def id(self) -> int:
        return self._popen.pid

    def is_ours(self) -> bool:
        """Whether this process started it: after a fork, parent and child must not share a worker."""
        return self.owner == os.getpid()

    def has_ended(self) -> bool:
        """Whether it has ended by itself, or was killed by somebody else."""
        return self._popen.poll() is not None

    def ask(self, line: bytes, seconds: float) -> tuple[bytes, bool]:
        """The reply, or what came of it before the process ended; and whether the deadline passed before that."""
        assert self._popen.stdin and self._popen.stdout
        if os.name == "nt":
            return self._ask_blocking(line, seconds)
        end = time.monotonic() + seconds
        waiting = select.poll()
        waiting.register(self._popen.stdout, select.POLLIN)
        reply = b""
        with suppress(BrokenPipeError):
            self._popen.stdin.write(line)
            self._popen.stdin.flush()
        while not reply.endswith(b"\n") and len(reply) < LONGEST_REPLY:
            if not waiting.poll(max(0, math.ceil(1000 * min(end - time.monotonic(), 86_400)))):
                if time.monotonic() >= end:
                    return reply, True
            elif not (more := os.read(self._popen.stdout.fileno(), 1 << 16)):
                break
            else:
                reply += more
        return reply, False

    def _ask_blocking(self, line: bytes, seconds: float) -> tuple[bytes, bool]:
        """The same where pipes cannot be waited for: a timer kills the process at the deadline."""
        late = threading.Event()

        def kill() -> None:
            late.set()
            self._popen.kill()

        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), kill)
        timer.daemon = True
        timer.start()
        assert self._popen.stdin and self._popen.stdout
        try:
            with suppress(BrokenPipeError):
                self._popen.stdin.write(line)
                self._popen.stdin.flush()
            return self._popen.stdout.readline(LONGEST_REPLY), late.is_set()
        finally:
            timer.cancel()

    def kill(self) -> None:
        self._popen.kill()

    def end(self, grace: float = 0) -> int:
        """Kills the process if it does not end within that many seconds; returns its exit code or negative signal."""
        if not self.is_ours():
            return 0
        assert self._popen.stdin and self._popen.stdout
        with suppress(OSError):
            self._popen.stdin.close()
        with suppress(OSError):
            self._popen.stdout.close()
        try:
            code = self._popen.wait(grace)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self.shared.close()
        if os.name == "nt":
            Path(self.shared.name).unlink(missing_ok=True)
        return code


def _shared_file() -> BinaryIO:
    """An empty file without a name that both processes can open; on Windows, which cannot hand it over, with one."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("zoo-arrays"), "r+b", buffering=0)
    if os.name == "nt":
        # A wrapper around a BinaryIO, with its methods.
        return tempfile.NamedTemporaryFile(prefix="zoo-arrays-", buffering=0, delete=False)  # type: ignore[return-value]
    return tempfile.TemporaryFile(prefix="zoo-arrays-", buffering=0)
