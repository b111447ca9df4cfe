"""Computes the parts of a graph that are the same in every call, and puts their results in their place.

If the shapes of a graph's inputs are fixed, so are nearly all shapes inside it, and what only depends on shapes and
constants can be computed in advance. The values come from our own runtime: the graph is run once, with those values as
outputs. So no operator is implemented here, and a stranger's graph stays in its worker.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ..graph.plain import constant
from ..graph.walk import names_used, subgraphs
from .bodies import copied, refill, remove_unused

MAX_ELEMENTS = 1 << 16
"""A larger result stays a computation."""

BY_VALUE = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2), "Slice": (1, 2, 3, 4),
    "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 3), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,),
    "TopK": (1,), "OneHot": (1,), "CenterCropPad": (1,), "Col2Im": (1, 2), "AffineGrid": (1,), "MaxUnpool": (2,),
    "DFT": (1, 2), "STFT": (1, 3), "BlackmanWindow": (0,), "HammingWindow": (0,), "HannWindow": (0,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
}  # fmt: skip
"""Operators whose output's shape depends on the values of some inputs, and which; the reductions are in `_by_value`."""

OPEN = {
    "NonZero", "Compress", "Unique", "NonMaxSuppression", "StringSplit", "SequenceConstruct", "SequenceEmpty",
    "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength", "SplitToSequence", "ConcatFromSequence",
    "Optional", "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip
"""Operators whose output's shape depends on the values of any input."""

Outputs = dict[str, np.ndarray]


def fold(model: onnx.ModelProto, run: Callable[[onnx.ModelProto], Outputs]) -> dict[str, tuple[int, ...]]:
    """Replaces everything in the outermost graph that is the same in every call by its value.

    Args:
        run: runs a version of the graph with other outputs, on valid inputs.

    Returns:
        The shape of each of the graph's outputs that is the same in every call.
    """
    graph, large = model.graph, set()
    while True:
        known, shaped = _same_in_every_call(graph, large)
        needed = _frontier(graph, known)
        sized = [output.name for output in graph.output if output.name in shaped]
        values = _evaluate(model, [*needed, *(name for name in sized if name not in needed)], run)
        if not (more := {name for name in needed if values[name].size > MAX_ELEMENTS}):
            break
        large |= more
    given = {output.name for output in graph.output}
    kept = [node for node in graph.node if node.op_type == "Constant" or not known.issuperset(node.output)]
    refill(graph.node, [constant(values[name], name) for name in needed if name in given] + kept)
    graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in needed if name not in given)
    remove_unused(graph)
    return {name: values[name].shape for name in sized}


def _same_in_every_call(graph: onnx.GraphProto, large: set[str]) -> tuple[set[str], set[str]]:
    """The values computed from constants and shapes only, and those with the same shape in every call."""
    inside = {t.name for t in graph.initializer if t.data_location != TensorProto.EXTERNAL} | {""}
    known: set[str] = set()
    shaped = inside | {t.name for t in graph.initializer}
    for entry in graph.input:
        if all(d.HasField("dim_value") for d in entry.type.tensor_type.shape.dim):
            shaped.add(entry.name)
    for node in graph.node:
        if any(subgraphs(node)):
            continue
        of_shape = node.op_type in ("Shape", "Size") and node.input[0] in shaped
        if (of_shape or inside.union(known).issuperset(node.input)) and not large.intersection(node.output):
            known.update(node.output)
            shaped.update(node.output)
        elif node.op_type not in OPEN and shaped.issuperset(node.input):
            deciding = {node.input[i] for i in _by_value(node) if i < len(node.input)}
            shaped.update(node.output if deciding <= inside | known else ())
    return known, shaped


def _by_value(node: onnx.NodeProto) -> tuple[int, ...]:
    return (1,) if node.op_type.startswith("Reduce") else BY_VALUE.get(node.op_type, ())


def _frontier(graph: onnx.GraphProto, known: set[str]) -> list[str]:
    """Those values that the rest of the graph reads, or that are its outputs."""
    read = {output.name for output in graph.output}
    for node in graph.node:
        read.update(*(names_used(body) for body in subgraphs(node)))
        if not known.issuperset(node.output):
            read.update(node.input)
    return [n for node in graph.node if node.op_type != "Constant" for n in node.output if n in known & read]


def _evaluate(model: onnx.ModelProto, names: list[str], run: Callable[[onnx.ModelProto], Outputs]) -> Outputs:
    if not names:
        return {}
    part = copied(model)
    refill(part.graph.output, [onnx.ValueInfoProto(name=name) for name in names])
    remove_unused(part.graph)
    return run(part)
