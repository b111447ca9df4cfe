"""The list of added registries under several processes at once: no change is lost, or it is an error."""

import errno
import fcntl
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

import pytest

from tests import tiny
from tests.children import started
from zoo.errors import StoreError, UsageError
from zoo.store import catalogue

CHANGE = "import sys; from zoo.store import catalogue; getattr(catalogue, sys.argv[1])(*sys.argv[2:])"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    return tiny.registry(root / "lab", tiny.bundle(root / "b"))


def changed(*changes: tuple[object, ...]) -> list[int]:
    """The exit codes of processes that change the list, all at once."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(started([sys.executable, "-c", CHANGE, *change], stderr=PIPE)) for change in changes
        ]
        for child in children:
            child.communicate(timeout=120)
    return [child.returncode for child in children]


@pytest.mark.slow
def test_registries_added_at_once_are_all_kept(folder):
    assert changed(*(("add", f"n{n}", folder) for n in range(16))) == [0] * 16
    assert set(catalogue.added()) == {f"n{n}" for n in range(16)}


@pytest.mark.slow
def test_registries_added_and_removed_at_once(folder):
    for n in range(6):
        catalogue.add(f"old{n}", str(folder))
    removals = [("remove", f"old{n}") for n in range(6)]
    assert changed(*(change for n in range(6) for change in (("add", f"n{n}", folder), removals[n]))) == [0] * 12
    assert set(catalogue.added()) == {f"n{n}" for n in range(6)}


def test_one_name_for_two_places_at_once_is_kept_for_one(folder, tmp_path):
    places = [tiny.registry(tmp_path / f"r{n}", folder / "models/tiny/1") for n in range(6)]
    codes = changed(*(("add", "lab", place) for place in places))
    assert sorted(code == 0 for code in codes) == [False] * 5 + [True]
    assert catalogue.added() == {"lab": (places[codes.index(0)] / "registry.yaml").as_uri()}


def test_a_name_taken_while_the_registry_is_read_is_refused(folder, tmp_path, monkeypatch):
    read = catalogue._read

    def slow(name, url, **options):
        monkeypatch.setattr(catalogue, "_read", read)
        catalogue.add("lab", str(tiny.registry(tmp_path / "other", folder / "models/tiny/1")))
        return read(name, url, **options)

    monkeypatch.setattr(catalogue, "_read", slow)
    with pytest.raises(UsageError, match="there is already a registry 'lab'"):
        catalogue.add("lab", str(folder))
    assert "other" in catalogue.added()["lab"]


def test_without_locks_it_is_an_error(folder, monkeypatch):
    def missing(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(StoreError, match=r"cannot lock .*registries\.lock: Operation not supported"):
        catalogue.add("lab", str(folder))
    assert catalogue.added() == {}


def test_a_lock_that_stays_taken_is_an_error(folder, home, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(catalogue, "LOCK_SECONDS", 0.2)
    home.mkdir()
    with FileLock(home / "registries.lock", is_singleton=False), pytest.raises(StoreError, match="has been changing"):
        catalogue.add("lab", str(folder))
    catalogue.add("lab", str(folder))
    assert set(catalogue.added()) == {"lab"}
