"""Reads every file of a folder in this process and prints, as JSON, what each did: outcome, audit events, memory."""

import contextlib
import json
import re
import sys
from pathlib import Path

from zoo.build import foreign
from zoo.errors import InvalidFileError

# A first file, so that everything lazy is imported before the audit begins.
folder = Path(sys.argv[1])
for first in ("right plain.pt", "right old plain.pt", "text.pt"):
    with contextlib.suppress(InvalidFileError):
        foreign.read(folder / first)


def peak() -> int:
    """The most memory that this process has held, in kiB. ru_maxrss would be pytest's, where that is larger."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


events: list[str] = []
watching = False
HARMLESS = ("mmap.__new__",)


def audit(event: str, arguments: tuple) -> None:
    if not watching or event.startswith(HARMLESS):
        return
    if event == "open":
        path, mode = str(arguments[0]), arguments[1]
        if path.startswith(str(folder)) and mode in ("r", "rb"):
            return
    events.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(audit)
report = {}
start = peak()
for file in sorted(folder.glob("*.pt")):
    events.clear()
    watching = True
    try:
        found = foreign.read(file).tensors
        outcome = f"read {found['w'].tolist()}" if "w" in found else f"read {sorted(found)}"
    except InvalidFileError as e:
        outcome = f"refused {e}"
    except BaseException as e:
        outcome = f"leaked {type(e).__name__}: {e}"
    watching = False
    report[file.stem] = {"outcome": outcome, "events": list(events)}
mebibytes = (peak() - start) // 1024
print(json.dumps({"files": report, "mebibytes": mebibytes}))
