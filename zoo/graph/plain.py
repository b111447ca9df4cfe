"""Rewrites a graph in the plainest form that ONNX has for it; what it computes stays the same.

ONNX often has two forms for one thing, and stacks other than ONNX Runtime, and tools that rewrite graphs, know the
older one, or read the newer one wrongly: onnxslim and onnx-graphsurgeon turn `value_floats` into float64, TVM and
onnx2torch know neither `CastLike` nor a `Max` of one value, and IREE computes `DepthToSpace` in CRD mode wrongly if
there is one channel left.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .walk import graphs_of, subgraphs

ONE_IS_ENOUGH = ("Max", "Min", "Sum", "Mean")
"""Operators that return their input if they have only one."""

Types = Mapping[str, int]
"""ONNX's number of the element type of each value in scope."""

Makers = Mapping[str, onnx.NodeProto]
"""The node that gives each value in scope."""


def make_plain(model: onnx.ModelProto) -> None:
    """Rewrites the model's graph, and the bodies of its loops and branches, in place.

    Then `Constant` only has a tensor (`value`), there is no `Max`, `Min`, `Sum` or `Mean` of one value, no `CastLike`,
    no `DepthToSpace` in CRD mode (from opset 15 on), no attribute `allowzero` where it is 0 or not needed, and
    `Identity` only where it gives an output of a graph.
    """
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.op_type == "Constant":
                _hold_tensor(node)
            if node.op_type in ONE_IS_ENOUGH and len(node.input) == 1:
                node.CopyFrom(helper.make_node("Identity", node.input, node.output, node.name))
    _cast_by_type(model.graph, {}, opset)
    if opset >= _SLICED_SHAPE:
        for graph in graphs_of(model.graph):
            _spell_out_depth_to_space(graph)
    _drop_allowzero(model.graph, {}, {})
    for graph in graphs_of(model.graph):
        drop_identities(graph)


# --- Constant ---------------------------------------------------------------------------------------------------------

_LISTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def _hold_tensor(node: onnx.NodeProto) -> None:
    (attribute,) = node.attribute
    if attribute.name in _LISTS:
        value = np.asarray(helper.get_attribute_value(attribute), _LISTS[attribute.name])
        node.CopyFrom(constant(value, node.output[0], node.name))


def constant(value: np.ndarray, output: str, name: str = "") -> onnx.NodeProto:
    """A node that gives an array."""
    return helper.make_node("Constant", [], [output], name, value=numpy_helper.from_array(value))


def known_values(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """The constants of one graph: its initializers, except the weights outside, and its `Constant` nodes."""
    inside = [tensor for tensor in graph.initializer if tensor.data_location == TensorProto.DEFAULT]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in inside}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return values


def with_known_values(
    graph: onnx.GraphProto, outer: Mapping[str, np.ndarray] = MappingProxyType({})
) -> Iterator[tuple[onnx.GraphProto, dict[str, np.ndarray]]]:
    """The graph and all its subgraphs, each with the constants that it may read: its own and those around it."""
    own = {entry.name for entry in graph.input} | {output for node in graph.node for output in node.output}
    values = {name: value for name, value in outer.items() if name not in own} | known_values(graph)
    yield graph, values
    for node in graph.node:
        for body in subgraphs(node):
            yield from with_known_values(body, values)


# --- CastLike ---------------------------------------------------------------------------------------------------------


def _cast_by_type(graph: onnx.GraphProto, outer: Types, opset: int) -> dict[str, int]:
    """Replaces CastLike by a Cast to the type of its second input; returns the type of each value of the graph."""
    types = dict(outer)
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        bodies = [_cast_by_type(body, types, opset) for body in subgraphs(node)]
        if node.op_type == "CastLike" and (wanted := types.get(node.input[1])):
            same = types.get(node.input[0]) == wanted
            name, given, gives = node.name, node.input[0], node.output[0]
            node.CopyFrom(
                helper.make_node("Identity", [given], [gives], name)
                if same
                else helper.make_node("Cast", [given], [gives], name, to=wanted)
            )
        for output, type_ in zip(node.output, _types_given(node, types, bodies, opset), strict=False):
            types[output] = type_
    return types


def _types_given(node: onnx.NodeProto, types: Types, bodies: list[dict[str, int]], opset: int) -> Iterator[int]:
    """The element types of a node's outputs, as the operator's schema says; 0 for one that it leaves open."""
    stated = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Cast":
        yield stated["to"].i
    elif node.op_type in ("Constant", "ConstantOfShape"):
        yield stated["value"].t.data_type if "value" in stated else TensorProto.FLOAT
    elif bodies:
        body = next(subgraphs(node))
        first = 1 if node.op_type == "Loop" else 0  # a Loop's body first gives whether to go on
        yield from (bodies[0].get(output.name, 0) for output in body.output[first:])
    else:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            return
        inputs, outputs = schema.inputs, schema.outputs
        of_input = {
            inputs[min(place, len(inputs) - 1)].type_str: types.get(name, 0)
            for place, name in reversed([*enumerate(node.input)])
            if name and inputs
        }
        for place in range(len(node.output)):
            named = outputs[min(place, len(outputs) - 1)].type_str
            yield _BY_NAME.get(named, of_input.get(named, 0))


_BY_NAME = {"tensor(bool)": TensorProto.BOOL, "tensor(int64)": TensorProto.INT64, "tensor(float)": TensorProto.FLOAT}


# --- DepthToSpace -----------------------------------------------------------------------------------------------------


_SLICED_SHAPE = 15
"""The opset since which `Shape` has `start` and `end`."""


def _spell_out_depth_to_space(graph: onnx.GraphProto) -> None:
    """Replaces DepthToSpace in CRD mode by its definition: the channels are [C, b, b]; each b joins an axis."""
    for node in [node for node in graph.node if node.op_type == "DepthToSpace"]:
        stated = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if stated.get("mode", b"DCR") != b"CRD":
            continue
        x, y, b = node.input[0], node.output[0], stated["blocksize"]
        names = {part: f"{y}.{part}" for part in ("size", "split", "blocks", "turned", "large", "joined", "b", "two")}
        n = names.__getitem__
        size = _height_and_width(graph, x)
        nodes = []
        if size is None:  # 0 keeps the length of the batch, -1 is what is left for C
            nodes += [
                helper.make_node("Shape", [x], [n("size")], start=2, end=4),
                constant(np.array([0, -1, b, b]), n("b")),
                helper.make_node("Concat", [n("b"), n("size")], [n("split")], axis=0),
                constant(np.array([b]), f"{y}.factor"),
                helper.make_node("Mul", [n("size"), f"{y}.factor"], [n("large")]),
                constant(np.array([0, 0]), n("two")),
                helper.make_node("Concat", [n("two"), n("large")], [n("joined")], axis=0),
            ]
        else:
            height, width = size
            nodes += [
                constant(np.array([0, -1, b, b, height, width]), n("split")),
                constant(np.array([0, 0, height * b, width * b]), n("joined")),
            ]
        nodes += [
            helper.make_node("Reshape", [x, n("split")], [n("blocks")]),
            helper.make_node("Transpose", [n("blocks")], [n("turned")], perm=[0, 1, 4, 2, 5, 3]),
            helper.make_node("Reshape", [n("turned"), n("joined")], [y]),
        ]
        at = next(i for i, other in enumerate(graph.node) if other.output == node.output)
        graph.node.remove(node)
        for new in reversed(nodes):
            graph.node.insert(at, new)


def _height_and_width(graph: onnx.GraphProto, name: str) -> tuple[int, int] | None:
    """Of a value [N, C, H, W], if the graph states both as numbers."""
    for value in (*graph.value_info, *graph.input):
        dims = value.type.tensor_type.shape.dim
        if value.name == name and len(dims) == 4 and all(d.HasField("dim_value") for d in dims[2:]):
            return dims[2].dim_value, dims[3].dim_value
    return None


# --- Reshape ----------------------------------------------------------------------------------------------------------


def _drop_allowzero(graph: onnx.GraphProto, values: Mapping[str, np.ndarray], makers: Makers) -> None:
    """Removes `allowzero`, except where a constant 0 in the shape means an empty axis, or the shape may be any.

    A shape that is computed from those of other tensors has a 0 only if one of them is empty, and no port is.

    Args:
        values, makers: the constants and the nodes of the graphs around this one, by what they give.
    """
    given = {entry.name for entry in graph.input}
    makers = {name: node for name, node in makers.items() if name not in given}
    makers |= {output: node for node in graph.node for output in node.output}
    values = {name: value for name, value in values.items() if name not in given} | known_values(graph)

    def may_have_zero(name: str) -> bool:
        if name in values:
            return bool((values[name] == 0).any())
        maker = makers.get(name)
        if maker is None:
            return True
        return maker.op_type in ("Concat", "Identity") and any(map(may_have_zero, maker.input))

    for node in graph.node:
        for attribute in [a for a in node.attribute if a.name == "allowzero" and node.op_type == "Reshape"]:
            if not attribute.i or not may_have_zero(node.input[1]):
                node.attribute.remove(attribute)
        for body in subgraphs(node):
            _drop_allowzero(body, values, makers)


# --- Identity ---------------------------------------------------------------------------------------------------------


def drop_identities(graph: onnx.GraphProto) -> None:
    """Removes the Identity nodes of one graph whose output is not the graph's own."""
    given = {output.name for output in graph.output}
    now: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.output[0] not in given:
            now[node.output[0]] = now.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    if not now:
        return
    del graph.node[:]
    graph.node.extend(kept)
    for inner in graphs_of(graph):
        for node in inner.node:
            node.input[:] = [now.get(name, name) for name in node.input]
        if inner is not graph:
            for output in inner.output:
                output.name = now.get(output.name, output.name)
