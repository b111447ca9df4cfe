"""Whether a target's runtime can run a task's graph: versions, operators, file sizes, 64-bit integers, control flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from ..errors import ExportError
from ..formats.golden import read_cases
from ..formats.manifest import Manifest
from ..graph.walk import nodes_of, weight_files
from ..hookspecs import Target, Task
from ..names import GOLDEN, graph_file
from ..ports.seed import seeds_of
from ..text import human_bytes

if TYPE_CHECKING:
    from ..system.worker import Worker

CONTROL_FLOW = ("If", "Loop", "Scan")


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """Whether and how a target runs a task."""

    task: str
    runs: bool
    reason: str  # why not, or what the user should know; may be empty
    opset: int
    ir_version: int
    operators: tuple[str, ...]  # all kinds, sorted
    missing: tuple[str, ...]  # operators without a kernel there
    control_flow: tuple[str, ...]
    int64_ports: tuple[str, ...]
    largest_file: int  # bytes


def report_on(folder: Path, manifest: Manifest, target: Target, worker: Worker | None = None) -> list[TaskReport]:
    """A report for each task of a bundle, including parts, in the manifest's order.

    Args:
        worker: runs parts of its graphs; None: this process does.
    """
    reports = {name: _report(folder, manifest, name, task, target, worker) for name, task in manifest.tasks.items()}
    for name, report in reports.items():
        if not report.runs and (parts := running_parts(manifest, reports, name)):
            reason = f"{report.reason}; {', '.join(parts)} are its parts, for a loop in the host"
            reports[name] = replace(report, reason=reason)
    return list(reports.values())


def running_parts(manifest: Manifest, reports: Mapping[str, TaskReport], whole: str) -> list[str]:
    """The parts of a task, for a host that runs the loop; none if one of them does not run, since all are needed."""
    parts = [name for name, task in manifest.tasks.items() if task.part_of == whole]
    return parts if all(reports[name].runs for name in parts) else []


def _report(
    folder: Path, manifest: Manifest, name: str, task: Task, target: Target, worker: Worker | None
) -> TaskReport:
    from .noise import take_noise

    path = folder / graph_file(name)
    model, note, no_noise = onnx.load(path, load_external_data=False), "", ""
    if target.int64_bits < 64 and seeds_of(task.inputs):
        try:
            model, task, _ = take_noise(model, task, read_cases(folder / GOLDEN, manifest)[name], worker)
            note = "it takes the seed's noise as an input; the host draws it"
        except ExportError as e:
            no_noise = f"it computes 64-bit integers in 32 bits, so the host must draw the seed's noise, but {e}"
    operators = sorted({node.op_type for node in nodes_of(model.graph)})
    missing = tuple(op for op in operators if op in target.missing_operators)
    loops = tuple(op for op in operators if op in CONTROL_FLOW)
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    largest = max(path.stat().st_size, *(manifest.files[f].size for f in weight_files(model.graph)), 0)
    obstacles = []
    if model.ir_version > target.ir_version:
        obstacles.append(f"IR {model.ir_version}, but it supports at most {target.ir_version}")
    if opset > target.opset:
        obstacles.append(f"opset {opset}, but it supports at most {target.opset}")
    if missing:
        obstacles.append(f"it has no kernel for {', '.join(missing)}")
    if largest > target.file_bytes:
        obstacles.append(f"a file of {human_bytes(largest)}, but it opens at most {human_bytes(target.file_bytes)}")
    if loops and not target.loops:
        obstacles.append(f"it has no {' or '.join(loops)}")
    if no_noise:
        obstacles.append(no_noise)
    return TaskReport(
        task=name,
        runs=not obstacles,
        reason="; ".join(obstacles) or note,
        opset=opset,
        ir_version=model.ir_version,
        operators=tuple(operators),
        missing=missing,
        control_flow=loops,
        int64_ports=tuple(p for p, port in (task.inputs | task.outputs).items() if port.dtype == "int64"),
        largest_file=largest,
    )
