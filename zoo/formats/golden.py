"""`golden.safetensors`: for each task and case, the graph's inputs and the outputs that they must give.

The keys are `<task>/<case>/inputs/<port>` and `<task>/<case>/outputs/<port>`, with cases counted from 0, so that any
stack can check itself. `<task>/<case>/margins`, if present, says how close to a tie the tokens of each element of the
batch are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidFileError
from ..media import tensors
from ..ports.kind import shape_text
from ..text import safe_text
from .manifest import Manifest

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Case:
    """Inputs of a task, and the outputs that they must give; arrays by port."""

    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    margins: np.ndarray | None = None  # float32 [batch]; only if no inputs without ties were found


def read_cases(path: Path, manifest: Manifest) -> dict[str, list[Case]]:
    """The golden cases of each task, in order; every task has at least one, and every case has all ports."""
    found: dict[str, dict[int, Case]] = {name: {} for name in manifest.tasks}
    for key, array in tensors.load(path).items():
        task, number, side, port = (key.split("/") + [""] * 4)[:4]
        known = side in ("inputs", "outputs") if key.count("/") == 3 else key == f"{task}/{number}/margins"
        if task not in found or not (number.isascii() and number.isdigit()) or not known:
            raise InvalidFileError(f"{safe_text(path)}: '{safe_text(key)}' does not name a task, case and port")
        case = found[task].setdefault(int(number), Case())
        if port:
            getattr(case, side)[port] = array
        else:
            case.margins = array
    for name, task in manifest.tasks.items():
        if not found[name]:
            raise InvalidFileError(f"{safe_text(path)} has no case for the task {name}")
        for number, case in found[name].items():
            if case.inputs.keys() != task.inputs.keys() or case.outputs.keys() != task.outputs.keys():
                raise InvalidFileError(f"{safe_text(path)}: case {number} of {name} has other ports than the manifest")
            if case.margins is not None and case.margins.ndim != 1:
                raise InvalidFileError(f"{safe_text(path)}: the margins of case {number} of {name} are not a list")
            for port_name, array in (case.inputs | case.outputs).items():
                port = (task.inputs | task.outputs)[port_name]
                fits = array.ndim == len(port.shape) and all(
                    length == d if isinstance(d, int) else length for d, length in zip(port.shape, array.shape)
                )
                if array.dtype != port.dtype or not fits:
                    raise InvalidFileError(
                        f"{safe_text(path)}: {port_name} of case {number} of {name} is {array.dtype}"
                        f" {shape_text(array.shape)}, not {port.dtype} {shape_text(port.shape)}"
                    )
    return {name: [case for _, case in sorted(numbered.items())] for name, numbered in found.items()}


def write_cases(path: Path, cases: dict[str, list[Case]]) -> None:
    """Writes golden.safetensors; `read_cases` reads it."""
    arrays: dict[str, np.ndarray] = {}
    for task, numbered in cases.items():
        for number, case in enumerate(numbered):
            for side, ports in (("inputs", case.inputs), ("outputs", case.outputs)):
                arrays |= {f"{task}/{number}/{side}/{port}": array for port, array in ports.items()}
            if case.margins is not None:
                arrays[f"{task}/{number}/margins"] = case.margins
    tensors.save(path, arrays)
