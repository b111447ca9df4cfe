"""Reads a bundle's graphs before any session opens them, and reports what is wrong with them.

A stranger's graph is data. Nothing here loads external data, runs shape inference or calls ONNX's own checker: those
have read files through `../`, links and hard links, and crashed on odd graphs (docs/security.md lists the reports).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import InvalidFileError
from ..media import tensors
from ..names import graph_file
from ..text import one_line, safe_text, stand_in
from .messages import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from .scan import excess
from .walk import DTYPES, subgraphs

if TYPE_CHECKING:
    from ..hookspecs import Port, Task
    from .described import DescribedPort, DescribedTask

MAX_GRAPH_BYTES = 64 << 20  # weights are stored outside, so a graph is small
MAX_NODES = 100_000
MAX_DEPTH = 32

STANDARD_DOMAINS = ("", "ai.onnx")
RANDOM_OPERATORS = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip
"""Operators whose numbers differ between runtimes and between calls."""

_PORT_TYPES = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}

_OPTIONAL = {
    "Clip": {1, 2}, "GRU": {3, 4, 5}, "LSTM": {3, 4, 5, 6, 7}, "Loop": {0, 1}, "Pad": {2, 3}, "Resize": {1, 2, 3},
    "Slice": {3, 4},
}  # fmt: skip
"""Inputs that these operators do not require from opset `_OPTIONAL_SINCE` on: those that exporters leave out, so that
most graphs need no schemas, whose import takes 0.1 s."""
_OPTIONAL_SINCE = 13

Places = Mapping[str, set[tuple[int, tuple[int, ...], int, int]]]
"""For each safetensors file, its tensors: ONNX element type, shape, offset and length in bytes."""


class Bundled(Protocol):
    """What a manifest says about a bundle's graphs: a `zoo.formats.manifest.Manifest`, or `described.Described`."""

    @property
    def files(self) -> Collection[str]: ...

    @property
    def tasks(self) -> "Mapping[str, Task | DescribedTask]": ...


def check(folder: Path, manifest: Bundled) -> list[str]:
    """What is wrong with the graphs of a bundle, one line each; empty if a session may open them.

    Refused: external data that is not exactly one tensor of one of the bundle's safetensors files, operators outside
    ONNX's own domain, random operators, operators without a required input, local functions, ports that differ from the
    manifest's, and graphs that are too large or too deep.
    """
    findings: list[str] = []
    places: dict[str, set] = {}
    for name in manifest.files:
        if name.endswith(".safetensors"):
            try:
                places[name] = _places(folder / name)
            except InvalidFileError as e:
                findings.append(str(e))
    for name, task in manifest.tasks.items():
        file = graph_file(name)
        try:
            findings += [f"{file}: {finding}" for finding in _check_graph(folder / file, task, places)]
        except Exception as e:  # the protobuf reader may raise anything for a stranger's bytes
            reason = one_line(e) or type(e).__name__
            findings.append(f"{file}: cannot be read as an ONNX graph: {reason}")
    return findings


def _places(path: Path) -> set[tuple[int, tuple[int, ...], int, int]]:
    if path.is_symlink():
        raise InvalidFileError(f"{path.name} is a link, not a plain file")
    header = tensors.read_header(path)
    return {(DTYPES[t.dtype], t.shape, t.offset, t.length) for t in header.values()}


def _check_graph(path: Path, task: "Task | DescribedTask", places: Places) -> Iterator[str]:
    if path.is_symlink() or not path.is_file():
        yield "is missing, or not a plain file"
        return
    if (size := path.stat().st_size) > MAX_GRAPH_BYTES:
        yield f"has {size:,} bytes; at most {MAX_GRAPH_BYTES:,} are allowed, since weights belong in safetensors files"
        return
    data = path.read_bytes()
    if known := stand_in(data):
        yield f"is not a graph, but {known}"
        return
    if much := excess(data, nodes=MAX_NODES, depth=MAX_DEPTH):
        yield f"has {much}"
        return
    model = ModelProto.FromString(data)
    for opset in model.opset_import:
        if opset.domain not in STANDARD_DOMAINS:
            yield f"uses the foreign operator domain '{safe_text(opset.domain)}'; only ONNX's own is allowed"
    if model.functions:
        yield f"has {len(model.functions):,} local functions; they are not allowed"
    if model.training_info:
        yield "has training information; it is not allowed"
    yield from _check_nodes(model.graph, places, [o.version for o in model.opset_import if not o.domain])
    for what, ports, values in (
        ("input", task.inputs, model.graph.input),
        ("output", task.outputs, model.graph.output),
    ):
        yield from _check_ports(what, ports, values)


def _check_nodes(top: GraphProto, places: Places, opsets: Sequence[int]) -> Iterator[str]:
    """Walks graph and subgraphs without recursion; each kind of finding is reported once."""
    told: set[str] = set()
    nodes, waiting = 0, [(top, 1)]
    while waiting:
        graph, depth = waiting.pop()
        if depth > MAX_DEPTH:
            yield f"nests graphs more than {MAX_DEPTH} deep"
            return
        nodes += len(graph.node)
        if nodes > MAX_NODES:
            yield f"has more than {MAX_NODES:,} nodes"
            return
        found = list(_check_initializers(graph, places))
        for node in graph.node:
            found += _check_node(node)
            found += [finding for opset in opsets for finding in _check_inputs(node, opset)]
            waiting += [(body, depth + 1) for body in subgraphs(node)]
        for finding in found:
            if finding not in told:
                told.add(finding)
                yield finding


def _check_node(node: NodeProto) -> Iterator[str]:
    if node.domain not in STANDARD_DOMAINS:
        operator = safe_text(f"{node.domain}::{node.op_type}")
        yield f"uses the operator {operator}; only ONNX's own domain is allowed"
    elif node.op_type in RANDOM_OPERATORS:
        yield f"uses {node.op_type}; noise must come from the seed, since random operators differ between runtimes"
    for attribute in node.attribute:
        constants = [attribute.t] if attribute.HasField("t") else []
        for tensor in [*constants, *attribute.tensors]:
            if _is_external(tensor):
                yield f"has external data in the attribute '{safe_text(attribute.name)}'; only initializers may have it"
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            yield "has sparse tensors; they are not allowed"


def _check_inputs(node: NodeProto, opset: int) -> Iterator[str]:
    """An empty name is a missing input. ONNX Runtime follows a null pointer where the operator requires that input:
    Max, Min, Sum and Mean crash the process."""
    missing = [number for number, name in enumerate(node.input) if not name]
    if opset >= _OPTIONAL_SINCE and _OPTIONAL.get(node.op_type, set()).issuperset(missing):
        return
    if missing and (required := _required(node.op_type, opset)):
        for number in missing:
            if required[min(number, len(required) - 1)]:
                yield f"leaves out input {number + 1} of {safe_text(node.op_type)}, which is not optional"


@cache
def _required(operator: str, opset: int) -> tuple[bool, ...]:
    """For each input of an operator of ONNX whether a node must have it; the last stands for all further ones.

    Empty for an operator that this version of onnx does not know.
    """
    import onnx

    try:
        inputs = onnx.defs.get_schema(operator, opset, "").inputs
    except onnx.defs.SchemaError:
        return ()
    return tuple(i.option != onnx.defs.OpSchema.FormalParameterOption.Optional for i in inputs)


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location != TensorProto.DEFAULT or bool(tensor.external_data)


def _check_initializers(graph: GraphProto, places: Places) -> Iterator[str]:
    if graph.sparse_initializer:
        yield "has sparse tensors; they are not allowed"
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if tensor.name in inputs:
            yield f"lets a caller replace the weight '{safe_text(tensor.name)}': it is also an input"
        if _is_external(tensor):
            yield from _check_external(tensor, places)


def _check_external(tensor: TensorProto, places: Places) -> Iterator[str]:
    """External data must be a whole tensor of a listed safetensors file, with its element type and shape."""
    name = safe_text(tensor.name)
    fields = {entry.key: entry.value for entry in tensor.external_data}
    if tensor.data_location != TensorProto.EXTERNAL or sorted(entry.key for entry in tensor.external_data) != [
        "length",
        "location",
        "offset",
    ]:
        yield f"the weight '{name}' needs location, offset and length, each once, and nothing else"
        return
    location = fields["location"]
    if location not in places:
        where = safe_text(location)
        yield f"the weight '{name}' points to '{where}', which is not a safetensors file of the bundle"
        return
    numbers = fields["offset"], fields["length"]
    place = tuple(int(n) if n.isascii() and n.isdigit() and len(n) < 20 else -1 for n in numbers)
    if (tensor.data_type, tuple(tensor.dims), *place) not in places[location]:
        yield f"the weight '{name}' does not point to a tensor in {location} with its element type and shape"
    if tensor.HasField("raw_data"):
        yield f"the weight '{name}' also has data inside the graph"


def _check_ports(
    what: str, ports: "Mapping[str, Port | DescribedPort]", values: Sequence[ValueInfoProto]
) -> Iterator[str]:
    names = [value.name for value in values]
    if names != list(ports):
        yield f"has the {what}s {_names(names)}; the manifest says {_names(ports)}"
        return
    for value in values:
        port, tensor = ports[value.name], value.type.tensor_type
        if tensor.elem_type != _PORT_TYPES[port.dtype]:
            yield f"the {what} '{value.name}' has the element type {tensor.elem_type}; the manifest says {port.dtype}"
        shape = _shape(value)
        if shape != port.shape:
            yield f"the {what} '{value.name}' has the shape {_dims(shape)}; the manifest says {_dims(port.shape)}"


def _shape(value: ValueInfoProto) -> tuple[int | str, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim)


def _dims(shape: tuple[int | str, ...] | None) -> str:
    return "of any rank" if shape is None else "[" + safe_text(", ".join(map(str, shape)))[:200] + "]"


def _names(names: Iterable[str]) -> str:
    return safe_text(", ".join(names))[:200] or "none"
