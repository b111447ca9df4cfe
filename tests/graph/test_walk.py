"""Initializers move into the body that alone uses them, and the graph computes the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from zoo.build.bodies import move_into_bodies
from zoo.graph.walk import DTYPES
from zoo.media.tensors import ITEM_BYTES


def info(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def loop(name: str, nodes: list, *, start: str, end: str) -> onnx.NodeProto:
    """Three turns of `nodes`, which take `x_<name>` to `y_<name>`."""
    body = helper.make_graph(
        [*nodes, helper.make_node("Identity", [f"going_{name}"], [f"on_{name}"])],
        name,
        [
            info(f"turn_{name}", TensorProto.INT64, []),
            info(f"going_{name}", TensorProto.BOOL, []),
            info(f"x_{name}", TensorProto.FLOAT, [2]),
        ],
        [info(f"on_{name}", TensorProto.BOOL, []), info(f"y_{name}", TensorProto.FLOAT, [2])],
    )
    return helper.make_node("Loop", ["three", "", start], [end], body=body)


@pytest.fixture
def model() -> onnx.ModelProto:
    """Weights of the top, of one body, of a body in a body, of two bodies, and of body and top."""
    inner = loop("inner", [helper.make_node("Mul", ["x_inner", "deep"], ["y_inner"])], start="added", end="y_outer")
    outer = [
        helper.make_node("Add", ["x_outer", "mine"], ["a"]),
        helper.make_node("Add", ["a", "both"], ["b"]),
        helper.make_node("Add", ["b", "shared"], ["added"]),
        inner,
    ]
    other = [helper.make_node("Add", ["x_other", "shared"], ["y_other"])]
    nodes = [
        helper.make_node("Add", ["x", "top"], ["t"]),
        helper.make_node("Add", ["t", "both"], ["u"]),
        loop("outer", outer, start="u", end="v"),
        loop("other", other, start="v", end="y"),
    ]
    names = ("top", "mine", "deep", "shared", "both")
    weights = [numpy_helper.from_array(np.array([i + 1, 0.5], np.float32), name) for i, name in enumerate(names)]
    weights.append(numpy_helper.from_array(np.int64(3), "three"))
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, [2])], [info("y", TensorProto.FLOAT, [2])], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: onnx.ModelProto) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": np.array([1, 2], np.float32)})[0]


def names(graph: onnx.GraphProto) -> list[str]:
    return [tensor.name for tensor in graph.initializer]


def test_each_weight_goes_where_it_alone_is_used(model):
    before = run(model)
    move_into_bodies(model.graph)
    outer, other = (node.attribute[0].g for node in model.graph.node[2:])
    inner = outer.node[3].attribute[0].g
    assert names(model.graph) == ["top", "shared", "both", "three"]
    assert (names(outer), names(inner), names(other)) == (["mine"], ["deep"], [])
    assert np.array_equal(run(model), before)


def test_doing_it_twice_changes_nothing(model):
    move_into_bodies(model.graph)
    once = model.SerializeToString(deterministic=True)
    move_into_bodies(model.graph)
    assert model.SerializeToString(deterministic=True) == once


def test_an_output_stays(model):
    model.graph.output.append(info("mine", TensorProto.FLOAT, [2]))
    move_into_bodies(model.graph)
    assert "mine" in names(model.graph)


def test_every_element_type_that_is_read_has_an_onnx_one():
    assert DTYPES.keys() == ITEM_BYTES.keys()
