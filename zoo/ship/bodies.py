"""Small changes of graphs: moves weights out of the loops that use them, where some runtimes look for them, and removes
what no output needs."""

from collections.abc import Iterable, MutableSequence
from typing import TypeVar

import onnx

from ..graph.walk import names_used, subgraphs

T = TypeVar("T")


def move_out_of_bodies(graph: onnx.GraphProto) -> None:
    """Moves the weights in bodies to the outermost graph: the inverse of `move_into_bodies`.

    For runtimes that only find external data in the outermost graph, such as ONNX Runtime Web. Constants stay.
    """
    here = {tensor.name for tensor in graph.initializer}
    for body in (body for node in graph.node for body in subgraphs(node)):
        move_out_of_bodies(body)
        outside = [t for t in body.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        inside = [t for t in body.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
        graph.initializer.extend(t for t in outside if t.name not in here)
        here.update(t.name for t in outside)
        refill(body.initializer, inside)


def refill(field: MutableSequence[T], entries: Iterable[T]) -> None:
    """Replaces what a repeated field of a graph has: protobuf takes no list for it."""
    kept = list(entries)
    del field[:]
    field.extend(kept)


def remove_unused(graph: onnx.GraphProto) -> None:
    """Removes the nodes and the initializers that no output needs; inputs stay."""
    needed, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input, *(names_used(body) for body in subgraphs(node)))
    refill(graph.node, kept[::-1])
    refill(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    refill(graph.value_info, [value for value in graph.value_info if value.name in needed])


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, to change."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
