"""Where the initializers of a graph are: outside in a safetensors file, and inside the loop that alone uses them."""

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


def move_into_bodies(graph: onnx.GraphProto) -> None:
    """Moves each initializer that one body alone uses into that body, as deep as it goes.

    ONNX Runtime pre-packs and re-orders only the initializers of the graph that uses them: a sampler whose weights lie
    outside its `Loop` runs 25 % slower.
    """
    bodies = [body for node in graph.node for body in subgraphs(node)]
    used_here = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    used_in = [names_used(body) for body in bodies]
    stays = []
    for tensor in graph.initializer:
        users = [body for body, used in zip(bodies, used_in, strict=True) if tensor.name in used]
        if tensor.name not in used_here and len(users) == 1:
            users[0].initializer.append(tensor)
        else:
            stays.append(tensor)
    if len(stays) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(stays)
    for body in bodies:
        move_into_bodies(body)


def move_out_of_bodies(graph: onnx.GraphProto) -> None:
    """Moves the weights that lie in bodies to the outermost graph; `move_into_bodies` undone.

    For runtimes that find external data of the outermost graph alone, as ONNX Runtime Web. Constants stay.
    """
    here = {tensor.name for tensor in graph.initializer}
    for body in (body for node in graph.node for body in subgraphs(node)):
        move_out_of_bodies(body)
        outside = [t for t in body.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        inside = [t for t in body.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
        graph.initializer.extend(t for t in outside if t.name not in here)
        here.update(t.name for t in outside)
        del body.initializer[:]
        body.initializer.extend(inside)


def names_used(graph: onnx.GraphProto) -> set[str]:
    """Every value that the graph, and those inside it, read."""
    used = {output.name for output in graph.output}
    for node in graph.node:
        used.update(node.input)
        for body in subgraphs(node):
            used |= names_used(body)
    return used
