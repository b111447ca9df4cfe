"""Makes the noise of a task's seed an input, for runtimes that cannot compute it: the host draws it (`zoo.noise`).

The graph is cut where the noise leaves the generator, and the nodes that computed it are removed. The value is not
found by a pattern: among those that only depend on the seed, it is the one that *is* the noise of docs/noise.md for the
golden seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from ..errors import ExportError
from ..formats.golden import Case
from ..graph.walk import graphs_of, names_used, nodes_of, subgraphs
from ..hookspecs import Port, Task
from ..noise import DRAW
from ..ports.seed import seeds_of
from ..ports.tensor import Tensor
from ..run.isolated import opener
from .bodies import copied, refill, remove_unused

if TYPE_CHECKING:
    from ..system.worker import Worker

NOISE = "noise"
DISTRIBUTIONS: tuple[Literal["normal", "uniform"], ...] = ("normal", "uniform")
ULPS = 4
"""How much normal values may differ from the specified ones: docs/noise.md."""


def take_noise(
    model: onnx.ModelProto, task: Task, cases: list[Case], worker: Worker | None = None
) -> tuple[onnx.ModelProto, Task, list[Case]]:
    """The task with an input `noise` instead of its seed: its graph, its ports, its golden cases.

    Args:
        worker: runs the part of the graph that draws the noise; None: this process does.

    Raises:
        ExportError: the seed gives anything but one tensor of noise, drawn outside loops; says what the obstacle is.
    """
    seed, *more = seeds_of(task.inputs)
    if more:
        raise ExportError("the task has several seeds")
    if NOISE in _names(model.graph):
        raise ExportError(f"its graph already has a value called {NOISE}")
    cut = copied(model)
    _count_the_noise(cut, seed)
    if any(seed in names_used(body) for node in cut.graph.node for body in subgraphs(node)):
        raise ExportError("a loop draws it")
    found = list(_noise_among(model, seed, task, cases, worker))
    if not found:
        raise ExportError("what depends on the seed is not the noise of docs/noise.md, stream 0")
    for value, port in found:
        rest = copied(cut)
        _cut_at(rest.graph, value, seed, port)
        if seed not in names_used(rest.graph):
            return rest, _in_place(task, seed, port), [_with_noise(case, seed, port) for case in cases]
    raise ExportError("the seed gives more than one noise")


def _names(graph: onnx.GraphProto) -> set[str]:
    """Every value of the graph and its subgraphs."""
    ports = {value.name for inner in graphs_of(graph) for value in (*inner.input, *inner.output)}
    return ports.union(*((*node.input, *node.output) for node in nodes_of(graph)))


def _count_the_noise(model: onnx.ModelProto, seed: str) -> None:
    """Takes the length of the batch from the noise where it was taken from the seed."""
    if max(opset.version for opset in model.opset_import) < 15:  # an older `Shape` cannot return only the first length
        return
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.op_type == "Shape" and node.input[0] == seed:
                node.CopyFrom(helper.make_node("Shape", [NOISE], node.output, node.name, start=0, end=1))


def _noise_among(
    model: onnx.ModelProto, seed: str, task: Task, cases: list[Case], worker: Worker | None
) -> Iterator[tuple[str, Port]]:
    """The values that are noise, with the port for it; the last one first."""
    names = list(_drawn(model.graph, seed, task))
    if not names:
        return
    drawn = _evaluate(model, names, cases, worker)
    for name in reversed(names):
        for distribution in DISTRIBUTIONS:
            arrays = [outputs[name] for outputs in drawn]
            port = Port(
                kind=Tensor.name,
                dtype="float32",
                shape=(*task.inputs[seed].shape, *arrays[0].shape[1:]),
                noise=distribution,
                summary="what a picture starts from; hosts draw it from a seed",
            )
            if all(_is_noise(port, case.inputs[seed], array) for case, array in zip(cases, arrays, strict=True)):
                yield name, port


def _drawn(graph: onnx.GraphProto, seed: str, task: Task) -> Iterator[str]:
    """The values after a cast to float32 that only depend on the seed, constants and the batch's length."""
    fixed = {t.name for t in graph.initializer if t.data_location != TensorProto.EXTERNAL} | {""}
    of_seed, of_floats = {seed}, set()
    for node in graph.node:
        reads = set(node.input)
        if any(subgraphs(node)):
            continue
        if reads <= fixed or _is_batch(node, task.inputs, task.inputs[seed].shape[0]):
            fixed.update(node.output)
        elif reads <= fixed | of_seed:
            of_seed.update(node.output)
            to_float = node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT
            if len(node.output) == 1 and (to_float or reads & of_floats):
                of_floats.update(node.output)
                yield node.output[0]


def _is_batch(node: onnx.NodeProto, ports: Mapping[str, Port], batch: int | str) -> bool:
    """Whether a node gives the length of the batch: the first dimension of an input."""
    port = ports.get(node.input[0]) if node.op_type == "Shape" else None
    if port is None or port.shape[:1] != (batch,):
        return False
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return bounds.get("start", 0) == 0 and bounds.get("end", len(port.shape)) == 1


def _evaluate(
    model: onnx.ModelProto, names: list[str], cases: list[Case], worker: Worker | None
) -> list[dict[str, np.ndarray]]:
    """Those values for each golden case, computed by our own runtime."""
    part = copied(model)
    refill(part.graph.output, [onnx.ValueInfoProto(name=name) for name in names])
    remove_unused(part.graph)
    needed = names_used(part.graph)
    refill(part.graph.input, [value for value in part.graph.input if value.name in needed])
    with TemporaryDirectory(prefix="zoo-noise-") as folder:
        path = Path(folder) / "noise.onnx"
        path.write_bytes(part.SerializeToString())
        session = opener(worker)(path, "cpu")
        return [session.run({name: case.inputs[name] for name in session.inputs}) for case in cases]


def _is_noise(port: Port, seeds: np.ndarray, array: np.ndarray) -> bool:
    """Whether an array is the noise that the port states for these seeds, within the 4 ulp of docs/noise.md."""
    if array.dtype != np.float32 or array.ndim < 2 or array.shape != (len(seeds), *port.shape[1:]):
        return False
    expected = _draw(port, seeds)
    return bool((np.abs(array - expected) <= ULPS * np.spacing(np.abs(expected))).all())


def _draw(port: Port, seeds: np.ndarray) -> np.ndarray:
    return DRAW[port.noise](seeds, [int(length) for length in port.shape[1:]])


def _cut_at(graph: onnx.GraphProto, value: str, seed: str, port: Port) -> None:
    """Replaces the input seed by the noise, and removes everything that is no longer needed."""
    for entry in graph.input:
        if entry.name == seed:
            entry.CopyFrom(helper.make_tensor_value_info(NOISE, TensorProto.FLOAT, port.shape))
    for node in graph.node:
        if value in node.output:
            node.CopyFrom(helper.make_node("Identity", [NOISE], [value]))
    remove_unused(graph)


def _in_place(task: Task, seed: str, port: Port) -> Task:
    inputs = {NOISE if n == seed else n: port if n == seed else p for n, p in task.inputs.items()}
    return msgspec.structs.replace(task, inputs=inputs)


def _with_noise(case: Case, seed: str, port: Port) -> Case:
    noise = _draw(port, case.inputs[seed])
    inputs = {NOISE if n == seed else n: noise if n == seed else a for n, a in case.inputs.items()}
    return replace(case, inputs=inputs)
