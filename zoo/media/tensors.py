"""safetensors files: reads and checks the header, then reads and writes arrays.

A header is JSON that a stranger wrote. One of 70 MB costs the usual reader 22 s and 2.7 GB, so its size, its number of
tensors and their layout are checked here before any other code opens the file. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import InvalidFileError
from ..text import one_line, safe_text, stand_in
from .files import STDIN, InputFile

if TYPE_CHECKING:
    import numpy as np

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 100_000
MAX_NAME = 500
MAX_RANK = 16

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""The supported element types, and the size of an element in bytes."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's location in its file."""

    dtype: str  # the format's own name: F32, I64, U8, …
    shape: tuple[int, ...]
    offset: int  # of its first byte, counted from the start of the file
    length: int  # bytes


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises:
        InvalidFileError: not a safetensors file, over the limits, or with tensors that overlap or leave gaps.
    """
    return _read(path)[0]


def read_bytes(path: Path, tensor: Tensor) -> bytes:
    """The bytes of one tensor, found by `read_header`.

    Raises:
        InvalidFileError: the file cannot be read.
    """
    try:
        with path.open("rb") as f:
            f.seek(tensor.offset)
            return f.read(tensor.length)
    except OSError as e:
        raise InvalidFileError(f"{safe_text(path)} cannot be read: {e.strerror}") from None


def numbers(dtype: str, data: bytes) -> np.ndarray:
    """The elements of a tensor, one-dimensional; bfloat16, the upper half of a float32, as float32."""
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    kind = {"B": "?", "U": "<u", "I": "<i", "F": "<f"}[dtype[0]]
    return np.frombuffer(data, kind if kind == "?" else f"{kind}{ITEM_BYTES[dtype]}")


def read_metadata(path: Path) -> dict[str, str]:
    """The file's `__metadata__`; empty if it has none."""
    return _read(path)[1]


def load(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, by name.

    Raises:
        InvalidFileError: as `read_header`, and for element types that numpy does not have (BF16).
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    read_header(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError) as e:
        raise InvalidFileError(f"{safe_text(path)} cannot be read as safetensors: {safe_text(e)}") from None


def save(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays; the same arrays give the same bytes if `metadata` has at most one entry, since their order varies.

    Raises:
        OSError: the file cannot be written, e.g. because the disk is full.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # Not np.ascontiguousarray: it turns a scalar into an array of one.
    whole = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    try:
        save_file(whole, path, metadata=dict(metadata or {}) or None)
    except SafetensorError as e:
        if number := re.search(r"\(os error (\d+)\)", str(e)):  # the system's error, which is only in the text
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise


_OTHERS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "a WebP picture, or sound",
    b"\x93NUMPY": "a .npy array",
    b"PK\x03\x04": "a ZIP archive, such as .npz and torch's checkpoints",
}
"""Files that people give in place of safetensors, by their first bytes; as the length of a header, all are too long."""


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with path.open("rb") as f:
            size = f.seek(0, 2)
            f.seek(0)
            start = f.read(512)
            if known := stand_in(start):
                raise InvalidFileError(f"{safe_text(path)} is not a safetensors file, but {known}")
            start = start[:8]
            f.seek(len(start))
            header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, size - 8):
                if other := next((kind for magic, kind in _OTHERS.items() if start.startswith(magic)), None):
                    raise InvalidFileError(f"{safe_text(path)} is not a safetensors file, but {other}")
                raise ValueError(f"a header of {header_bytes:,} bytes in a file of {size:,}")
            header = f.read(header_bytes)
        return _parse(header, size)
    except OSError as e:
        raise InvalidFileError(f"{safe_text(path)} cannot be read: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise InvalidFileError(f"{safe_text(path)} is not a valid safetensors file: {one_line(e)}") from None


def _parse(header: bytes, file_size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Raises ValueError, with the reason, if the header violates the format."""
    tree = json.loads(header.decode("utf-8"), object_pairs_hook=_object)
    if not isinstance(tree, dict):
        raise ValueError("the header is not a JSON object")
    metadata = tree.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ contains something other than text")
    if len(tree) > MAX_TENSORS:
        raise ValueError(f"{len(tree):,} tensors; at most {MAX_TENSORS:,}")

    data_start = 8 + len(header)
    tensors = {name: _tensor(name, entry, data_start) for name, entry in tree.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].length)))
    end = data_start
    for name, tensor in tensors.items():
        if tensor.offset != end:
            raise ValueError(f"the bytes of '{name}' overlap others or leave a gap")
        end += tensor.length
    if end != file_size:
        raise ValueError(f"the tensors end at byte {end:,} of {file_size:,}")
    return tensors, metadata


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is in the header twice")
    return result


def _tensor(name: str, entry: Any, data_start: int) -> Tensor:
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"a tensor's name must have 1 to {MAX_NAME} printable characters, not '{name[:50]}'")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"'{name}' needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"'{name}' has an unknown dtype")
    if not _naturals(shape) or len(shape) > MAX_RANK:
        raise ValueError(f"'{name}' has no valid shape")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"'{name}' has no valid data_offsets")
    length = offsets[1] - offsets[0]
    if prod(shape) * ITEM_BYTES[dtype] != length:
        raise ValueError(f"'{name}' has {length:,} bytes, which does not match its dtype and shape")
    return Tensor(dtype, tuple(shape), data_start + offsets[0], length)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


METADATA_KEY = "zoo"


NPY_MAGIC = b"\x93NUMPY"


MAX_NPY_HEADER = 10_000
"""The longest header that NumPy reads without being asked to."""

_NPY_METADATA = re.compile(rb"# zoo ([0-9a-f]*)\s*\Z")


def encode_npy(array: np.ndarray, metadata: str = "") -> bytes:
    """A `.npy` file. Metadata is a comment in its header, which is a Python literal, in hexadecimal digits, so that no
    reader can take them for something else; it is left out if the header would become too long."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array, order="C"), allow_pickle=False)
    whole = buffer.getvalue()
    start = len(NPY_MAGIC) + 4  # version and length of the header
    end = start + int.from_bytes(whole[start - 2 : start], "little")
    header = whole[start:end].rstrip() + b" # zoo " + metadata.encode().hex().encode()
    header += b" " * (-(start + len(header) + 1) % 64) + b"\n"
    if not metadata or len(header) > MAX_NPY_HEADER:
        return whole
    return whole[: start - 2] + len(header).to_bytes(2, "little") + header + whole[end:]


def npy_metadata(file: InputFile) -> str | None:
    """The metadata that `encode_npy` wrote; None if there is none."""
    start = len(NPY_MAGIC) + 4
    end = start + int.from_bytes(file.data[start - 2 : start], "little")
    found = _NPY_METADATA.search(file.data[start : min(end, start + MAX_NPY_HEADER)])
    try:
        return bytes.fromhex(found[1].decode()).decode() if found else None
    except ValueError:
        return None


def encode_safetensors(arrays: Mapping[str, np.ndarray], made_by: Mapping[str, Any]) -> bytes:
    with TemporaryDirectory(prefix="zoo-") as folder:
        path = Path(folder) / "out.safetensors"
        save(path, arrays, {METADATA_KEY: json.dumps(made_by)})
        return path.read_bytes()


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype of a `.npy` file, which is then at the first byte of its array.

    Raises:
        ValueError: it has no such header, or one with a negative length.
        OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile: the file, if it is part of an archive, cannot
            be read.
    """
    import warnings

    from numpy.lib import format as npy

    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"unknown version of the .npy format, {version[0]}.{version[1]}")
    try:
        with warnings.catch_warnings(action="ignore"):  # about files of Python 2
            shape, fortran, dtype = read(file)
    except (LookupError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError) as e:
        raise ValueError(f"its header is damaged ({type(e).__name__})") from None  # it is a Python literal
    except Exception as e:
        if type(e).__name__ == "TokenError":  # of tokenize, which takes long to import
            raise ValueError("its header is damaged") from None
        raise
    if min(shape, default=0) < 0:
        raise ValueError(f"a length is {min(shape)}")
    return shape, fortran, dtype


def read_npy(file: InputFile) -> np.ndarray:
    """The array of a `.npy` file. Nothing is ever unpickled."""
    import numpy as np

    try:
        return np.load(io.BytesIO(file.data), allow_pickle=False)
    except Exception as e:  # the header is a Python literal, and parsing it can raise many exceptions
        reason = safe_text(str(e) or type(e).__name__).splitlines()[0]
        raise InvalidFileError(f"{file.shown} cannot be read as .npy: {reason[:200]}") from None


def read_safetensors(file: InputFile) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with TemporaryDirectory(prefix="zoo-") as folder:
        path = Path(folder) / ("stdin" if file.name == STDIN else "tokens")
        path.write_bytes(file.data)
        try:
            return load(path), read_metadata(path)
        except InvalidFileError as e:
            raise InvalidFileError(str(e).replace(str(path), file.shown)) from None
