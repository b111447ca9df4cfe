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
    from types import FrameType


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
    end. While an extension module is loaded, these and Ctrl-C wait until it is.

    Does nothing if this is not the main thread.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if _loads_an_extension(frame):
            _raise_again(number)
            return
        for other in ends:
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(128 + number)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _loads_an_extension(frame):
            _raise_again(number)
            return
        raise KeyboardInterrupt

    ends: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        both = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]  # Windows has no SIGHUP
        ends += [s for s in both if signal.getsignal(s) is signal.SIG_DFL]
        before = {number: signal.signal(number, end) for number in ends}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _loads_an_extension(frame: FrameType | None) -> bool:
    """Whether this happens while an extension module is created or initialised.

    An exception there crashes some: pybind11 aborts if one is raised while onnx's module defines its classes, and a
    module that was created and never initialised is a segmentation fault when it is freed.
    """
    while frame:
        if frame.f_code.co_name == "_load_unlocked" and frame.f_globals.get("__name__") == "importlib._bootstrap":
            loader = getattr(frame.f_locals.get("spec"), "loader", None)
            if type(loader).__name__ == "ExtensionFileLoader":
                return True
        frame = frame.f_back
    return False


def _raise_again(number: int) -> None:
    """Sends this process the signal again, in a moment."""
    # On Windows, `kill` ends the process without a word. Elsewhere it also wakes the main thread if that waits by then.
    send = (signal.raise_signal, (number,)) if sys.platform == "win32" else (os.kill, (os.getpid(), number))
    timer = threading.Timer(0.01, *send)
    timer.daemon = True
    timer.start()


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


def rest_while_waiting() -> None:
    """Makes torch's threads sleep when they wait for each other, after some microseconds; call it before torch is
    imported.

    By default OpenMP's threads spin for milliseconds. Next to another program, which takes their cores in turn, the
    same work then takes five times the processor time, by which the number of golden cases is chosen.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
