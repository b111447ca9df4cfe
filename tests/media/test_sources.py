"""Arrays of pictures whose headers lie, and patterns over folders with circles of links."""

import gzip
import os
import struct
import zipfile
from pathlib import Path

import pytest

from zoo.errors import InvalidFileError, NotFoundError, UsageError
from zoo.media import sources

PIXELS = bytes(3 * 8 * 8)
PLAIN = "{{'descr': '|u1', 'fortran_order': False, 'shape': ({}, 8, 8)}}"

HEADERS = {
    "far too many": PLAIN.format(10**12),
    "too many for the file": PLAIN.format(9_999_999),
    "a negative number": PLAIN.format(-5),
    "5,000 digits": PLAIN.format("9" * 5000),
    "an open brace": "{",
    "an open string": "{'a': '''",
    "brackets": "(" * 3000,
    "signs": "-" * 9000 + "1",
    "a tuple as dtype": "{'descr': ('a',), 'fortran_order': False, 'shape': (1, 8, 8)}",
    "fields without names": "{'descr': [()], 'fortran_order': False, 'shape': (1, 8, 8)}",
    "huge pictures": "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4294967295, 4294967295)}",
}


def npy(header: str, data: bytes = PIXELS) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def refused(word: str) -> str:
    with pytest.raises((InvalidFileError, NotFoundError, UsageError)) as info:
        sources.find([word])
    assert "\n" not in str(info.value) and len(str(info.value)) < 500
    return str(info.value)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_header_that_lies_is_one_line_at_once(header: str, name: str):
    if name == "x.npy":
        Path(name).write_bytes(npy(header))
    else:
        with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", npy(header))
    assert refused(name).startswith(f"{name} cannot be read: ")


@pytest.mark.parametrize("shape", [(2**32 - 1, 28, 28), (9_999_999, 28, 28), (1, 2**32 - 1, 2**32 - 1)])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_idx_file_that_lies_is_one_line_at_once(shape: tuple[int, ...], ending: str):
    data = b"\0\0\x08\x03" + struct.pack(">III", *shape) + bytes(28 * 28)
    name = f"x-idx3-ubyte{ending}"
    Path(name).write_bytes(gzip.compress(data) if ending else data)
    assert refused(name).startswith(f"{name} cannot be read: it")


def test_damaged_archives_are_one_line():
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile("x.npz", "w", method) as archive:
            archive.writestr("images.npy", npy(PLAIN.format(3)))
        data = bytearray(Path("x.npz").read_bytes())
        data[45:60] = bytes(byte ^ 0xFF for byte in data[45:60])
        Path("x.npz").write_bytes(data)
        assert refused("x.npz").startswith("x.npz cannot be read: ")
    zipfile.ZipFile("none.npz", "w").close()
    assert refused("none.npz") == "none.npz cannot be read: it has no arrays"


def test_what_numpy_writes_is_within_the_bounds():
    """Black pictures, which deflate makes as small as it can."""
    import numpy as np

    np.savez_compressed("black.npz", images=np.zeros((5000, 28, 28), np.uint8))
    Path("black-idx3-ubyte.gz").write_bytes(
        gzip.compress(b"\0\0\x08\x03" + struct.pack(">III", 5000, 28, 28) + bytes(5000 * 28 * 28))
    )
    assert len(sources.find(["black.npz", "black-idx3-ubyte.gz"])) == 10_000


def test_a_pattern_follows_no_links_and_ends():
    for name in ("in/a.png", "in/deep [1]/b.png", "in/deep [1]/more/c.png", "in/.hidden/d.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for name in ("one", "two", "deep [1]/three"):  # 2^40 paths for those who follow them
        (Path("in") / name).symlink_to(Path.cwd() / "in")

    def found(pattern: str) -> list[str]:
        return [item.path for item in sources.find([pattern])]

    assert found("in/**/*.png") == ["in/a.png", "in/deep [1]/b.png", "in/deep [1]/more/c.png"]
    assert found("**/b.png") == ["in/deep [1]/b.png"] and found("in/d*/**/c.png") == ["in/deep [1]/more/c.png"]
    assert found("in/one/*.png") == ["in/one/a.png"] and found("in/d**/b.png") == ["in/deep [1]/b.png"]
    assert [path for path in found("in/**") if path.endswith("png")] == found("in/**/*.png")


def test_a_pattern_may_start_with_a_home_folder(monkeypatch: pytest.MonkeyPatch):
    Path("a.png").touch()
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert [item.path for item in sources.find(["~/*.png"])] == [os.path.expanduser("~/a.png")]  # noqa: PTH111
