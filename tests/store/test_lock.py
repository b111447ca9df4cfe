"""`zoo.lock`: what is locked stays, is used exactly, and is checked; files that people or merges have changed."""

import json
import re
import shutil
from pathlib import Path

import pytest

import zoo as package
from tests import tiny
from tests.cli.commands import zoo
from zoo.errors import InvalidFileError, NotFoundError, UsageError
from zoo.formats import lock as locks
from zoo.store import catalogue
from zoo.store import check_apart as apart
from zoo.store.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("made")
    return [tiny.bundle(root / f"{n}", version=n, seed=n) for n in (1, 2, 3, 4)]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch, made):
    """An empty folder to work in; a registry `lab` with `tiny` 1 to 3, and a default one with `inside`."""
    default = tiny.registry(tmp_path / "default", tiny.bundle(tmp_path / "b" / "inside", name="inside"))
    monkeypatch.setattr("zoo.system.places.default_folder", lambda: default)
    monkeypatch.setattr("zoo.plugins.registries", list, raising=False)
    monkeypatch.setattr(apart, "check_apart", lambda folder: [])
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    tiny.registry(tmp_path / "lab", *made[:3])
    catalogue.add("lab", str(tmp_path / "lab"))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def versions(project: Path) -> dict[str, int]:
    return {text: one.version for text, one in locks.read(project / "zoo.lock").models.items()}


def test_a_lock_says_all_that_identifies_a_model(project, tmp_path):
    done = zoo("lock", "tiny<3", "inside")
    assert done.code == 0 and done.out == "zoo.lock\n" and "tiny<3: lab/tiny:2, Apache-2.0" in done.err
    lock = locks.read(project / "zoo.lock")
    (lab,) = (r for r in catalogue.registries() if r.name == "lab")
    version = lab.document.models["tiny"].versions[2]
    one = lock.models["tiny<3"]
    assert (one.registry, one.name, one.version, one.digest) == ("lab", "tiny", 2, version.digest)
    assert (one.size, one.license, one.url) == (version.size, "Apache-2.0", "")
    assert lock.models["inside"].registry == "default"


@pytest.mark.parametrize(
    ("want", "version"),
    [("tiny", 3), ("tiny:2", 2), ("lab/tiny >= 1, < 3", 2), ("tiny!=3", 2), ("tiny==1", 1), ("tiny>=3", 3)],
)
def test_ranges(project, want, version):
    assert zoo("lock", want).code == 0
    assert list(versions(project).values()) == [version]


@pytest.mark.parametrize(
    ("want", "code", "reason"),
    [
        ("tiny>=9", 3, "tiny has no version >=9 in registry 'lab': 1, 2, 3"), ("tiny~=2", 2, "is written as >=2,<4"),
        ("tiny:1>=1", 2, "has a version and a range"), ("tiny>=x", 2, "is written as >=2,<4"),
        ("./tiny", 2, "is a folder"),
        ("nothing", 3, "no model 'nothing'"), ("Tiny", 2, "is not a model reference"),
        ("", 2, "is not a model reference"),
    ],
)  # fmt: skip
def test_what_cannot_be_locked_is_one_line_and_changes_nothing(project, want, code, reason):
    assert zoo("lock", "tiny:1").code == 0
    before = (project / "zoo.lock").read_bytes()
    outcome = zoo("lock", want)
    assert outcome.code == code and reason in outcome.err and outcome.err.count("\n") == 1
    assert (project / "zoo.lock").read_bytes() == before


def test_what_is_locked_stays_until_upgrade(project, tmp_path, made):
    assert zoo("lock", "tiny").code == 0 and versions(project) == {"tiny": 3}
    tiny.registry(tmp_path / "lab", made[3])
    assert zoo("lock", "--check").code == 0
    assert zoo("lock").code == 0 and versions(project) == {"tiny": 3}
    assert zoo("lock", "--upgrade").code == 0 and versions(project) == {"tiny": 4}


def test_a_project_lists_its_models(project):
    (project / "pyproject.toml").write_text('[tool.zoo]\nmodels = ["tiny>=1,<3", "inside"]\n')
    assert zoo("lock").code == 0 and versions(project) == {"inside": 1, "tiny>=1,<3": 2}
    (project / "pyproject.toml").write_text('[tool.zoo]\nmodels = ["tiny:1"]\n')
    outcome = zoo("lock", "--check")
    assert outcome.code == 5 and "the lock is out of date for inside, tiny:1, tiny>=1,<3; run `zoo lock`" in outcome.err
    assert zoo("lock").code == 0 and versions(project) == {"tiny:1": 1} and zoo("lock", "--check").code == 0


@pytest.mark.parametrize(
    "text",
    [
        "[tool",
        '[tool.zoo]\nmodels = "tiny"',
        "[tool.zoo]\nmodels = [1]",
        '[tool.zoo]\nmodel = ["x"]',
        "[tool]\nzoo = 1",
    ],
)
def test_a_project_file_that_is_wrong_is_one_line(project, text):
    (project / "pyproject.toml").write_text(text)
    outcome = zoo("lock")
    assert outcome.code == 4 and "pyproject.toml: " in outcome.err and outcome.err.count("\n") == 1


def test_pull_run_and_load_use_what_is_locked(project, tmp_path, made):
    assert zoo("lock", "tiny<3").code == 0
    pulled = zoo("pull", "--locked", "--json")
    assert pulled.code == 0 and [row["reference"] for row in json.loads(pulled.out)] == ["lab/tiny:2"]
    assert [one.version for one in Store().installed()] == [2]
    assert package.load("tiny", locked=True, isolated=False).manifest.version == 2
    assert package.load("tiny", locked=project / "zoo.lock", isolated=False).manifest.version == 2
    assert package.load("tiny", isolated=False).manifest.version == 3
    assert zoo("pull", "tiny", "--locked").code == 0
    done = zoo("run", "tiny", "double", "--example", "--out", "x.png", "--locked", "--no-isolate", "--json")
    assert done.code == 0 and "tiny:2" in done.out + (project / "x.png").read_bytes().decode("latin-1")


def test_what_is_not_locked_is_an_error(project):
    with pytest.raises(NotFoundError, match=re.escape("there is no zoo.lock; `zoo lock MODEL...` makes one")):
        package.load("tiny", locked=True)
    assert zoo("pull", "--locked").code == 3
    zoo("lock", "tiny:1", "tiny:2")
    for words in (["run", "inside", "--locked"], ["pull", "inside", "--locked"]):
        outcome = zoo(*words)
        assert outcome.code == 3 and "zoo.lock has no model 'inside'; there are tiny:1, tiny:2" in outcome.err
    with pytest.raises(NotFoundError, match="has several models 'tiny': lab/tiny:1, lab/tiny:2; name one"):
        package.load("tiny", locked=True)
    with pytest.raises(UsageError, match="is a folder; only models of registries can be locked"):
        package.load("./tiny", locked=True)
    assert zoo("pull").code == 2


def test_other_bytes_under_a_locked_version_are_refused(project, tmp_path, made):
    """The registry is removed and added again, so that this client has forgotten what it saw."""
    assert zoo("lock", "tiny:2").code == 0
    catalogue.remove("lab")
    shutil.rmtree(tmp_path / "lab")
    tiny.registry(tmp_path / "lab", tiny.bundle(tmp_path / "b" / "forged", version=2, seed=77))
    catalogue.add("lab", str(tmp_path / "lab"))
    for words in (["pull", "--locked"], ["run", "tiny", "--locked", "--example"]):
        outcome = zoo(*words)
        assert outcome.code == 3 and "tiny has no digest" in outcome.err, outcome.err
    outcome = zoo("lock", "--check")
    assert outcome.code == 5 and "tiny has no digest" in outcome.err


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("models:", "<<<<<<< HEAD\nmodels:", "zoo.lock:2: a merge left its marks here; choose one side"),
        ("digest: ", "digest: x", "zoo.lock:3: models.tiny.digest: "),
        ("version: 3", "version: 0", "models.tiny.version"),
        ("version: 3", "version: 3, extra: 1", "unknown field 'extra'"),
        ("name: tiny", "name: other", "models.tiny is locked as lab/other:3"),
        ("tiny:", "tiny<3:", "models.tiny<3 is locked as lab/tiny:3"),
        ("format: 1", "format: 2", "has the format 2; this zoo reads 1"),
        ("models:", "models: &x", "zoo.lock:2"),
    ],
)
def test_a_lock_that_somebody_changed_is_one_line(project, old, new, reason):
    assert zoo("lock", "tiny").code == 0
    file = project / "zoo.lock"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    for words in (["lock", "--check"], ["pull", "--locked"], ["run", "tiny", "--locked"], ["lock"]):
        outcome = zoo(*words)
        assert outcome.code == 4 and reason in outcome.err and outcome.err.count("\n") == 1, (words, outcome.err)
    with pytest.raises(InvalidFileError):
        package.load("tiny", locked=True)


@pytest.mark.parametrize("change", [("size: ", "size: 1"), ("Apache-2.0", "MIT"), ("version: 3", "version: 2")])
def test_check_finds_what_was_edited(project, change):
    assert zoo("lock", "tiny").code == 0
    text = (project / "zoo.lock").read_text()
    (project / "zoo.lock").write_text(text.replace(*change, 1))
    outcome = zoo("lock", "--check")
    assert outcome.code == 5 and outcome.err.count("\n") == 1, outcome.err


def test_a_registry_that_is_not_added_here_is_named_with_its_url(project, tmp_path):
    from tests.http_server import FaultServer

    with FaultServer(tmp_path / "lab") as server:
        catalogue.add("web", server.url())
        assert zoo("lock", "web/tiny").code == 0
        catalogue.remove("web")
        outcome = zoo("pull", "--locked")
        assert outcome.code == 3 and f"no registry 'web'; run: zoo registry add web {server.url()}" in outcome.err
