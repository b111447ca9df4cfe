"""Walks a graph: its nodes and subgraphs, the values they read, and the safetensors files of its initializers."""

from collections.abc import Iterator

from .messages import GraphProto, NodeProto, TensorProto

DTYPES = {
    "BOOL": TensorProto.BOOL, "U8": TensorProto.UINT8, "I8": TensorProto.INT8,
    "U16": TensorProto.UINT16, "I16": TensorProto.INT16, "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16, "U32": TensorProto.UINT32, "I32": TensorProto.INT32,
    "F32": TensorProto.FLOAT, "U64": TensorProto.UINT64, "I64": TensorProto.INT64,
    "F64": TensorProto.DOUBLE,
}  # fmt: skip
"""safetensors' names of element types and ONNX's numbers for them."""


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node runs: the body of a `Loop`, the branches of an `If`."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def names_used(graph: GraphProto) -> set[str]:
    """Every value that the graph and its subgraphs read."""
    used = {output.name for output in graph.output}
    for node in graph.node:
        used.update(node.input)
        for body in subgraphs(node):
            used |= names_used(body)
    return used


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes, including those in the bodies of loops and in branches."""
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from nodes_of(body)


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all its subgraphs."""
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from graphs_of(body)


def weight_files(graph: GraphProto) -> set[str]:
    """The safetensors files with a graph's weights."""
    return {
        entry.value
        for inner in graphs_of(graph)
        for tensor in inner.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
