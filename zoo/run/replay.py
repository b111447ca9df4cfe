"""Runs a bundle's golden cases (`zoo.formats.golden`) here, and compares the outputs with the expected ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidFileError
from ..formats.golden import read_cases
from ..formats.manifest import Manifest
from ..hookspecs import Tolerance
from ..names import GOLDEN, graph_file
from ..ports.outputs import check_outputs
from ..text import safe_text
from .comparison import Comparison, Verdict, compare_task, worst_of
from .isolated import opener

if TYPE_CHECKING:
    import numpy as np

    from ..runtime import Device
    from ..system.worker import Worker


@dataclass(frozen=True)
class TaskReplay:
    """The result of a task's golden cases."""

    task: str
    provider: str  # cpu or cuda; or a target, if its host ran
    verdict: Verdict
    outputs: dict[str, Comparison]  # the worst case of each output


NOTED_SECONDS = 2.0
"""A case that takes longer is reported."""


def replay(
    folder: Path,
    manifest: Manifest,
    device: Device = "auto",
    worker: Worker | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> list[TaskReplay]:
    """Runs every golden case of every task. The graphs must have passed `zoo.graph.check`.

    Args:
        worker: the process that runs them; None: this one.
        on_progress: called with a line for each case that takes more than `NOTED_SECONDS`.

    Raises:
        InvalidFileError: no golden cases, or cases that do not fit the manifest.
        DeviceError: the requested device does not run a graph.
    """
    open_session = opener(worker)
    cases = read_cases(folder / GOLDEN, manifest)
    result = []
    for name, task in manifest.tasks.items():
        # Exact: on CUDA without TF32, whose 10-bit mantissa gives other results.
        session = open_session(folder / graph_file(name), device, exact=True)
        tolerance = tolerance_of(manifest, session.provider)
        compared = []
        for number, case in enumerate(cases[name], 1):
            began = time.monotonic()
            outputs = session.run(case.inputs)
            if (took := time.monotonic() - began) > NOTED_SECONDS:
                on_progress(f"{name}: replayed case {number} of {len(cases[name])} in {took:.0f} s")
            check_outputs(name, task, case.inputs, outputs)
            compared.append(compare_task(task.outputs, case.outputs, outputs, tolerance, case.margins))
        outputs = worst_outputs(compared)
        result.append(TaskReplay(name, session.provider, worst_of(outputs), outputs))
    return result


def judge(
    folder: Path, manifest: Manifest, outputs: dict[str, list[dict[str, np.ndarray]]], provider: str
) -> list[TaskReplay]:
    """Like `replay`, for outputs that another stack gave: for each task, case by case.

    Args:
        provider: that stack's name, for people; the tolerance of the CPU applies to it.
    """
    cases, tolerance = read_cases(folder / GOLDEN, manifest), tolerance_of(manifest, "cpu")
    result = []
    for name, task in manifest.tasks.items():
        compared = [
            compare_task(task.outputs, case.outputs, actual, tolerance, case.margins)
            for case, actual in zip(cases[name], outputs[name], strict=True)
        ]
        worst = worst_outputs(compared)
        result.append(TaskReplay(name, provider, worst_of(worst), worst))
    return result


def worst_outputs(cases: list[dict[str, Comparison]]) -> dict[str, Comparison]:
    """For each output, the comparison of its worst case, with that case's number in the text."""
    order = ("identical", "within", "differs")
    result = {}
    for name in cases[0]:
        comparisons = [case[name] for case in cases]
        worst = max(comparisons, key=lambda c: (order.index(c.verdict), c.worst))
        number = "" if worst.verdict == "identical" else f" (case {comparisons.index(worst)})"
        result[name] = replace(worst, text=worst.text + number)
    return result


def tolerance_of(manifest: Manifest, provider: str) -> Tolerance:
    """The tolerance that a model states for its precision on a provider."""
    key = f"{manifest.export.precision}/{provider}"
    if key not in manifest.tolerances:
        raise InvalidFileError(f"{safe_text(manifest.name)} states no tolerance for {key}; export it again")
    return manifest.tolerances[key]
