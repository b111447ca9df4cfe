"""What several benchmarks share: a task's inputs, and tables between the markers of a page."""

import sys
from pathlib import Path

import numpy as np

from zoo.formats.golden import read_cases
from zoo.names import GOLDEN
from zoo.store.locate import Bundle

END = "<!-- end -->\n"


def example(bundle: Bundle, task_name: str, batch: int) -> dict[str, np.ndarray]:
    """A task's inputs by port: the first picture of its first golden case, repeated `batch` times."""
    case, task = read_cases(bundle.folder / GOLDEN, bundle.manifest)[task_name][0], bundle.manifest.tasks[task_name]
    return {
        name: np.repeat(case.inputs[name][:1], batch, axis=0) if port.shape[:1] == ("batch",) else case.inputs[name]
        for name, port in task.inputs.items()
    }


def write_between(page: Path, start: str, text: str) -> None:
    """Writes `text` between the line `start` and the next end marker of a page."""
    before, marker, rest = page.read_text().partition(start)
    if not marker:
        sys.exit(f"Error: {page} has no line {start.strip()}")
    page.write_text(f"{before}{start}\n{text}\n{END}{rest.partition(END)[2]}")
