"""One file per task, with the weights inside, for stacks that are given nothing but a graph.

Its graph is that of `model/`, simplified; with a fixed batch and in a lower opset, if that was chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from ..errors import ExportError, ZooError
from ..formats.golden import Case, read_cases
from ..formats.manifest import Manifest
from ..graph.walk import graphs_of
from ..hookspecs import Task
from ..names import GOLDEN, graph_file
from ..ports.kind import BATCH
from ..ports.outputs import check_outputs
from ..run.comparison import compare_task, worst_of
from ..run.isolated import opener
from ..run.replay import tolerance_of
from ..text import human_bytes, safe_text
from .fixing import Run, resized, state_shape
from .folding import fold
from .opset import in_opset

if TYPE_CHECKING:
    from ..system.worker import Worker

PART = "_part.onnx"
"""A graph for a moment; the names of tasks start with a letter."""

MAX_BYTES = 2**31 - 1
"""The largest message that protobuf reads."""


def write_single_files(
    model: Path,
    manifest: Manifest,
    folder: Path,
    *,
    batch: int | None = None,
    opset: int | None = None,
    worker: Worker | None = None,
) -> dict[str, str]:
    """Writes `<task>.onnx` to `folder` for each task of the bundle `model`.

    Args:
        batch: fixes the batch of every graph.
        opset: lowers the graphs that have a form in it.
        worker: runs parts of the graphs; None: this process does.

    Returns:
        Why a graph keeps its opset, by task.

    Raises:
        ExportError: a graph is too large for one file.
    """
    cases, kept = read_cases(model / GOLDEN, manifest), {}
    for name, task in manifest.tasks.items():
        graph = onnx.load(model / graph_file(name), load_external_data=False)
        inputs = cases[name][0].inputs
        if batch is not None:
            for entries, ports in ((graph.graph.input, task.inputs), (graph.graph.output, task.outputs)):
                for entry in entries:
                    state_shape(entry, in_batch(ports[entry.name].shape, batch))
            inputs = {n: resized(array, in_batch(task.inputs[n].shape, batch)) for n, array in inputs.items()}
        _fold(graph, inputs, model, worker)
        if opset is not None:
            try:
                graph = in_opset(graph, opset)
            except ExportError as e:
                kept[name] = str(e)
        _put_weights_inside(graph.graph, model, manifest.files)
        if (size := graph.ByteSize()) > MAX_BYTES:
            raise ExportError(f"{name} has {human_bytes(size)}; one file can have {human_bytes(MAX_BYTES)} at most")
        (folder / graph_file(name)).write_bytes(graph.SerializeToString(deterministic=True))
    return kept


def prove_single_files(
    model: Path, manifest: Manifest, folder: Path, *, batch: int | None = None, worker: Worker | None = None
) -> None:
    """Opens the files that `write_single_files` wrote, and compares the outputs of the golden cases.

    With a fixed batch, each case has its first `batch` elements, or all of them, repeated.

    Raises:
        ExportError: ONNX Runtime refuses a file, or its outputs differ.
    """
    tolerance, cases = tolerance_of(manifest, "cpu"), read_cases(model / GOLDEN, manifest)
    for name, task in manifest.tasks.items():
        try:
            session = opener(worker)(folder / graph_file(name), "cpu", exact=True)
            for case in cases[name]:
                expected = case if batch is None else _first(case, task, batch)
                outputs = session.run(expected.inputs)
                check_outputs(name, task, expected.inputs, outputs)
                compared = compare_task(task.outputs, expected.outputs, outputs, tolerance, expected.margins)
                if worst_of(compared) == "differs":
                    raise ExportError("it does not give the golden outputs")
        except ZooError as e:
            raise ExportError(f"{graph_file(name)} cannot be exported: {safe_text(e)}") from None


def _first(case: Case, task: Task, batch: int) -> Case:
    inputs, outputs = (
        {name: resized(arrays[name], in_batch(port.shape, batch)) for name, port in ports.items()}
        for arrays, ports in ((case.inputs, task.inputs), (case.outputs, task.outputs))
    )
    return Case(inputs, outputs, None if case.margins is None else resized(case.margins, (batch,)))


def in_batch(shape: tuple[int | str, ...], batch: int) -> tuple[int | str, ...]:
    """A port's shape with a fixed batch."""
    return tuple(batch if dimension == BATCH else dimension for dimension in shape)


def runner(folder: Path, worker: Worker | None) -> Run:
    """A function that runs graphs whose weights are in `folder`, with those of the given inputs that they take."""

    def run(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        path = folder / PART  # next to the weights: ONNX Runtime opens no others
        path.write_bytes(model.SerializeToString())
        try:
            session = opener(worker)(path, "cpu")
            return session.run({name: inputs[name] for name in session.inputs})
        finally:
            path.unlink()

    return run


def _fold(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], folder: Path, worker: Worker | None) -> None:
    """Folds the graph, and states the shapes of its outputs that are now known."""
    run = runner(folder, worker)
    shapes = fold(model, lambda part: run(part, inputs))
    for entry in model.graph.output:
        if entry.name in shapes:
            state_shape(entry, shapes[entry.name])


def _put_weights_inside(graph: onnx.GraphProto, folder: Path, files: Collection[str]) -> None:
    """Reads the weights from the bundle's own files; a graph could name any other."""
    for inner in graphs_of(graph):
        for tensor in inner.initializer:
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            stated = {entry.key: entry.value for entry in tensor.external_data}
            if (location := stated["location"]) not in files:
                raise ExportError(f"its weights are in {safe_text(location)}, which is not a file of the bundle")
            with (folder / location).open("rb") as file:
                file.seek(int(stated["offset"]))
                tensor.raw_data = file.read(int(stated["length"]))
            del tensor.external_data[:]
            tensor.data_location = TensorProto.DEFAULT
