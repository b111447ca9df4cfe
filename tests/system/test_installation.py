"""Without the extra that a command needs: one line, with the command that fits this installation."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from zoo.system import installation
from zoo.system.installation import install_command, missing_module

WITHOUT = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
from zoo.cli import main
main(prog_name="zoo")
"""


def modules_of(extra: str) -> list[str]:
    """The modules that an extra brings and the core does not."""
    lines = metadata.requires("genzoo")
    names = {re.match(r"[\w.-]+", line)[0] for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)}
    return sorted(name.replace("-", "_") for name in names)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("build", ["train", "vqvae", "--data", ".", "--out", "m"]),
        ("build", ["import", "ddpm", "weights.safetensors", "--out", "m"]),
        ("build", ["build", "vqvae-fashion", "--out", "m"]),
        ("build", ["eval", "vqvae-fashion", "--data", "."]),
        ("build", ["plugin", "new", "mine", "--out", "m"]),
        ("build", ["plugin", "check", "vqvae"]),
        ("tables", ["run", "judge-fashion", "classify", "0.png", "--out", "t.parquet"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_command_without_its_extra_is_one_line(tmp_path: Path, extra: str, words: list[str]):
    modules = modules_of(extra)
    assert modules
    (tmp_path / "weights.safetensors").write_bytes(b"")
    for i in range(8):
        Image.new("L", (28, 28), 30 * i).save(tmp_path / f"{i}.png")
    blocked = ",".join([*modules, *(["pyarrow.parquet"] if extra == "tables" else [])])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, blocked, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode in (2, 9) and "Traceback" not in done.stderr, done.stderr
    line = done.stderr.splitlines()[-1]  # `eval` says first what it read
    assert line.startswith("Error: ") and any(module in line for module in modules), line
    assert line.endswith(f": {install_command(extra)}")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("prefix", "cfg", "url", "command"),
    [
        ("/usr", "", None, "pip install 'genzoo[build]'"),
        ("/home/me/.local/pipx/venvs/genzoo", "", None, "pipx install --force 'genzoo[build]'"),
        ("/home/me/.local/share/uv/tools/genzoo", "uv = 0.9", None, "uv tool install 'genzoo[build]'"),
        ("venv", "home = /usr\nuv = 0.9.1\n", None, "uv pip install 'genzoo[build]'"),
        ("venv", "home = /usr\n", "file:///home/me/my%20place", "pip install -e '/home/me/my place[build]'"),
    ],
)
def test_the_command_fits_the_installation(tmp_path: Path, monkeypatch, prefix: str, cfg: str, url, command: str):
    place = tmp_path / prefix if prefix == "venv" else Path(prefix)
    if prefix == "venv":
        place.mkdir()
        (place / "pyvenv.cfg").write_text(cfg)
    monkeypatch.setattr(sys, "prefix", str(place))

    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return url and json.dumps({"url": url, "dir_info": {"editable": True}})

    monkeypatch.setattr(installation.metadata, "distribution", lambda name: Installed())
    assert install_command("build") == command


def test_a_module_that_no_extra_brings_is_a_bug():
    assert missing_module(ModuleNotFoundError(name="frobnicate.part")) is None
    assert missing_module(ModuleNotFoundError()) is None
    assert missing_module(ModuleNotFoundError(name="onnx_ir.passes")).startswith("this needs onnx_ir, which is not")
