"""Processes: handling Ctrl-C in this one, and running a module in a child that may crash, hang or print."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess


def hear_interrupts() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt even if SIGINT was inherited as ignored, as in a script's background jobs.

    Does nothing if a handler is set, or if this is not the main thread.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminated(SystemExit):
    """SIGTERM or SIGHUP: ends the process with 128 + the signal's number, after its clean-up."""


@contextmanager
def termination_heard() -> Iterator[None]:
    """Makes SIGTERM, and SIGHUP unless it is ignored (nohup), raise `Terminated` meanwhile: once, so that clean-up can
    end.

    Does nothing if this is not the main thread.
    """

    def end(number: int, _: object) -> None:
        for other in heard:
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(128 + number)

    heard: list[int] = []
    if threading.current_thread() is threading.main_thread():
        ends = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]  # Windows has no SIGHUP
        heard += [s for s in ends if signal.getsignal(s) is signal.SIG_DFL]
        for number in heard:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def open_streams() -> None:
    """Opens those of stdin, stdout and stderr that this process was started without, as the null device.

    Else Python has None there, and the next file that is opened gets the stream's number, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))
            CLOSED.add(name)


CLOSED: set[str] = set()
"""The streams that `open_streams` had to open: what is written to them is lost."""


def run_isolated(module: str, *args: str, seconds: float) -> subprocess.CompletedProcess[bytes]:
    """`python -m module args…` with captured stdout, no stdin, and discarded stderr.

    It finds the same modules as this process, but none in the current folder (-P).

    Raises:
        subprocess.TimeoutExpired: it took longer than the given seconds and was killed.
    """
    import subprocess

    return subprocess.run(
        [sys.executable, "-P", "-m", module, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=seconds,
        env=child_environment(),
        check=False,
    )


def limit_memory(memory: int) -> None:
    """Bounds the memory of this process and the files that it writes, and makes it the first that the system ends when
    memory is short. Linux enforces this; macOS only in part, Windows not at all.

    Args:
        memory: bytes of its own, whether from malloc or mmap. This is not the whole address space (RLIMIT_AS), which
            also counts libraries, mapped weights and what CUDA reserves without using it.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, limit in (("RLIMIT_DATA", memory), ("RLIMIT_FSIZE", memory), ("RLIMIT_CORE", 0)):
        with suppress(ValueError, OSError, OverflowError):  # a lower limit that is set already stays
            resource.setrlimit(getattr(resource, kind), (limit, limit))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def child_environment() -> dict[str, str]:
    """The environment in which a child Python finds the same modules as this process."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return os.environ | {"PYTHONPATH": path}


def describe_end(returncode: int, process: str = "the process") -> str:
    """`ended the process (exit code 3)` or `crashed the process (SIGSEGV)`."""
    if returncode >= 0:
        return f"ended {process} (exit code {returncode})"
    try:
        return f"crashed {process} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"crashed {process} (signal {-returncode})"
