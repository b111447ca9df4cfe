"""The codec of the Open Inference Protocol, version 2, with Triton's binary extension; knows nothing of HTTP.

https://github.com/open-inference/open-inference-protocol, and protocol/extension_binary_data.md of
https://github.com/triton-inference-server/server. A task is a model of the protocol, `vqvae-fashion.encode`; dimensions
without a fixed length are -1, the batch is the first one where a port has it, and single numbers have the shape [].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec

from ...errors import UsageError
from ...ports.given import numbers_of
from ...ports.inputs import complete
from ...ports.kinds import kind_of
from ...text import did_you_mean, one_line, safe_text

if TYPE_CHECKING:
    import numpy as np

    from ...hookspecs import Port, Task

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; the rest is the tensors' bytes, one after the other."""

DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
"""NumPy's names of the protocol's types. BYTES are texts or files; they become what the port's kind takes."""
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
BYTES = "BYTES"
MOST_DIMENSIONS = 16


class Tensor(msgspec.Struct):
    """An input of a request."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class Wanted(msgspec.Struct):
    """An output that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class Body(msgspec.Struct):
    """The JSON of a request. `id` may be missing, as from tritonclient; fields that zoo does not know are ignored."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[Wanted] = []


_BODY = msgspec.json.Decoder(Body)


@dataclass(frozen=True)
class Request:
    """A request that fits its task."""

    id: str
    inputs: dict[str, np.ndarray]  # complete and checked
    outputs: dict[str, bool]  # those asked for, and whether each is to be binary


def decode(body: bytes, header_length: str | None, task_name: str, task: Task) -> Request:
    """A request from the bytes of its body.

    Args:
        header_length: the header HEADER_LENGTH, if there was one.

    Raises:
        UsageError, InvalidFileError: one line that says what is wrong with it.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 16):
            raise UsageError(f"{HEADER_LENGTH} is '{safe_text(header_length)[:80]}'; it must be a number of bytes")
        length = int(header_length)
        if length > len(body):
            raise UsageError(f"{HEADER_LENGTH} is {length:,}, and the body has {len(body):,} bytes")
    try:
        read = _BODY.decode(memoryview(body)[:length])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise UsageError(f"the request is not one of the protocol: {one_line(e)[:300]}") from None
    return decode_body(read, memoryview(body)[length:], task_name, task)


def decode_body(read: Body, rest: memoryview, task_name: str, task: Task) -> Request:
    """A request whose fields were read already.

    Args:
        rest: the bytes of its tensors, one after the other.

    Raises:
        UsageError, InvalidFileError: one line that says what is wrong with it.
    """
    outputs = _outputs(read, task_name, task)
    values = {}
    for tensor in read.inputs:
        name = safe_text(tensor.name)[:80]
        if tensor.name in values:
            raise UsageError(f"the input {name} is there twice")
        if tensor.name not in task.inputs:
            near = did_you_mean(tensor.name, task.inputs)
            raise UsageError(f"{task_name} has no input '{name}'; it takes {', '.join(task.inputs)}{near}")
        values[tensor.name], rest = _value(name, task.inputs[tensor.name], tensor, rest)
    if rest:
        raise UsageError(f"{len(rest):,} bytes after the JSON belong to no input")
    return Request(read.id, complete(task_name, task, values, draw=True), outputs)


def _outputs(read: Body, task_name: str, task: Task) -> dict[str, bool]:
    _refuse_others(read.parameters, ("binary_data_output",), "the request")
    binary = _flag(read.parameters, "binary_data_output", False)
    wanted: dict[str, bool] = {}
    for output in read.outputs:
        name = safe_text(output.name)[:80]
        if output.name not in task.outputs:
            raise UsageError(f"{task_name} has no output '{name}'; it gives {', '.join(task.outputs)}")
        if output.name in wanted:
            raise UsageError(f"the output {name} is asked for twice")
        _refuse_others(output.parameters, ("binary_data",), f"the output {name}")
        wanted[output.name] = _flag(output.parameters, "binary_data", binary)
    return wanted or dict.fromkeys(task.outputs, binary)


_REFUSED = {
    "classification": "classes are not ranked here: ask for the output itself",
    "shared_memory_region": "there is no shared memory: send the bytes with the request",
    "sequence_id": "there are no sequences: every request stands for itself",
}


def _refuse_others(parameters: Mapping[str, Any], known: tuple[str, ...], whose: str) -> None:
    """For parameters without which a request would mean something else; others, such as priorities, are hints."""
    for name, why in _REFUSED.items():
        if name not in known and parameters.get(name):
            raise UsageError(f"{whose} has the parameter {name}: {why}")


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise UsageError(f"the parameter {name} must be true or false")
    return value


def _value(name: str, port: Port, tensor: Tensor, rest: memoryview) -> tuple[Any, memoryview]:
    """What the port's kind takes, and the bytes that are left for the inputs after this one."""
    import numpy as np

    _refuse_others(tensor.parameters, (), f"the input {name}")
    if tensor.datatype != BYTES and tensor.datatype not in DTYPES:
        known = ", ".join([*DTYPES, BYTES])
        raise UsageError(f"{name} has the datatype '{safe_text(tensor.datatype)[:80]}'; there are {known}")
    if len(tensor.shape) > MOST_DIMENSIONS or any(not 0 <= d < 2**31 for d in tensor.shape):
        raise UsageError(f"{name} has the shape {str(tensor.shape)[:200]}; lengths must be 0 .. {2**31 - 1}")
    count = prod(tensor.shape)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.datatype == BYTES:
            return kind_of(port).from_request(name, port, _texts(name, tensor.data, count)), rest
        if not isinstance(tensor.data, list):
            raise UsageError(f"{name} has no list of data, and no binary_data_size")
        array = numbers_of(name, tensor.data, DTYPES[tensor.datatype])
        if array.size != count:
            raise UsageError(f"{name} has {array.size:,} values; the shape {tensor.shape} has {count:,}")
        return array.reshape(tensor.shape), rest
    if tensor.data is not None:
        raise UsageError(f"{name} has both data and binary_data_size; give one of the two")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
        raise UsageError(f"{name} has a binary_data_size of {str(size)[:80]}; {len(rest):,} bytes are left for it")
    data, rest = rest[:size], rest[size:]
    if tensor.datatype == BYTES:
        return kind_of(port).from_request(name, port, _elements(name, data, count)), rest
    dtype = np.dtype(DTYPES[tensor.datatype]).newbyteorder("<")
    if size != count * dtype.itemsize:
        expected = count * dtype.itemsize
        raise UsageError(f"{name} has {size:,} bytes; {tensor.datatype} {tensor.shape} has {expected:,}")
    return np.frombuffer(data, dtype).reshape(tensor.shape), rest


def _texts(name: str, data: Any, count: int) -> list[str] | list[bytes]:
    found = data if isinstance(data, list) else [data]
    while found and all(isinstance(one, list) for one in found):
        found = [one for inner in found for one in inner]
    if len(found) != count or not all(isinstance(one, (str, bytes)) for one in found):
        raise UsageError(f"{name} is BYTES: its data must be {count:,} texts")
    return found


def _elements(name: str, data: memoryview, count: int) -> list[bytes]:
    """BYTES in binary: each element is its length, 4 bytes, little-endian, and so many bytes."""
    found: list[bytes] = []
    while data:
        length = int.from_bytes(data[:4], "little")
        if len(data) < 4 + length or len(found) == count:
            break
        found.append(bytes(data[4 : 4 + length]))
        data = data[4 + length :]
    if data or len(found) != count:
        raise UsageError(f"{name} is BYTES: its bytes are not {count:,} elements with their lengths")
    return found


def encode(
    request: Request, model: str, version: int, outputs: Mapping[str, np.ndarray]
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and its headers. NaN and infinities are null in JSON."""
    described, parts = [], []
    for name, binary in request.outputs.items():
        array = outputs[name]
        entry: dict[str, Any] = {
            "name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape),
        }  # fmt: skip
        if binary:
            parts.append(raw(array))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = array.reshape(-1).tolist()
        described.append(entry)
    answer = {"model_name": model, "model_version": str(version), "outputs": described}
    if request.id:
        answer["id"] = request.id
    text = msgspec.json.encode(answer)
    if not parts:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return b"".join([text, *parts]), headers


def raw(array: np.ndarray) -> bytes:
    """The bytes of a tensor: little-endian, the last dimension first."""
    import numpy as np

    return np.asarray(array, array.dtype.newbyteorder("<"), order="C").tobytes()


def metadata(model: str, versions: list[int], task: Task) -> dict[str, Any]:
    """What the protocol tells about a model."""
    return {
        "name": model, "versions": [str(version) for version in versions], "platform": "zoo",
        "inputs": [_port(name, port) for name, port in task.inputs.items()],
        "outputs": [_port(name, port) for name, port in task.outputs.items()],
    }  # fmt: skip


def _port(name: str, port: Port) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPES[port.dtype], "shape": _lengths(port)}


def _lengths(port: Port) -> list[int]:
    return [-1 if isinstance(length, str) else length for length in port.shape]


def configuration(model: str, version: int, task: Task) -> dict[str, Any]:
    """The same as Triton's model configuration. `max_batch_size` is 0: shapes are whole, with the batch in them."""

    def described(ports: Mapping[str, Port]) -> list[dict[str, Any]]:
        return [
            {"name": name, "data_type": f"TYPE_{DATATYPES[port.dtype]}", "dims": _lengths(port)}
            for name, port in ports.items()
        ]

    return {
        "name": model, "platform": "zoo", "backend": "zoo", "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [version]}},
        "input": described(task.inputs), "output": described(task.outputs),
    }  # fmt: skip
