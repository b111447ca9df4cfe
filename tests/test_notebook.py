"""The notebooks in docs/ are run as they are, without a network; their stored outputs are what comes out."""

import importlib.util
import json
import socket
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def _module():
    spec = importlib.util.spec_from_file_location("notebook", DOCS / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _texts(notebook: dict) -> list[tuple[str, list[str]]]:
    """Source and text outputs of each code cell; pixels are not compared, since they differ by processor."""
    return [
        ("".join(cell["source"]), ["".join(o.get("text") or o["data"]["text/plain"]) for o in cell["outputs"]])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


@pytest.mark.parametrize("path", _module().NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_give_what_they_show(path: Path, tmp_path: Path, monkeypatch):
    def refuse(*args: object) -> None:
        raise AssertionError("a notebook must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    stored = json.loads(path.read_text())
    done = _module().run(stored)
    assert _texts(done) == _texts(stored), f"docs/{path.name} is out of date: run `python docs/notebook.py`"
    assert _module().dump(stored) == path.read_text()
    assert path.stat().st_size < 100_000
    assert any("image/png" in o.get("data", {}) for cell in done["cells"] for o in cell.get("outputs", []))


def test_there_is_a_notebook():
    assert [path.name for path in _module().NOTEBOOKS] == ["tour.ipynb"]
