"""The check of a folder's graphs is remembered, and only that of the same bytes by the same code."""

import shutil

import pytest

from tests import tiny
from zoo.errors import IntegrityError, InvalidFileError
from zoo.store import checked, locate
from zoo.store import prune as pruning
from zoo.store.store import Store

SAME = "double.onnx: leaves out input 1 of Clip, which is not optional"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    checked._code.cache_clear()
    yield tmp_path / "home"
    checked._code.cache_clear()


@pytest.fixture
def folder(tmp_path):
    return tiny.bundle(tmp_path / "one")


@pytest.fixture
def checks(monkeypatch):
    """The findings of the checks to come, and how often there was one."""
    answers, done = [], []

    def check(bundle):
        done.append(bundle.digest)
        return list(answers)

    monkeypatch.setattr(locate, "check_graphs", check)
    return answers, done


def test_a_folder_is_checked_once(folder, checks):
    _, done = checks
    for _ in range(2):
        locate.read_folder(folder, isolated=False)
    assert len(done) == 1


def test_findings_are_not_remembered(folder, checks):
    answers, done = checks
    answers.append(SAME)
    for _ in range(2):
        with pytest.raises(InvalidFileError, match="must not be run"):
            locate.read_folder(folder, isolated=False)
    assert len(done) == 2


def test_another_manifest_is_checked_again(folder, checks):
    _, done = checks
    locate.read_folder(folder, isolated=False)
    (folder / "model.yaml").write_text((folder / "model.yaml").read_text().replace("Doubles", "Doubled"))
    locate.read_folder(folder, isolated=False)
    assert len(set(done)) == 2


def test_other_bytes_under_a_checked_manifest_do_not_run(folder, checks):
    locate.read_folder(folder, isolated=False)
    graph = folder / "double.onnx"
    graph.write_bytes(bytes([graph.read_bytes()[0] ^ 1]) + graph.read_bytes()[1:])
    with pytest.raises(IntegrityError, match=r"double\.onnx does not match its SHA-256"):
        locate.read_folder(folder, isolated=False)


def test_another_check_checks_again(folder, checks, monkeypatch):
    _, done = checks
    locate.read_folder(folder, isolated=False)
    checked._code.cache_clear()
    monkeypatch.setattr(checked, "__version__", "0.0.1")
    locate.read_folder(folder, isolated=False)
    assert len(done) == 2


def test_the_folder_has_no_say(folder, checks, home):
    """What lies in the store counts, not what a stranger puts into the folder."""
    _, done = checks
    locate.read_folder(folder, isolated=False)
    (home / "checked").rename(folder / "checked")
    locate.read_folder(folder, isolated=False)
    assert len(done) == 2


def test_a_store_that_cannot_be_written_remembers_nothing(folder, checks, home):
    _, done = checks
    home.write_text("a file")
    for _ in range(2):
        locate.read_folder(folder, isolated=False)
    assert len(done) == 2


def test_prune_forgets_models_that_are_gone_and_other_checks(folder, checks, home, tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "YOUNG_SECONDS", 0)
    other = tiny.bundle(tmp_path / "other", name="other")
    for path in (folder, other):
        locate.read_folder(path, isolated=False)
    [kept, gone] = sorted((home / "checked" / checked._code()).iterdir(), key=lambda e: b"other" in e.read_bytes())
    older = home / "checked" / "0123456789abcdef"
    older.mkdir()
    shutil.rmtree(other)
    removed = [path for path in pruning.prune(Store(), dry_run=False).paths if not path.startswith("parsed/")]
    assert set(removed) == {str(path.relative_to(home)) for path in (gone, older)}
    assert kept.is_file() and not gone.exists() and not older.exists()
    locate.read_folder(folder, isolated=False)
    assert len(checks[1]) == 2  # it is still remembered


def test_prune_keeps_what_was_just_remembered(folder, checks, home):
    locate.read_folder(folder, isolated=False)
    shutil.rmtree(folder)
    assert pruning.prune(Store(), dry_run=False).paths == ()


def test_prune_removes_what_texts_say_which_is_soon_remembered_again(folder, home, monkeypatch):
    home.mkdir(exist_ok=True)
    locate.read_folder(folder, isolated=False)
    kept = list(home.glob("parsed/*/*.json"))
    assert kept
    assert not [path for path in pruning.prune(Store(), dry_run=False).paths if path.startswith("parsed/")]  # young
    monkeypatch.setattr(pruning, "YOUNG_SECONDS", 0)
    pruning.prune(Store(), dry_run=False)
    assert not any(path.exists() for path in kept)
    locate.read_folder(folder, isolated=False)
    assert list(home.glob("parsed/*/*.json")) == kept
