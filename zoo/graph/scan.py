"""Counts what a graph's file contains, in its bytes, before protobuf turns them into objects.

Two bytes can be an empty node, which takes 150 bytes in memory: a file of 60 MB then takes 4.5 GB. The walk follows
protobuf's wire format without recursion and stops at the first limit, so it costs at most a second.
"""

from collections.abc import Iterator

MAX_FIELDS = 2_000_000
"""More fields than any graph of `check.MAX_NODES` nodes needs; they take about 300 MB in memory."""
SMALL_BYTES = 1 << 20
"""A smaller file cannot become large in memory, and is not counted: that would take longer than parsing it."""

# For each message of onnx.proto, the fields that are messages themselves, and what they are.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 8: "leaf", 14: "leaf", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph", 3: "leaf", 4: "leaf"},
    "Function": {7: "Node", 9: "leaf", 11: "Attribute", 12: "Value", 14: "leaf"},
    "Graph": {1: "Node", 5: "Tensor", 11: "Value", 12: "Value", 13: "Value", 14: "Quantization", 15: "Sparse"},
    "Node": {5: "Attribute", 9: "leaf"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 14: "Type", 15: "Type", 22: "Sparse",
                  23: "Sparse"},
    "Tensor": {13: "leaf", 16: "leaf"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Quantization": {2: "leaf"},
    "Value": {2: "Type", 4: "leaf"},
    "Type": {1: "TensorType", 4: "Element", 5: "Element", 8: "TensorType", 9: "Element"},
    "TensorType": {2: "Shape"},
    "Element": {1: "Type", 2: "Type"},
    "Shape": {1: "leaf"},
    "leaf": {},
}  # fmt: skip


class Malformed(ValueError):
    """Bytes that are not protobuf's wire format."""


def excess(data: bytes, *, nodes: int, depth: int) -> str | None:
    """What a graph's file has too much of, as the end of `NAME has …`; None if it is within the limits.

    Args:
        nodes: most nodes, in all graphs together.
        depth: deepest nesting of graphs.

    Raises:
        Malformed: not protobuf.
    """
    if len(data) < SMALL_BYTES:
        return None
    fields = seen = level = 0
    open_messages = [("Model", _fields(data, 0, len(data)))]
    while open_messages:
        message, rest = open_messages[-1]
        found = next(rest, None)
        if found is None:
            open_messages.pop()
            level -= message == "Graph"
            continue
        number, begin, end = found
        fields += 1
        child = _MESSAGES[message].get(number)
        seen += child == "Node"
        if fields > MAX_FIELDS:
            return f"more than {MAX_FIELDS:,} fields"
        if seen > nodes:
            return f"more than {nodes:,} nodes"
        if child and end > begin:
            level += child == "Graph"
            if level > depth:
                return f"graphs nested more than {depth} deep"
            open_messages.append((child, _fields(data, begin, end)))
    return None


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each field of a message; an empty range if it has no bytes of its own."""
    while position < end:
        key, position = _varint(data, position, end)
        wire = key & 7
        begin = position
        if wire == 2:
            length, begin = _varint(data, position, end)
            position = begin + length
        elif wire == 0:
            _, position = _varint(data, position, end)
            begin = position
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
            begin = position
        else:  # groups, which onnx.proto does not have
            raise Malformed(f"wire type {wire}")
        if position > end:
            raise Malformed("a field that is longer than its message")
        yield key >> 3, begin, position


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise Malformed("a number without an end")
