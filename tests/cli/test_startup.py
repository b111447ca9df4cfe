"""Commands that only look around start at once: they import no plugin, and nothing heavy."""

import json

import pytest

from .. import tiny
from ..fake_plugins import HEAD, install, install_fake_torch, run_python

HEAVY = ("torch", "timm", "onnxruntime", "onnx", "numpy", "PIL", "requests", "safetensors")

# Runs the command in this process, whatever its exit code, and shows what was imported.
SPY = """
import io, json, sys
from zoo.cli import main
sys.stdout, stdout = io.StringIO(), sys.stdout
try:
    main(sys.argv[1:], prog_name="zoo")
except SystemExit as e:
    code = e.code
json.dump({"code": code, "modules": sorted(sys.modules)}, stdout)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Twenty installed plugins, each of which would import everything heavy."""
    site = tmp_path_factory.mktemp("site")
    install_fake_torch(site)
    for n in range(20):
        install(site, f"plugin{n}", HEAD + "import torch, onnxruntime, numpy, PIL")
    return site


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry folder with one model, `tiny`."""
    folder = tmp_path_factory.mktemp("registry")
    return tiny.registry(folder / "registry", tiny.bundle(folder / "bundle"))


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("list --registry {registry}", 0),
        ("list --registry {registry} --json", 0),
        ("info tiny --registry {registry}", 0),
        ("info no-such-model --registry {registry}", 3),
        ("pull tiny --registry {registry}", 0),
        ("pull no-such-model --registry {registry}", 3),
        ("registry list", 0),
        ("families", 0),
        ("plugin list", 0),
        ("plugin list --json", 0),
        ("run --help", 0),
        ("train --help", 0),
        ("doctor --help", 0),
    ],
)
def test_no_plugin_and_nothing_heavy_is_imported(site, registry, tmp_path, command, code):
    args = command.format(registry=registry).split()
    result = run_python(SPY, *args, site=site, home=tmp_path / "home")
    seen = json.loads(result.stdout)
    imported = {name.split(".")[0] for name in seen["modules"]}
    assert sorted(imported & set(HEAVY)) == []
    assert [name for name in imported if name.startswith("zoo_")] == []
    assert seen["code"] == code
