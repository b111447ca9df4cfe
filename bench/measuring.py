"""What the benchmarks share."""

import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each call, in interleaved rounds, so that a busy machine slows all of them equally.

    The first round fills caches and does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a command as a user starts it: Python keeps what it compiled."""
    return {k: v for k, v in (os.environ | more).items() if k != "PYTHONDONTWRITEBYTECODE"}


def peak_memory() -> int:
    """The peak memory of this process in bytes; on Linux.

    Does not use getrusage's ru_maxrss, which a process inherits from the one that started it.
    """
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
