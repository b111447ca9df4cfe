import hashlib
import json
import os
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests import tiny
from zoo.formats import manifest
from zoo.formats.fields import File
from zoo.hookspecs import Metric
from zoo.run.difference import _largest_difference, difference
from zoo.store.locate import Bundle

from .commands import zoo
from .test_run import error


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


def test_the_same_model_gives_0_even_under_another_name_and_version(tmp_path: Path):
    a = tiny.bundle(tmp_path / "a", "one")
    b = tiny.bundle(tmp_path / "b", "two", version=2)
    outcome = zoo("diff", a, b)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{a} and {b} are the same\n", "")
    report = json.loads(zoo("diff", a, b, "--json").out)
    assert report["same"] and report["config"] == report["figures"] == report["tensors"] == report["graphs"] == {}


def test_what_differs_is_named_and_gives_1(tmp_path: Path):
    def psnr(value: float) -> tuple[Metric, ...]:
        return (Metric(name="psnr", value=value, unit="dB", data="letters test"),)

    a = tiny.bundle(tmp_path / "a", config={"width": 8, "depth": 2}, metrics=psnr(20.0))
    b = tiny.bundle(tmp_path / "b", config={"width": 16, "depth": 2}, metrics=psnr(21.5), seed=3, ballast=4)
    outcome = zoo("diff", a, b, "--json")
    report = json.loads(outcome.out)
    assert outcome.code == 1 and not report["same"]
    assert report["config"] == {"config.width": {"a": 8, "b": 16}}
    assert report["figures"] == {"psnr (letters test)": {"a": 20.0, "b": 21.5}}
    assert report["tensors"]["model.safetensors: seed"] == {"a": "F32 [1]", "b": "F32 [1]", "largest_difference": 3.0}
    assert report["tensors"]["model.safetensors: ballast"] == {"a": "U8 [0]", "b": "U8 [4]"}
    assert "model.safetensors: scale" not in report["tensors"]
    shown = zoo("diff", a, b)
    lines = [line.split() for line in shown.out.splitlines()]
    assert shown.code == 1 and ["config.width", "8", "16"] in lines
    assert "values differ by up to 3" in shown.out


def test_a_graph_that_only_one_model_has(tmp_path: Path):
    a, b = tiny.bundle(tmp_path / "a"), tiny.bundle(tmp_path / "b", tasks=("double", "again"))
    report = json.loads(zoo("diff", a, b, "--json").out)
    assert report["graphs"]["again.onnx"]["a"] is None and len(report["graphs"]["again.onnx"]["b"]["sha256"]) == 64
    assert any(path.startswith("tasks.again") for path in report["config"])


def test_a_long_list_is_cut_for_a_person(tmp_path: Path):
    a = tiny.bundle(tmp_path / "a", config={f"option{n}": n for n in range(30)})
    b = tiny.bundle(tmp_path / "b", config={})
    shown = zoo("diff", a, b).out
    assert "config: 31 differ" in shown and "and 11 more; --json lists all" in shown


def test_every_line_fits_100_columns(tmp_path: Path):
    kinds = [tuple(f"{kind} {n}" for n in range(20)) for kind in ("shirt", "shoe")]
    a = tiny.bundle(tmp_path / "a", classes=kinds[0], config={"a_long_name." * 12: 1, "width": 8})
    b = tiny.bundle(tmp_path / "b", classes=kinds[1], config={"width": "wide " * 30})
    lines = zoo("diff", a, b).out.splitlines()[2:]  # without the names of the folders
    assert max(map(len, lines)) <= 100
    [classes] = [line for line in lines if line.startswith("classes ")]
    assert "  shirt 0, shirt 1, " in classes and "  shoe 0, shoe 1, " in classes
    assert any(line.startswith("…") and "a_long_name." in line for line in lines)


def test_mistakes_are_one_line(tmp_path: Path):
    a, b = tiny.bundle(tmp_path / "a"), tiny.bundle(tmp_path / "b", seed=1)
    assert error(zoo("diff", a, tmp_path / "none"), 3).endswith("is not a bundle: it has no model.yaml")
    assert "Missing argument 'MODEL_B'" in error(zoo("diff", a), 2)
    registry = tiny.registry(tmp_path / "registry", a)
    said = error(zoo("diff", a, "tiny", "--registry", registry), 3)
    assert said.startswith("registry/tiny:1 is not available locally; `zoo pull ") or "is not available locally" in said
    (b / "model.safetensors").write_bytes(b"no")
    assert "model.safetensors" in error(zoo("diff", a, b), 5)
    (b / "model.safetensors").unlink()
    assert "model.safetensors" in error(zoo("diff", a, b), 5)


def test_a_folder_with_other_bytes_than_its_manifest_says_is_refused(tmp_path: Path):
    a, b = tiny.bundle(tmp_path / "a"), tiny.bundle(tmp_path / "b")
    weights = b / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "model.safetensors" in error(zoo("diff", a, b), 5)
    weights.unlink()
    os.mkfifo(weights)
    assert "model.safetensors" in error(zoo("diff", a, b), 5)


@pytest.mark.parametrize(
    ("dtype", "x", "y", "worst"),
    [
        ("BF16", b"\x80\x3f", b"\x00\xc0", 3.0),  # 1 and -2
        ("F16", b"\x00\x3c", b"\x00\xc0", 3.0),
        ("F32", b"\x00\x00\x80\x3f", b"\x00\x00\x00\xc0", 3.0),
        ("BOOL", b"\x01", b"\x00", 1.0),
        ("U8", b"\x01", b"\xff", 254.0),
        ("I8", b"\x01", b"\xfe", 3.0),
        ("I64", b"\x01" + bytes(7), b"\x03" + bytes(7), 2.0),
    ],
)
def test_values_are_compared_whatever_their_type(tmp_path: Path, dtype: str, x: bytes, y: bytes, worst: float):
    """NumPy does not have bfloat16; one such tensor must not hide the others."""

    def bundle(name: str, one: bytes, other: float) -> Bundle:
        header = {
            "one": {"dtype": dtype, "shape": [1], "data_offsets": [0, len(one)]},
            "other": {"dtype": "F64", "shape": [1], "data_offsets": [len(one), len(one) + 8]},
        }
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + one + struct.pack("<d", other)
        folder = tiny.bundle(tmp_path / name)
        (folder / "model.safetensors").write_bytes(data)
        m = manifest.read(folder)
        file = File(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        m = msgspec.structs.replace(m, files={**m.files, "model.safetensors": file})
        return Bundle(folder, m, "", name)

    found = difference(bundle("a", x, 1.0), bundle("b", y, 1.5))["tensors"]
    assert {name: sides["largest_difference"] for name, sides in found.items()} == {
        "model.safetensors: one": worst,
        "model.safetensors: other": 0.5,
    }


def test_nan_and_infinity_are_compared_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    numbers = np.array([np.nan, np.inf, 1], np.float32), np.array([np.nan, np.inf, 3], np.float32)
    assert _largest_difference("F32", *(array.tobytes() for array in numbers)) == 2
    odd = np.array([np.inf, np.inf, 1], np.float32)
    assert np.isnan(_largest_difference("F32", numbers[0].tobytes(), odd.tobytes())) and not recwarn.list
