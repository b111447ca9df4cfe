"""How much memory there is, is free, and was taken, in bytes. Linux says all of it, other systems only some."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def machine_memory() -> int:
    """What this machine has, or what this process's control group may use, if that is less."""
    try:
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        most = 8 << 30
    for path in (_GROUP / "memory.max", _GROUP / "memory" / "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no limit: no such file, or the word `max`
            most = min(most, int(path.read_text()))
    return most


def free_memory() -> int | None:
    """What a process can still take, in this machine and in its control group; None if the system does not say."""
    found = [free] if (free := _line(Path("/proc/meminfo"), "MemAvailable")) else []
    with suppress(OSError, ValueError):  # no limit
        found.append(int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text()))
    return max(0, min(found)) if found else None


def taken(process: int) -> int:
    """What a process holds now; 0 if the system does not say, or the process has ended."""
    return _line(Path(f"/proc/{process}/status"), "VmRSS")


def peak(process: int) -> int:
    """The most that a process has held since its start, or since `forget_peaks`; 0 as for `taken`."""
    return _line(Path(f"/proc/{process}/status"), "VmHWM")


def forget_peaks(processes: Iterable[int]) -> None:
    """Makes the peak of each process what it holds now."""
    for process in processes:
        with suppress(OSError):  # no Linux, or the process has ended
            Path(f"/proc/{process}/clear_refs").write_text("5")


def _line(file: Path, name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0
