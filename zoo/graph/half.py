"""Weights that are stored in half precision: a graph widens them where it uses them."""

from collections.abc import Collection

import onnx
from onnx import TensorProto, helper

from .walk import graphs_of

MIN_ELEMENTS = 256
"""Smaller weights (biases, scales) stay unchanged: they take no space and matter most."""


def widen_all(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Widens the weights of these names, in the graph itself and in the bodies of its loops."""
    for inner in list(graphs_of(graph)):
        for tensor in inner.initializer:
            if tensor.name in names:
                widen(inner, tensor)


def widen(graph: onnx.GraphProto, tensor: TensorProto) -> None:
    """Declares a weight of a graph as float16; everything that reads it then reads `NAME.wide`, which is float32.

    ONNX Runtime computes `NAME.wide` once, when it opens the graph.
    """
    name = tensor.name
    tensor.data_type = TensorProto.FLOAT16
    rename(graph, name, f"{name}.wide")
    graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}.wide"], to=TensorProto.FLOAT))


def rename(graph: onnx.GraphProto, before: str, after: str) -> None:
    """Renames a value wherever the graph and its subgraphs read it."""
    for inner in graphs_of(graph):
        for node in inner.node:
            node.input[:] = [after if name == before else name for name in node.input]
        for output in inner.output:
            output.name = after if output.name == before else output.name
