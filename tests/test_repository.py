"""The files around the code: what a clone, a contributor and a hosting platform rely on."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import zoo

ROOT = Path(__file__).parent.parent


def text(name: str) -> str:
    return (ROOT / name).read_text()


# --- A clone ----------------------------------------------------------------------------------------------------------

HASHED = ("registry.yaml", "models", "research", "docs/examples/zoo-vae/zoo_vae/models")


def git(*words: object, cwd: Path) -> str:
    """git with the settings of a Windows machine: line ends become CRLF in text files unless .gitattributes says no."""
    settings = ["-c", "core.autocrlf=true", "-c", "core.safecrlf=false", "-c", "user.name=x", "-c", "user.email=x@x"]
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", *settings, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A repository of the hashed files, this test and .gitattributes, made on a machine with core.autocrlf."""
    folder = tmp_path_factory.mktemp("original")
    for name in (*HASHED, ".gitattributes", "tests/test_repository.py"):
        for file in [ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*.*"):
            if file.is_file() and file.stat().st_size < 500_000:  # the others are weights: only time
                copy = folder / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    (folder / "models" / "windows.yaml").write_bytes(b"written: on Windows\r\n")
    git("init", "--quiet", cwd=folder)
    git("add", "--all", cwd=folder)
    git("commit", "--quiet", "--message", "all", cwd=folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file() and ".git" not in file.relative_to(folder).parts]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_clone_with_autocrlf_has_the_same_bytes(original, tmp_path):
    git("clone", "--quiet", "--config", "core.autocrlf=true", original, tmp_path / "clone", cwd=tmp_path)
    cloned = digests(tmp_path / "clone")
    assert len(cloned) > 100 and any(name.endswith(".onnx") for name in cloned)
    assert cloned == digests(original)


def test_without_gitattributes_it_would_not(original, tmp_path):
    """Else the test above would pass for nothing."""
    folder = shutil.copytree(
        original, tmp_path / "bare", ignore=shutil.ignore_patterns(".git", "*.onnx", "*.safetensors")
    )
    (folder / ".gitattributes").unlink()
    git("init", "--quiet", cwd=folder)
    git("add", "--all", cwd=folder)
    git("commit", "--quiet", "--message", "all", cwd=folder)
    git("clone", "--quiet", "--config", "core.autocrlf=true", folder, tmp_path / "clone", cwd=tmp_path)
    assert b"\r\n" in (tmp_path / "clone" / "registry.yaml").read_bytes()


# --- make -------------------------------------------------------------------------------------------------------------


def test_make_alone_lists_every_target():
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    [phony] = re.findall(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)
    assert listed == set(phony.split())
    assert all(len(line.split()) > 3 for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".github/pull_request_template.md", ".ci/run"])
def test_targets_that_are_named_exist(name):
    [phony] = re.findall(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)
    named = set(re.findall(r"(?:^\$ |^|`|run: )make ([a-z]+)", text(name), re.MULTILINE))
    assert named and named <= set(phony.split())


def test_places_that_contributing_names_exist():
    named = set(re.findall(r"`((?:zoo|plugins|tests|docs|bench|models)/[\w./-]*)`", text("CONTRIBUTING.md")))
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


# --- What hosting platforms read --------------------------------------------------------------------------------------

SCHEMAS = {
    ".github/workflows/test.yml": "github-workflows",
    ".github/ISSUE_TEMPLATE/bug.yml": "github-issue-forms",
    ".github/ISSUE_TEMPLATE/idea.yml": "github-issue-forms",
    ".github/ISSUE_TEMPLATE/model.yml": "github-issue-forms",
    ".github/ISSUE_TEMPLATE/config.yml": "github-issue-config",
    "CITATION.cff": "citation-file-format",
}


def findings(file: Path, schema: str) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", "--default-filetype"]
    done = subprocess.run([*command, "yaml", file], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("name", SCHEMAS)
def test_files_fit_their_schemas(name):
    assert findings(ROOT / name, SCHEMAS[name]) == ""


def test_a_wrong_workflow_is_found(tmp_path):
    wrong = tmp_path / "test.yml"
    wrong.write_text(text(".github/workflows/test.yml").replace("runs-on:", "runs_on:"))
    assert "runs_on" in findings(wrong, "github-workflows")


def test_every_form_is_checked():
    files = [*(ROOT / ".github").rglob("*.yml")]
    assert {str(file.relative_to(ROOT)) for file in files} <= set(SCHEMAS)


def test_the_workflow_runs_the_versions_that_the_package_promises():
    jobs = yaml.safe_load(text(".github/workflows/test.yml"))["jobs"]
    classifiers = tomllib.loads(text("pyproject.toml"))["project"]["classifiers"]
    promised = [line.split(" :: ")[-1] for line in classifiers if re.search(r"Python :: 3\.\d", line)]
    assert jobs["all"]["strategy"]["matrix"]["python"] == promised
    assert {os.split("-")[0] for os in jobs["core"]["strategy"]["matrix"]["os"]} == {"macos", "windows"}
    for job in jobs.values():
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == zoo.__version__
    assert citation["license"] == tomllib.loads(text("pyproject.toml"))["project"]["license"]


# --- Before a commit --------------------------------------------------------------------------------------------------


def test_hooks_before_a_commit_need_no_network():
    [repo] = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    assert {"ruff", "ruff-format", "basedpyright", "lint-imports", "workflows"} <= {
        hook["id"] for hook in repo["hooks"]
    }
    done = subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", ROOT / ".pre-commit-config.yaml"])
    assert done.returncode == 0


# --- What SECURITY.md and docs/security.md promise --------------------------------------------------------------------


def test_every_promise_names_a_test_that_exists():
    page = text("docs/security.md")
    named = set(re.findall(r"`(test_\w+)`", page))
    defined = {
        name for file in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) > 40 and named - defined == set()
    promises = [row for row in re.findall(r"^\| (.*) \|$", page, re.MULTILINE) if "test_" in row]
    assert len(promises) > 35


def test_the_security_page_names_the_reports_that_zoo_doctor_names():
    from zoo.doctor import SECURITY_FLOORS

    page = text("docs/security.md")
    reports = {name for _, reason in SECURITY_FLOORS.values() for name in re.findall(r"CVE-\d+-\d+", reason)}
    assert reports and [name for name in reports if name not in page] == []
    for package in ("onnx", "onnxruntime"):
        assert f"before {SECURITY_FLOORS[package][0]}" in " ".join(page.split())


# --- What CONTRIBUTING.md says of the code ----------------------------------------------------------------------------

MOST_LINES = 80
LONG = {
    "zoo/build/export.py: export_bundle": "the export of a bundle, one step after the other",
    "zoo/build/train.py: train": "the loop of a training, whose steps share their counters",
}


def test_long_functions_have_a_reason():
    files = [*(ROOT / "zoo").rglob("*.py"), *(ROOT / "plugins").glob("*/zoo_*/**/*.py")]
    found = {
        f"{file.relative_to(ROOT).as_posix()}: {node.name}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MOST_LINES
    }
    assert found == set(LONG)
