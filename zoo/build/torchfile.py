"""Reads what `torch.save` wrote, as a tree of plain data with the locations of its tensors.

It reads both containers, the current zip and the stream of pickles from before torch 1.6, and a bare pickle of tensors.
Nothing is copied, and no code is run (see `unpickle`): a tensor is created when it is requested, as a view of the
mapped file. `torch.load` is not used: docs/decisions/0005-foreign-checkpoints.md says why.
"""

import io
import mmap
import struct
import zipfile
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .unpickle import Known, Name, StandIn, load

if TYPE_CHECKING:
    import torch

MAX_DIRECTORY_BYTES = 16 << 20  # of a zip; about 200,000 entries
MAX_PICKLE_BYTES = 256 << 20  # of a zip's data.pkl, which contains everything but the tensors
MAX_RANK = 16

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old container
_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip
_ITEM_BYTES = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1, "complex64": 8, "complex128": 16, "uint16": 2, "uint32": 4, "uint64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip


@dataclass(eq=False)
class _Archive:
    """The bytes that contain the storages."""

    buffer: mmap.mmap | bytearray
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)  # of each storage, first byte and end
    storages: dict[str, "_Storage"] = field(default_factory=dict)  # under their names in the pickle


@dataclass(frozen=True, eq=False)
class _Storage:
    archive: _Archive
    key: str
    dtype: str
    count: int  # elements, as stated in the pickle

    @property
    def nbytes(self) -> int:
        return self.count * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is still in its file."""

    storage: _Storage
    dtype: str
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # elements

    @property
    def nbytes(self) -> int:
        """The size of its elements in bytes; more than that of its storage if strides use some of them repeatedly."""
        return prod(self.shape) * _ITEM_BYTES[self.dtype]

    def read(self) -> "torch.Tensor":
        """The tensor, a view of the mapped file (a private mapping: writes never reach the file).

        Raises:
            ValueError: its storage is missing, has another size than the pickle states, or is too small for it.
        """
        import torch

        storage = self.storage
        if storage.key not in storage.archive.ranges:
            raise ValueError(f"the file does not contain the storage '{storage.key[:50]}'")
        start, end = storage.archive.ranges[storage.key]
        if end - start != storage.nbytes:
            raise ValueError(f"a storage of {end - start:,} bytes where {storage.nbytes:,} are named")
        item, dtype = _ITEM_BYTES[self.dtype], getattr(torch, self.dtype)
        if prod(self.shape) == 0:
            return torch.empty(self.shape, dtype=dtype)
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        if (last + 1) * item > end - start:
            raise ValueError(f"element {last:,} of a storage of {(end - start) // item:,}")
        flat = torch.frombuffer(
            storage.archive.buffer, dtype=torch.uint8, count=(end - start) // item * item, offset=start
        )
        if start % item:
            flat = flat.clone()  # the old container does not align storages
        return flat.view(dtype).as_strided(self.shape, self.stride, self.offset)


def read(path: Path) -> Any:
    """The tree of a file: dicts, lists, tuples, plain values, `StoredTensor` and `StandIn`.

    Raises:
        ValueError: with the reason; a broken pickle may raise other exceptions. The caller turns them all into one
        line.
    """
    with path.open("rb") as f:
        buffer = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    if buffer[:4] == b"PK\x03\x04":
        return _read_zip(path, buffer)
    if buffer[257:262] == b"ustar":
        raise ValueError(
            "a tar archive, which torch wrote before 0.1.10; unpack it, or save it again with a newer torch"
        )
    if buffer[:1] != b"\x80":
        raise ValueError("neither safetensors nor a PyTorch file nor a pickle")
    return _read_stream(buffer, _known(nested=True))


# --- The zip container ------------------------------------------------------------------------------------------------


class _Directory(io.FileIO):
    """Checks the size of a zip's directory, since zipfile reads it in one piece, however long it claims to be."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = MAX_DIRECTORY_BYTES
        if size > MAX_DIRECTORY_BYTES:
            raise ValueError(f"a zip directory of {size:,} bytes; at most {MAX_DIRECTORY_BYTES:,}")
        return super().read(size)


def _read_zip(path: Path, buffer: mmap.mmap) -> Any:
    try:
        with _Directory(path) as f, zipfile.ZipFile(f) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as e:
        raise ValueError(f"a broken zip: {e}") from None
    # The names are keys here and never become paths.
    roots = [entry.filename.removesuffix("data.pkl") for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(roots) != 1 or roots[0].count("/") != 1:
        raise ValueError("a zip without the one data.pkl of a PyTorch file")
    ranges: dict[str, tuple[int, int]] = {}
    for entry in entries:
        if entry.filename.startswith(roots[0]):
            name = entry.filename.removeprefix(roots[0])
            if name in ranges:
                raise ValueError(f"a zip with '{name[:50]}' twice")
            ranges[name] = _stored(entry, buffer)
    if "constants.pkl" in ranges:
        raise ValueError("a TorchScript program; save its state_dict, or give the checkpoint that it was made from")
    start, end = ranges["data.pkl"]
    if end - start > MAX_PICKLE_BYTES:
        raise ValueError(f"a data.pkl of {end - start:,} bytes; at most {MAX_PICKLE_BYTES:,}")
    if "byteorder" in ranges and buffer[slice(*ranges["byteorder"])] != b"little":
        raise ValueError("written on a big-endian machine; save it again on another")
    archive = _Archive(
        buffer, {name.removeprefix("data/"): r for name, r in ranges.items() if name.startswith("data/")}
    )
    return load(io.BytesIO(buffer[start:end]), _known(nested=True), _persistent(archive))


def _stored(entry: zipfile.ZipInfo, buffer: mmap.mmap) -> tuple[int, int]:
    """The location of an entry's bytes. torch stores them uncompressed; a compressed entry may be a bomb."""
    name = entry.filename[:50]
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise ValueError(f"a zip with '{name}' compressed or encrypted, which torch never does; unpack and store it")
    head = buffer[entry.header_offset : entry.header_offset + 30]
    if len(head) != 30 or not head.startswith(b"PK\x03\x04"):
        raise ValueError(f"a zip with nothing at the place of '{name}'")
    start = entry.header_offset + 30 + sum(struct.unpack("<2H", head[26:30]))  # lengths of name and extra field
    if start + entry.file_size > len(buffer):
        raise ValueError(f"cut short: '{name}' should end at byte {start + entry.file_size:,} of {len(buffer):,}")
    return start, start + entry.file_size


# --- The old container, and bare pickles ------------------------------------------------------------------------------


def _read_stream(buffer: mmap.mmap | bytearray, known: Known) -> Any:
    stream: Any = io.BytesIO(buffer) if isinstance(buffer, bytearray) else buffer
    archive = _Archive(buffer)
    first = load(stream, known, _refuse)
    if not isinstance(first, int) or first != _MAGIC:
        return first
    load(stream, known, _refuse)  # version of the protocol
    system = load(stream, known, _refuse)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError("written on a big-endian machine; save it again on another")
    root = load(stream, known, _persistent(archive))
    for key in load(stream, known, _refuse):
        storage = archive.storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise ValueError("a list of storages with one that no tensor uses")
        count = int.from_bytes(stream.read(8), "little", signed=True)
        if count != storage.count:
            raise ValueError(f"a storage of {count:,} elements where {storage.count:,} are named, or cut short")
        start = stream.tell()
        if start + storage.nbytes > len(buffer):
            raise ValueError(f"cut short: a storage should end at byte {start + storage.nbytes:,} of {len(buffer):,}")
        archive.ranges[key] = (start, start + storage.nbytes)
        stream.seek(start + storage.nbytes)
    return root


# --- The names in torch's pickles -------------------------------------------------------------------------------------


def _refuse(identity: Any) -> Any:
    raise ValueError("a pickle with a persistent id where torch never writes one")


def _persistent(archive: _Archive) -> Any:
    def resolve(identity: Any) -> Any:
        match identity:
            case ("module", Name() as name, *_):  # the old container's record of a class's source
                return name
            case ("storage", Name() as kind, str(key), str(), int(count), *rest) if count >= 0:
                if rest not in ([], [None]):
                    raise ValueError("a storage that is part of another, as torch wrote before 0.4; save it again")
                dtype = _STORAGES.get(kind.text.rpartition(".")[2])
                if dtype is None:  # quantised and similar: its tensors are not plain tensors
                    return StandIn(kind.text)
                storage = _Storage(archive, key, dtype, count)
                archive.storages.setdefault(key, storage)
                return storage
        raise ValueError("a pickle with a persistent id that is not a storage")

    return resolve


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
    return storage if isinstance(storage, StandIn) else _view(storage, storage.dtype, offset, shape, stride)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Any:
    name = dtype.text.removeprefix("torch.") if isinstance(dtype, Name) else ""
    return _view(storage, name, offset, shape, stride) if name in _ITEM_BYTES else StandIn(f"a tensor of {name}")


def _view(storage: Any, dtype: str, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    if not isinstance(storage, _Storage) or not len(shape) == len(stride) <= MAX_RANK:
        raise ValueError(f"a tensor without storage, or without shape and strides of at most {MAX_RANK} axes")
    numbers = (offset, *shape, *stride)
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise ValueError("a tensor whose shape, strides or offset are not natural numbers")
    return StoredTensor(storage, dtype, offset, tuple(shape), tuple(stride))


def _ordered_dict(pairs: Any = None) -> dict:
    """An OrderedDict. Python 3 calls it without arguments and sets the items later; Python 2 passed a list of pairs."""
    if pairs is None:
        return {}
    if not isinstance(pairs, list):
        raise ValueError("an OrderedDict that is not made from a list")
    entries = {key: value for key, value in pairs if isinstance(key, str)}
    pairs.clear()  # otherwise the memo could pass the same long list to many calls
    return entries


def _size(axes: Any) -> tuple:
    if not isinstance(axes, tuple | list) or len(axes) > MAX_RANK:
        raise ValueError(f"a size of more than {MAX_RANK} axes")
    return tuple(axes)


def _known(*, nested: bool) -> Known:
    """The names that make up tensors, and our functions for them.

    Args:
        nested: whether to read bytes that contain a storage in the old container: bare pickles have them, and one level
            is always enough.
    """

    def bytes_of_storage(data: Any) -> Any:
        if not isinstance(data, bytes):
            raise ValueError("a storage that is not bytes")
        return _read_stream(bytearray(data), _known(nested=False))

    def parameter(data: Any, *rest: Any) -> Any:
        return data

    known: dict[str, Any] = {
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _tensor_v3,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
        "collections.OrderedDict": _ordered_dict,
        "torch.Size": _size,
    }
    if nested:
        known["torch.storage._load_from_bytes"] = bytes_of_storage
    known["torch._tensor._rebuild_from_type_v2"] = lambda function, kind, arguments, state: (
        known[function.text](*arguments) if function.text in known else StandIn(str(kind))
    )
    return known
