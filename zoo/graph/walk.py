"""Walks a graph: its nodes and subgraphs, the values they read, and the safetensors files of its initializers."""

from collections.abc import Iterator

import onnx

DTYPES = {
    "BOOL": onnx.TensorProto.BOOL, "U8": onnx.TensorProto.UINT8, "I8": onnx.TensorProto.INT8,
    "U16": onnx.TensorProto.UINT16, "I16": onnx.TensorProto.INT16, "F16": onnx.TensorProto.FLOAT16,
    "BF16": onnx.TensorProto.BFLOAT16, "U32": onnx.TensorProto.UINT32, "I32": onnx.TensorProto.INT32,
    "F32": onnx.TensorProto.FLOAT, "U64": onnx.TensorProto.UINT64, "I64": onnx.TensorProto.INT64,
    "F64": onnx.TensorProto.DOUBLE,
}  # fmt: skip
"""safetensors' names of element types and ONNX's numbers for them."""


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node runs: the body of a `Loop`, the branches of an `If`."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def names_used(graph: onnx.GraphProto) -> set[str]:
    """Every value that the graph and its subgraphs read."""
    used = {output.name for output in graph.output}
    for node in graph.node:
        used.update(node.input)
        for body in subgraphs(node):
            used |= names_used(body)
    return used


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, including those in the bodies of loops and in branches."""
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from nodes_of(body)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all its subgraphs."""
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from graphs_of(body)


def weight_files(graph: onnx.GraphProto) -> set[str]:
    """The safetensors files with a graph's weights."""
    return {
        entry.value
        for inner in graphs_of(graph)
        for tensor in inner.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
