"""Processes: handling Ctrl-C in this one, and running a module in a child that may crash, hang or print."""

from __future__ import annotations

import os
import signal
import sys
import threading
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


def hear_termination() -> None:
    """Makes SIGTERM, and SIGHUP unless it is ignored (nohup), raise `Terminated`: once, so that clean-up can end.

    Does nothing if this is not the main thread.
    """

    def end(number: int, _: object) -> None:
        for other in heard:
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(128 + number)

    if threading.current_thread() is threading.main_thread():
        heard = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
        for number in heard:
            signal.signal(number, end)


def run_isolated(module: str, *args: str, seconds: float) -> subprocess.CompletedProcess[bytes]:
    """`python -m module args…` with captured stdout, no stdin, and discarded stderr.

    It finds the same modules as this process, but none in the current folder (-P).

    Raises:
        subprocess.TimeoutExpired: it took longer than the given seconds and was killed.
    """
    import subprocess

    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=seconds,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )


def describe_end(returncode: int) -> str:
    """`ended the process (exit code 3)` or `crashed the process (SIGSEGV)`."""
    if returncode >= 0:
        return f"ended the process (exit code {returncode})"
    try:
        return f"crashed the process ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"crashed the process (signal {-returncode})"
