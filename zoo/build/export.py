"""From a torch module to a bundle: one ONNX graph per task, the weights once, and a check that the numbers are the
same.

The steps: write the weights to safetensors; trace each task and point its initializers into them; draw golden cases and
run them in torch; check the graphs like a stranger's; replay the cases in ONNX Runtime. All of this happens in a
temporary folder, which gets its final name only if every step succeeded.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from tabulate import tabulate
from torch import nn

from ..errors import ExportError, UsageError
from ..formats import manifest as manifests
from ..formats.golden import read_cases, write_cases
from ..formats.manifest import Drift, Export, Manifest, Training
from ..graph.check import check
from ..hookspecs import DescribeRequest, Golden, Metric, Task, TaskModuleRequest, Tasks, TasksRequest
from ..names import GOLDEN, MANIFEST, graph_file
from ..plugins import Loaded, places
from ..ports.count import count_of
from ..run.comparison import compare_task
from ..run.replay import replay, tolerance_of
from ..runtime import open_session
from ..system.files import folder_beside, put_in_place, write_atomically
from ..text import safe_text
from .card import CARD, card
from .diagnosis import NOISE, causes, first_difference
from .golden import DRIFT, TRACE, about_ties, check_golden, draw_cases, draw_inputs, smallest
from .shared import SharedNetwork
from .tracing import IR_VERSION, OPSET, export_task
from .weights import MAX_FILE_BYTES, Weights, round_to_half

DRIFT_COUNTS = (1, 2, 5, 10, 20, 50)
"""Numbers of iterations after which a loop's graph is compared with torch; golden cases only have a few."""

DRIFT_SECONDS = 5.0
"""A loop is compared after no number of iterations that would take longer than this, together with those before:
processor time, as for golden cases."""


def export_bundle(
    *,
    out: Path,
    name: str,
    version: int,
    family: str,
    loaded: Loaded,
    config: Mapping[str, Any],
    module: nn.Module,
    classes: Sequence[str] = (),
    summary: str,
    license: str,
    license_note: str = "",
    training: Training,
    metrics: Sequence[Metric] = (),
    assets: Mapping[str, bytes] = {},
    on_progress: Callable[[str], None] = lambda line: None,
    only: Sequence[str] = (),
    golden: Mapping[str, Golden] = {},
    precision: str = "float32",
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Manifest:
    """Writes the bundle of a trained module to `out`, or fails and leaves nothing behind.

    Args:
        out: the bundle's folder; it must not exist.
        loaded: the family's plugin; only its `call(hook, request)` is used.
        config: complete, as `validate_config` returned it.
        module: trained, as `build_module` builds it. It is moved to the CPU and set to evaluation mode.
        assets: files that the bundle contains besides, by name; checked (`formats.assets`).
        only: the tasks to export, with their parts; empty: all.
        golden: what the golden cases of a task cost, where it is not what the family says.
        precision: of the weights in the files: `float32`, or `float16`, which rounds those of the module too. Graphs
            compute in float32.
        max_file_bytes: larger weights become several files, `denoiser-00001-of-00002.safetensors` and so on.
        on_progress: called with a line for each task that was traced or whose golden cases tie, for each golden case
            that takes long, and before the replay.

    Raises:
        ExportError: a task cannot be traced, or its graph does not give torch's numbers; a table says where.
        StoreError: the folder cannot be written.
        UsageError: `out` exists.
    """
    if out.exists():
        raise UsageError(f"{safe_text(out)} exists; choose another folder, or remove it")
    described = loaded.call("describe_family", DescribeRequest(family=family))
    tasks = loaded.call("list_tasks", TasksRequest(family=family, config=config, classes=tuple(classes)))
    tasks = _chosen(tasks, only)
    module = module.cpu().eval()
    with folder_beside(out) as folder:
        for file, data in assets.items():
            (folder / file).write_bytes(data)
        halved = round_to_half(module) if precision == "float16" else ()
        weights = Weights(module, described.weights, folder, max_bytes=max_file_bytes, halved=halved)
        modules = {}
        for task in tasks.tasks:
            request = TaskModuleRequest(family=family, config=config, task=task, module=module, assets=assets)
            modules[task] = loaded.call("build_task", request).eval()
        shared = SharedNetwork.of(module, modules, lambda task: _traced_inputs(tasks.tasks[task]))
        for task in tasks.tasks:
            with _place_in(modules[task]):
                export_task(modules[task], task, tasks.tasks[task], weights, folder / graph_file(task), shared)
            on_progress(f"traced {task}")
        in_torch = TorchTasks(modules, tasks)
        cost = check_golden({**tasks.golden, **golden}, tasks)
        cases = draw_cases(tasks, in_torch.call, in_torch.margins, golden=cost, on_progress=on_progress)
        write_cases(folder / GOLDEN, cases)
        for task, drawn in cases.items():
            if line := about_ties(drawn, tasks.tolerance):
                on_progress(f"{task}: {line}")

        manifest = Manifest(
            format=manifests.FORMAT,
            needs_zoo=manifests.zoo_needed(tasks.tasks),
            name=name,
            version=version,
            family=family,
            summary=summary,
            license=license,
            license_note=license_note,
            paper=described.paper,
            config=dict(config),
            classes=tuple(classes),
            default_task=tasks.default,
            tasks=dict(tasks.tasks),
            tolerances={f"{precision}/{provider}": tasks.tolerance for provider in ("cpu", "cuda")},
            training=training,
            metrics=tuple(metrics),
            export=Export(
                opset=OPSET,
                ir_version=IR_VERSION,
                precision=precision,
                checked_with=", ".join(f"{m.__name__} {m.__version__}" for m in (torch, onnx, onnxruntime)),
            ),
            files={path.name: manifests.describe_file(path) for path in folder.iterdir()},
        )
        update_bundle(folder, manifest)
        manifest = manifests.read(folder)  # zoo must be able to read what it writes
        on_progress("comparing with torch")
        _prove(folder, manifest, modules, on_progress)
        if drift := _measure_drift(folder, manifest, in_torch, cost, on_progress):
            export = msgspec.structs.replace(manifest.export, drift=drift)
            manifest = update_bundle(folder, msgspec.structs.replace(manifest, export=export))
        put_in_place(folder, out)
    return manifest


def _traced_inputs(task: Task) -> list[torch.Tensor]:
    arrays = draw_inputs(task, TRACE, np.random.default_rng(0))
    return [torch.from_numpy(array) for array in arrays.values()]


def _chosen(tasks: Tasks, only: Sequence[str]) -> Tasks:
    if not only:
        return tasks
    chosen = {name: task for name, task in tasks.tasks.items() if name in only or task.part_of in only}
    return replace(tasks, tasks=chosen, default=tasks.default if tasks.default in chosen else next(iter(chosen)))


def update_bundle(folder: Path, manifest: Manifest) -> Manifest:
    """Rewrites a bundle's manifest and card, e.g. with new metrics; weights, graphs and cases stay unchanged."""
    write_atomically(folder / CARD, card(manifest).encode())
    files = manifest.files | {CARD: manifests.describe_file(folder / CARD)}
    manifest = msgspec.structs.replace(manifest, files=dict(sorted(files.items())))
    write_atomically(folder / MANIFEST, manifests.dump(manifest))
    return manifest


@contextlib.contextmanager
def _place_in(module: nn.Module) -> Iterator[None]:
    """Adds to the message of a failed export the line of the plugin's code where it failed, and what to read."""
    try:
        yield
    except ExportError as e:
        where = places.of_error(e.__cause__, module) or places.of_code(type(module).forward, module)
        raise ExportError(f"{e}{where and f' ({where})'}; docs/contract.md#build_task says what a task is") from e


class TorchTasks:
    """The tasks, run in torch: arrays in, arrays out, by port."""

    def __init__(self, modules: Mapping[str, nn.Module], tasks: Tasks):
        self.modules, self.tasks = modules, tasks

    def call(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            result = self.modules[name](*(torch.from_numpy(array) for array in inputs.values()))
        results = result if isinstance(result, (tuple, list)) else (result,)
        ports = self.tasks.tasks[name].outputs
        if len(results) != len(ports):
            raise ExportError(f"the module of '{name}' gives {len(results)} outputs; its ports are {', '.join(ports)}")
        return {port: tensor.numpy() for port, tensor in zip(ports, results, strict=True)}

    def margins(self, name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        margins = getattr(self.modules[name], "margins", None)
        if margins is None:
            return None
        with torch.no_grad():
            return margins(*(torch.from_numpy(array) for array in inputs.values())).numpy()


def _prove(
    folder: Path, manifest: Manifest, modules: Mapping[str, nn.Module], on_progress: Callable[[str], None]
) -> None:
    """Checks that the graphs pass the check for strangers' graphs, and give torch's numbers."""

    def code(task: str) -> str:
        return places.of_code(type(modules[task]).forward, modules[task])

    if findings := check(folder, manifest):
        lines = "".join(f"\n  {finding}" for finding in findings)
        if any("random operators" in finding for finding in findings):
            lines += f"\n  {NOISE}"
        tasks = [task for task in modules if any(f.startswith(f"{graph_file(task)}:") for f in findings)]
        where = ", ".join(filter(None, map(code, tasks)))
        raise ExportError(f"the graphs cannot be published{where and f' ({where})'}:{lines}")

    def diagnosis(task: str) -> Iterator[str]:
        """The first value that differs, and what the module does that a graph cannot follow."""
        outputs = manifest.tasks[task].outputs
        session = open_session(folder / graph_file(task), "cpu", exact=True)
        for case in read_cases(folder / GOLDEN, manifest)[task]:
            given = session.run(case.inputs)
            compared = compare_task(outputs, case.outputs, given, tolerance_of(manifest, "cpu"), case.margins)
            if off := next((output for output, c in compared.items() if c.verdict == "differs"), None):
                yield f"{task}: the first value that differs: {off} {first_difference(case.outputs[off], given[off])}"
                ordered = {port: case.inputs[port] for port in manifest.tasks[task].inputs}  # files have another order
                yield from (f"{task}: {cause}" for cause in causes(modules[task], ordered))
                return

    replays = replay(folder, manifest, "cpu", on_progress=on_progress)
    off = [
        (task.task, output, comparison.text, code(task.task))
        for task in replays
        for output, comparison in task.outputs.items()
        if comparison.verdict == "differs"
    ]
    if off:
        table = tabulate(off, headers=("task", "output", "ONNX Runtime compared with torch", "code"), tablefmt="plain")
        reasons = "".join(f"\n{line}" for task in dict.fromkeys(row[0] for row in off) for line in diagnosis(task))
        raise ExportError(f"the graphs do not give torch's numbers; no bundle was written\n{table}{reasons}")


def _measure_drift(
    folder: Path,
    manifest: Manifest,
    in_torch: TorchTasks,
    golden: Mapping[str, Golden],
    on_progress: Callable[[str], None],
) -> dict[str, tuple[Drift, ...]]:
    """Whether a loop's small differences grow with its iterations, for the default task if it has a `count` port.

    The family may say after how many iterations; else time limits them (`DRIFT_SECONDS`).

    Raises:
        ExportError: they grow beyond the tolerance.
    """
    name, task = manifest.task(None)
    port = count_of(task.inputs)
    if port is None:
        return {}
    cost = golden.get(name, Golden())
    if cost.counts == ():
        return {}
    session = open_session(folder / graph_file(name), "cpu", exact=True)
    inputs = draw_inputs(task, DRIFT, np.random.default_rng(1), values=cost.values)
    low, high = (task.inputs[port].minimum or 1), (task.inputs[port].maximum or DRIFT_COUNTS[-1])
    counts = DRIFT_COUNTS if cost.counts is None else cost.counts
    curve = []
    began, iterations = time.thread_time(), 0
    for count in (count for count in counts if low <= count <= high):
        if curve and cost.counts is None:
            seconds = (time.thread_time() - began) / iterations
            if seconds * (iterations + count) > DRIFT_SECONDS:
                break
        on_progress(f"comparing {name} with torch at {port} {count}")
        iterations += count
        inputs |= {port: np.asarray(count)}
        expected, actual = in_torch.call(name, inputs), session.run(inputs)
        tolerance, gaps = (
            manifest.tolerances[f"{manifest.export.precision}/cpu"],
            smallest(in_torch.margins(name, inputs)),
        )
        compared = compare_task(task.outputs, expected, actual, tolerance, gaps)
        for output, comparison in compared.items():
            if comparison.verdict == "differs":
                raise ExportError(f"'{output}' of '{name}' drifts from torch: {comparison.text} at {port} {count}")
        worst = max(comparison.worst for comparison in compared.values())
        share = min(comparison.share_equal for comparison in compared.values())
        curve.append(Drift(count=count, worst=worst, share_equal=round(share, 6)))
    return {name: tuple(curve)}
