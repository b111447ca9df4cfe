"""Processes: hearing Ctrl-C in this one, and running a module in one that may crash, hang or print without harm."""

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
    """Makes Ctrl-C raise KeyboardInterrupt where SIGINT was inherited as ignored, as by background jobs of a script.

    A handler that somebody has set stays, and so does everything when this is not the main thread.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_isolated(module: str, *args: str, seconds: float) -> subprocess.CompletedProcess[bytes]:
    """`python -m module args…` with its stdout captured, no stdin, and stderr dropped.

    It finds the modules that this process finds, and none of the current folder (-P).

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
