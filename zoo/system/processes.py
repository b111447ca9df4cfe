"""Running a module of ours in a process that may crash, hang or print without harming this one."""

import os
import signal
import subprocess
import sys
from pathlib import Path


def run_isolated(module: str, *args: str, seconds: float) -> subprocess.CompletedProcess[bytes]:
    """`python -m module args…` with its stdout captured, no stdin, and stderr dropped.

    It finds the modules that this process finds, and none of the current folder (-P).

    Raises:
        subprocess.TimeoutExpired: it took longer than the given seconds and was killed.
    """
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
