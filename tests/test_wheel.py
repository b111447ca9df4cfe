"""The wheels: the core without a model, and a model without the core; together they draw."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
MODELS = yaml.safe_load((ROOT / "registry.yaml").read_text())["models"]
MODEL = "vqvae-fashion"
HERE = [name for name in MODELS if list(metadata.distributions(name=f"genzoo-{name}"))]
"""The models that the tests' own environment has: `make demo` installs one."""


def build(project: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(project)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def core(tmp_path_factory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return build(ROOT / "models" / MODEL, tmp_path_factory.mktemp("model"))


def install(*wheels: Path, site: Path) -> Path:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, *wheels]
    subprocess.run(command, check=True)
    return site


def zoo(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`zoo ARGUMENTS` with what is installed in a folder, and without the variable that keeps other tests quick."""
    environment = os.environ | {"PYTHONPATH": str(site), "ZOO_HOME": str(folder / "home"), "ZOO_NO_PLUGINS": "1"}
    environment.pop("ZOO_ISOLATE", None)
    command = [sys.executable, "-m", "zoo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


@pytest.mark.slow
def test_the_core_lists_every_model_and_contains_none(core):
    assert core.stat().st_size < 1_000_000
    archive = zipfile.ZipFile(core)
    names = archive.namelist()
    assert {Path(n).parts[0].partition("-")[0] for n in names} == {"zoo", "genzoo"}
    assert not [n for n in names if n.endswith((".onnx", ".safetensors", ".pt", ".pyc", "model.yaml"))]
    listed = json.loads(archive.read("zoo/registry.json"))["models"]
    digests = {name: {v: one["digest"] for v, one in model["versions"].items()} for name, model in MODELS.items()}
    assert digests == {name: {v: one["digest"] for v, one in m["versions"].items()} for name, m in listed.items()}


@pytest.mark.slow
def test_the_wheel_of_a_model_has_its_newest_version_and_depends_on_the_core(model):
    newest = max(MODELS[MODEL]["versions"], key=int)
    assert model.name == f"genzoo_vqvae_fashion-{newest}.0-py3-none-any.whl"
    archive = zipfile.ZipFile(model)
    files = {f"genzoo_vqvae_fashion/{file['url']}" for file in MODELS[MODEL]["versions"][newest]["files"].values()}
    inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == files | {"genzoo_vqvae_fashion/LICENSE"}
    info = f"genzoo_vqvae_fashion-{newest}.0.dist-info"
    about = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert (about["Name"], about["License-Expression"]) == ("genzoo-vqvae-fashion", "Apache-2.0")
    assert about.get_all("Requires-Dist") == ["genzoo>=0.1.0"]
    assert about.get_payload().startswith("# vqvae-fashion\n")


@pytest.mark.slow
def test_the_wheel_of_a_model_is_reproducible(model, tmp_path):
    again = build(ROOT / "models" / MODEL, tmp_path)
    assert again.read_bytes() == model.read_bytes()


@pytest.mark.slow
def test_without_its_model_one_line_says_what_to_install(core, tmp_path):
    site = install(core, site=tmp_path / "site")
    listed = zoo(site, tmp_path, "list")
    assert listed.returncode == 0 and [line.split(":")[0] for line in listed.stdout.splitlines()[1:]] == HERE
    absent = [name for name in MODELS if name not in HERE]
    assert MODEL in absent and listed.stderr.startswith(f"not installed: {', '.join(absent)}; to install one: ")
    assert len(listed.stderr.splitlines()) == 1
    ran = zoo(site, tmp_path, "run", MODEL, "--example", "--out", "out.png")
    assert ran.returncode == 3
    assert ran.stderr == f"Error: {MODEL} is not installed; run: pip install genzoo-{MODEL}\n"


@pytest.mark.slow
def test_installed_wheels_list_and_run_the_model_in_process(core, model, tmp_path):
    site = install(core, model, site=tmp_path / "site")
    listed = zoo(site, tmp_path, "list", "--json")
    there = [(name, "in package") for name in sorted([*HERE, MODEL])]
    assert [(row["name"], row["where"]) for row in json.loads(listed.stdout)] == there, listed.stderr
    ran = zoo(site, tmp_path, "run", MODEL, "--example", "--out", "out.png")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "home").exists(), "running an installed model wrote into the store"
    script = "from zoo.store.locate import locate; b = locate('vqvae-fashion'); print(b.worker, b.folder)"
    environment = os.environ | {"PYTHONPATH": str(site), "ZOO_ISOLATE": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == "None" and done.stdout.split()[1].startswith(str(site)), done.stdout


PROJECT = """[build-system]
requires = ["hatchling>=1.27", "pyyaml>=6.0"]
build-backend = "hatchling.build"

[project]
name = "genzoo-{name}"
dependencies = ["genzoo>={first}"]
requires-python = ">=3.11"
dynamic = ["version", "description", "readme", "license", "entry-points"]

[tool.hatch.metadata.hooks.custom]
path = "../hatch_build.py"

[tool.hatch.build.targets.wheel]
bypass-selection = true

[tool.hatch.build.targets.wheel.hooks.custom]
path = "../hatch_build.py"
"""


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_project_that_differs_in_two_lines(name):
    from packaging.requirements import Requirement

    from zoo import __version__

    file = ROOT / "models" / name / "pyproject.toml"
    assert file.is_file(), f"write {file}:\n{PROJECT.format(name=name, first=__version__)}"
    (needed,) = tomllib.loads(file.read_text())["project"]["dependencies"]
    (first,) = Requirement(needed).specifier
    assert file.read_text() == PROJECT.format(name=name, first=first.version)
    assert Requirement(needed).specifier.contains(__version__), f"{needed} is not out yet"


def test_the_extra_models_has_them_all():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["models"] == [f"genzoo-{name}" for name in MODELS]
