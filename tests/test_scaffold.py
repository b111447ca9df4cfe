"""`zoo plugin new`: a package that passes its own tests at once, or nothing."""

import json
import os
import site
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zoo.errors import UsageError
from zoo.hookspecs import CONTRACT_VERSION
from zoo.plugins import scaffold

from .test_examples import private_imports

TEMPLATES = ["minimal", "codec", "image-generator"]


@pytest.fixture(scope="module", params=TEMPLATES)
def package(request, tmp_path_factory):
    return scaffold.write(f"new-{request.param}", request.param, tmp_path_factory.mktemp("new") / "plugin")


def test_the_package_declares_itself(package):
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    [(family, module)] = project["entry-points"]["zoo"].items()
    assert (project["name"], module) == (f"zoo-{family}", f"zoo_{family.replace('-', '_')}.plugin")
    plugin = package.joinpath(*module.split(".")).with_suffix(".py").read_text()
    assert f"\nZOO_CONTRACT = {CONTRACT_VERSION}\n" in plugin
    assert {"README.md", ".github", "tests"} <= {path.name for path in package.iterdir()}
    assert f'@pytest.mark.zoo("{family}")' in (package / "tests" / "test_plugin.py").read_text()


def test_the_package_is_formatted_and_uses_public_names_only(package):
    config = str(Path(__file__).parents[1] / "pyproject.toml")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", config, str(package)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert [name for file in package.rglob("*.py") for name in private_imports(file)] == []
    assert [path for path in package.rglob("*") if path.is_file() and "{{" in path.read_text()] == []


WRONG = """
from zoo.hookspecs import DescribeRequest, Family, Port
from zoo.plugins import load

Port(kind="image", dtype="float16", shape=("batch",))
Family(name="wrong", summary="no paper, no presets")
load("wrong").call("build_module", DescribeRequest(family="wrong"))
load("wrong").call("describe_family", DescribeRequest(family="wrong")).tasks
"""


@pytest.mark.slow
def test_the_packages_pass_a_type_checker_that_finds_mistakes(tmp_path):
    for template in TEMPLATES:
        scaffold.write(f"new-{template}", template, tmp_path / template)
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert answer["summary"]["filesAnalyzed"] == 1 + 4 * len(TEMPLATES)
    found = {(d["file"], d["range"]["start"]["line"]) for d in answer["generalDiagnostics"]}
    assert found == {(str(tmp_path / "wrong.py"), line) for line in (4, 5, 6, 7)}


@pytest.mark.slow
def test_the_package_passes_its_own_tests_where_it_is_installed(package, tmp_path):
    """In an environment of its own, which sees ours for the large packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    ours = [path for path in sys.path if path.endswith("site-packages")] or site.getsitepackages()
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in ours)
    (tmp_path / "env" / "lib" / version / "site-packages" / "ours.pth").write_text(lines)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-build-isolation"]
    installed = subprocess.run([*pip, str(package)], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"ZOO_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [python, "-m", "pytest", "-q", str(package / "tests")],
        capture_output=True,
        text=True,
        cwd=tmp_path / "elsewhere",
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 passed" in done.stdout or "[100%]" in done.stdout
    listed = subprocess.run([python, "-m", "zoo", "families"], capture_output=True, text=True, env=environment)
    assert package.parent.name and f"zoo-{_family(package)} 0.1.0" in listed.stdout


def _family(package):
    return next(iter(tomllib.loads((package / "pyproject.toml").read_text())["project"]["entry-points"]["zoo"]))


@pytest.mark.parametrize(
    "name", ["", "My-model", "a_b", "-a", "a-", "a--b", "1st", "a b", "ü", "../a", "a/b", "x" * 41, "a\n", "{{ a }}"]
)
def test_what_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="is not a family name: lower-case letters, digits, dashes"):
        scaffold.write(name, "minimal", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="out exists and is not overwritten"):
        scaffold.write("mine", "minimal", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_family_that_is_installed_is_refused(tmp_path):
    with pytest.raises(UsageError, match="zoo-vqvae already provides the family 'vqvae'"):
        scaffold.write("vqvae", "minimal", tmp_path / "out")


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(scaffold, "put_in_place", lambda folder, out: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scaffold.write("mine", "minimal", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
