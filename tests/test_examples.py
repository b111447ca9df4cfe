"""The example plugins, as a third party has them: their own tests pass, and they use public names only."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.commands import zoo
from zoo.hookspecs import PUBLIC_MODULES

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
PLUGINS = [*sorted(EXAMPLES.iterdir()), *sorted((ROOT / "plugins").iterdir())]


def _homes(module: str) -> list[Path]:
    """The files that a module may be."""
    place = ROOT / module.replace(".", "/")
    return [place.with_suffix(".py"), place / "__init__.py"]


def private_imports(file: Path) -> list[str]:
    """What a file imports of zoo that is not declared public."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "zoo"]
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "zoo":
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [alias.name for alias in node.names if alias.name.startswith("_")]
            modules = [name for name in whole if any(path.exists() for path in _homes(name))]
            found += names or modules or [node.module]
    return [name for name in found if name not in PUBLIC_MODULES]


def test_private_imports_are_seen(tmp_path):
    file = tmp_path / "plugin.py"
    file.write_text(
        "import zoo\nfrom zoo import hookspecs, store\nfrom zoo.build import optim, train\nimport zoo.run\n"
    )
    assert private_imports(file) == ["zoo.store", "zoo.build.train", "zoo.run"]
    file.write_text("from zoo.settings import _explain\nfrom zoo.formats.registry import read\nfrom .zoo import x\n")
    assert private_imports(file) == ["_explain", "zoo.formats.registry"]


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
def test_a_plugin_uses_public_names_only(plugin):
    files = list(plugin.rglob("*.py"))
    assert files
    assert {str(file.relative_to(ROOT)): names for file in files if (names := private_imports(file))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zoo-vae", "zoo-gan"])
def test_an_example_passes_its_own_tests(name, tmp_path):
    command = [sys.executable, "-m", "pytest", str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.slow
def test_a_model_that_an_example_brings_is_listed_and_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    (row,) = (row for row in json.loads(zoo("list", "--json").out) if row["name"] == "vae-digits")
    assert (row["registry"], row["family"], row["where"]) == ("vae", "vae", "folder")
    assert zoo("pull", "vae-digits").code == 0
    picture = tmp_path / "digit.png"
    assert zoo("run", "vae-digits", "generate", "--seed", 1, "--out", picture).code == 0
    with Image.open(picture) as image:
        assert image.size == (28, 28) and image.getextrema()[1] > 127
