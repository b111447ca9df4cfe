"""The wheel carries the default registry, and runs from it alone."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(command, check=True)
    return site


def _python(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(site), "ZOO_HOME": str(folder / "home"), "ZOO_NO_PLUGINS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


def test_the_wheel_is_small_and_holds_the_newest_versions_only(wheel):
    from zoo.formats import registry

    assert wheel.stat().st_size <= 60_000_000
    names = zipfile.ZipFile(wheel).namelist()
    inside = {Path(n).parts[3:5] for n in names if n.startswith("zoo/default_registry/models/")}
    models = registry.read(ROOT, "here").document.models
    assert inside == {(name, str(max(model.versions))) for name, model in models.items()}
    assert {Path(n).parts[0].partition("-")[0] for n in names} == {"zoo", "genzoo"}  # and no other registry's folder
    assert not [n for n in names if n.endswith((".pt", ".pyc"))]


def test_an_installed_wheel_lists_and_runs_its_models(installed, tmp_path):
    script = "from zoo.system.places import default_folder; print(default_folder())"
    assert str(installed) in _python(installed, tmp_path, "-c", script).stdout
    listed = _python(installed, tmp_path, "-m", "zoo", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "vqvae-fashion" in {row["name"] for row in json.loads(listed.stdout)}
    ran = _python(installed, tmp_path, "-m", "zoo", "run", "vqvae-fashion", "--example", "--out", "out.png")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "home").exists(), "running a model of the package wrote into the store"
