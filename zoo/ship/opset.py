"""Writes a graph of opset 18 in opset 17, for stacks that know no newer one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from ..errors import ExportError
from ..graph.plain import with_known_values
from .bodies import copied, remove_unused

REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
)  # fmt: skip
"""Their axes are an input since opset 18, an attribute before."""

NEW_ATTRIBUTES = {
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
    "Split": {"num_outputs": None},  # 17 splits evenly if no sizes are given; an uneven split fails when it is opened
}
"""What opset 18 added to operators, with the value that means the same as before; None: any."""

REDUCING_SCATTERS = ("ScatterElements", "ScatterND")
"""Since opset 18 they also keep the larger or smaller value; what else they do is the same in 17."""

OLDEST = 17


def in_opset(model: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    """The model in a lower opset; a copy if it already is.

    Raises:
        ExportError: an operator has no form in that opset, or `wanted` is below 17.
    """
    model = copied(model)
    (stated,) = [opset for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if wanted >= stated.version:
        return model
    if stated.version != OLDEST + 1 or wanted != OLDEST:
        raise ExportError(f"graphs of opset {stated.version} can be written in opset {OLDEST} at the lowest")
    for graph, values in with_known_values(model.graph):
        for node in graph.node:
            if not _is_new(node):
                continue
            if node.op_type in REDUCTIONS and _axes_known(node, values):
                _hold_axes(node, values)
            elif node.op_type in NEW_ATTRIBUTES:
                _drop(node, NEW_ATTRIBUTES[node.op_type])
            elif not (_scatters_as_before(node) or (node.op_type == "Pad" and len(node.input) < 4)):
                raise ExportError(f"it uses {node.op_type}, which opset {wanted} does not have")
    remove_unused(model.graph)
    stated.version = wanted
    return model


def _is_new(node: onnx.NodeProto) -> bool:
    """Whether opset 18 introduced or changed the operator."""
    return onnx.defs.get_schema(node.op_type, OLDEST + 1, node.domain).since_version == OLDEST + 1


def _scatters_as_before(node: onnx.NodeProto) -> bool:
    return node.op_type in REDUCING_SCATTERS and not any(a.s in (b"max", b"min") for a in node.attribute)


def _axes_known(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> bool:
    return "".join(node.input[1:]) in ("", *values)


def _hold_axes(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> None:
    """Writes a reduction's axes as an attribute. Without axes it reduces all of them, or, if it says so, none."""
    axes = [axis for name in node.input[1:] if name for axis in values[name].tolist()]
    del node.input[1:]
    flags = [attribute for attribute in node.attribute if attribute.name == "noop_with_empty_axes"]
    unreduced = any(flag.i for flag in flags)
    for flag in flags:
        node.attribute.remove(flag)
    if axes:
        node.attribute.append(helper.make_attribute("axes", axes))
    elif unreduced:
        node.CopyFrom(helper.make_node("Identity", node.input, node.output, node.name))


def _drop(node: onnx.NodeProto, droppable: dict) -> None:
    for attribute in [a for a in node.attribute if a.name in droppable or a.name == "axes"]:
        same = droppable.get(attribute.name, ())
        if same is not None and helper.get_attribute_value(attribute) != same:
            raise ExportError(f"its {node.op_type} has {attribute.name}, which opset {OLDEST} does not have")
        node.attribute.remove(attribute)
