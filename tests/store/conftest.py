"""Fixtures of the store's tests. A module with fixtures of the same names uses its own."""

import pytest

from tests import tiny
from tests.http_server import FaultServer
from zoo.formats import manifest, registry
from zoo.formats.reference import Reference
from zoo.store import transport
from zoo.store.store import Store

BALLAST = 400_000


@pytest.fixture
def hurry(monkeypatch):
    """Short waits, and the graph check in this process: in one of its own it takes a second."""
    from zoo.graph import check
    from zoo.store import check_apart as apart

    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(transport, "BACKOFF_MOST_SECONDS", 0.02)
    monkeypatch.setattr(apart, "check_apart", lambda folder: check.check(folder, manifest.read(folder)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A registry with `tiny` 1 and 2, whose graphs, golden cases and README are partly the same files."""
    root = tmp_path_factory.mktemp("registry")
    one = tiny.bundle(root / "one", ballast=BALLAST)
    two = tiny.bundle(root / "two", version=2, seed=2, ballast=BALLAST)
    return tiny.registry(root / "registry", one, two)


@pytest.fixture
def local(folder):
    """The newest entry of the registry as a folder."""
    return registry.resolve(Reference.parse("tiny"), [registry.read(folder, "lab")])


@pytest.fixture
def server(folder):
    with FaultServer(folder, rate=1_500_000) as server:
        yield server


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")
