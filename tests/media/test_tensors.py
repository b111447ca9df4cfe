"""safetensors: what is read, and the files that are refused before anything else opens them."""

import contextlib
import errno
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoo.errors import InvalidFileError
from zoo.media import tensors


def raw(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_./]{0,20}", fullmatch=True),
        hnp.arrays(
            st.sampled_from([np.float32, np.int64, np.uint8, np.float16, np.bool_]),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        ),
        max_size=6,
    )
)
def test_saving_then_loading_gives_the_same_arrays(tmp_path, arrays):
    path = tmp_path / "a.safetensors"
    tensors.save(path, arrays, {"model": "x"})
    back = tensors.load(path)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()
    assert tensors.read_metadata(path) == {"model": "x"}
    content = path.read_bytes()
    for name, tensor in tensors.read_header(path).items():
        assert content[tensor.offset : tensor.offset + tensor.length] == arrays[name].tobytes()
    tensors.save(path, arrays, {"model": "x"})
    assert path.read_bytes() == content


def test_a_scalar_stays_a_scalar_and_strides_do_not_matter(tmp_path):
    square = np.arange(6).reshape(2, 3)
    tensors.save(tmp_path / "a.safetensors", {"scalar": np.int64(3), "turned": square.T})
    back = tensors.load(tmp_path / "a.safetensors")
    assert back["scalar"].shape == () and (back["turned"] == square.T).all()
    for array in (np.float32(3), square.T):
        assert np.load(io.BytesIO(tensors.encode_npy(array))).shape == array.shape


REFUSED = {
    "empty header": (b"", b""),
    "no json": (b"{]", b""),
    "a list": (b"[]", b""),
    "not utf-8": (b"{\xff}", b""),
    "deep json": (b"[" * 100_000, b""),
    "huge number": (b'{"a":' + b"1" * 10_000 + b"}", b""),
    "duplicate name": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
    ),
    "metadata that is not text": ({"__metadata__": {"a": 1}}, b""),
    "unknown dtype": ({"a": entry(dtype="PICKLE")}, bytes(8)),
    "dtype that is not text": ({"a": entry(dtype=["F32"])}, bytes(8)),
    "unknown field": ({"a": entry(more=1)}, bytes(8)),
    "shape that lies": ({"a": entry(shape=(3,))}, bytes(8)),
    "shape that overflows": ({"a": entry(shape=(1 << 62, 1 << 62, 4))}, bytes(8)),
    "negative shape": ({"a": entry(shape=(-1, -2))}, bytes(8)),
    "shape of truths": ({"a": entry(dtype="U8", shape=(True,), offsets=(0, 1))}, b"x"),
    "too many axes": ({"a": entry(shape=(1,) * 20 + (2,))}, bytes(8)),
    "offsets out of the file": ({"a": entry()}, bytes(7)),
    "offsets turned round": ({"a": entry(shape=(0,), offsets=(8, 0))}, bytes(8)),
    "a gap": ({"a": entry(offsets=(4, 12))}, bytes(12)),
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "overlap that hides bytes": ({"a": entry(), "b": entry()}, bytes(16)),
    "hidden bytes at the end": ({"a": entry()}, bytes(9)),
    "escape codes in a name": ({"\x1b[2J": entry()}, bytes(8)),
    "endless name": ({"a" * 501: entry()}, bytes(8)),
}


@pytest.mark.parametrize("header, data", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(tmp_path, header, data):
    path = raw(tmp_path / "bad.safetensors", header, data)
    for read in (tensors.read_header, tensors.read_metadata, tensors.load):
        with pytest.raises(InvalidFileError, match=r"bad.safetensors is not a valid safetensors file: ") as e:
            read(path)
        assert "\n" not in str(e.value) and "\x1b" not in str(e.value) and len(str(e.value)) < 600


def test_a_header_over_the_limit_is_not_even_read(tmp_path):
    path = raw(tmp_path / "bomb.safetensors", b"{}", length=tensors.MAX_HEADER_BYTES + 1)
    with path.open("ab") as f:
        f.truncate(tensors.MAX_HEADER_BYTES * 2)  # sparse
    with pytest.raises(InvalidFileError, match="a header of 8,388,609 bytes"):
        tensors.read_header(path)


def test_too_many_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "MAX_TENSORS", 2)
    header = {name: entry(dtype="U8", shape=(0,), offsets=(0, 0)) for name in "abc"}
    with pytest.raises(InvalidFileError, match="3 tensors; at most 2"):
        tensors.read_header(raw(tmp_path / "a.safetensors", header))


def test_a_missing_file(tmp_path):
    with pytest.raises(InvalidFileError, match="cannot be read: No such file"):
        tensors.read_header(tmp_path / "a.safetensors")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=100))
def test_any_bytes_give_a_header_or_one_kind_of_error(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with contextlib.suppress(InvalidFileError):
        tensors.read_header(tmp_path / "a")


def test_what_cannot_be_written_is_the_systems_error(tmp_path):
    """safetensors has an error of its own, for a full disk too, which the command line would show as a traceback."""
    with pytest.raises(FileNotFoundError, match="No such file or directory") as raised:
        tensors.save(tmp_path / "nowhere" / "x.safetensors", {"x": np.zeros(1, np.float32)})
    assert raised.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"\x93NUMPY\x01\0v\0", "a .npy array"),
        (b"PK\x03\x04", "a ZIP archive"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, start, kind):
    path = tmp_path / "z.safetensors"
    path.write_bytes(start + bytes(100))
    with pytest.raises(InvalidFileError, match=f"z.safetensors is not a safetensors file, but {kind}"):
        tensors.read_header(path)
