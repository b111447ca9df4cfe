"""The space that a pull needs while it runs: what it will write, compared with what is free before anything is fetched.

What it takes in the end is in test_once.py."""

import errno
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.http_server import FaultServer
from tests.pullers import entry_at
from zoo.errors import StoreError
from zoo.formats.registry import Entry
from zoo.store import blobs, transport
from zoo.store import check_apart as apart
from zoo.store.blobs import Blobs
from zoo.store.store import MARGIN_BYTES, Store
from zoo.text import human_bytes

BALLAST = 400_000


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(apart, "check_apart", lambda folder: [])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    one, two = (tiny.bundle(root / f"{n}", version=n, seed=n, ballast=BALLAST) for n in (1, 2))
    with FaultServer(tiny.registry(root / "registry", one, two)) as server:
        yield server


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def unsupported(*_):
    raise OSError(errno.EOPNOTSUPP, "not here")


@pytest.fixture(params=["hard links", "copies"])
def file_system(request, monkeypatch):
    """Without reflinks; and without hard links either. The store stays as it is when it is largest: before links to the
    view's copies replace the blobs."""
    monkeypatch.setattr(Blobs, "keep_once", lambda *_: {})
    monkeypatch.setattr(blobs, "_reflink", unsupported)
    if request.param == "copies":
        monkeypatch.setattr(blobs, "_hard_link", unsupported)
    return request.param


def written(store: Store) -> int:
    """Bytes of the files in the store, each inode once."""
    files = [path.stat() for path in store.root.rglob("*") if path.is_file()]
    return sum({status.st_ino: status.st_size for status in files}.values())


def assert_need_is_what_is_written(store: Store, entry: Entry) -> None:
    before = written(store)
    need = store._bytes_to_write(entry)
    store.pull(entry)
    references = sum(path.stat().st_size for kind in (store.refs, store.seen) for path in kind.rglob("*/2"))
    assert need == written(store) - before - references > 0


def test_need_of_a_new_model(store, server, file_system):
    entry = entry_at(server.url())
    weights = entry.files["model.safetensors"].size + entry.files["golden.safetensors"].size
    need = store._bytes_to_write(entry)
    assert need == entry.size + (entry.size if file_system == "copies" else weights)
    assert_need_is_what_is_written(store, entry)


def test_need_of_a_version_that_shares_files(store, server, file_system):
    store.pull(entry_at(server.url(), "tiny:1"))
    assert_need_is_what_is_written(store, entry_at(server.url(), "tiny:2"))


def test_need_of_a_view_whose_blobs_are_there(store, server, file_system):
    """Nothing is fetched, but the weights are copied."""
    entry = entry_at(server.url())
    shutil.rmtree(store.pull(entry).folder)
    assert 0 < store._bytes_to_write(entry) < entry.size * 2 and store.missing(entry) == 0
    before = written(store)
    need = store._bytes_to_write(entry)
    store.pull(entry)
    assert need == written(store) - before


def test_need_where_reflinks_work(store, server, monkeypatch):
    monkeypatch.setattr(blobs, "_reflink", lambda blob, target: target.touch())
    entry = entry_at(server.url())
    assert store._bytes_to_write(entry) == entry.size


def free(monkeypatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - count, count))


def test_too_little_space_is_told_before_the_transfer(store, server, file_system, monkeypatch):
    entry = entry_at(server.url())
    need, before = store._bytes_to_write(entry), server.count()
    free(monkeypatch, need + MARGIN_BYTES - 1)
    with pytest.raises(StoreError) as e:
        store.pull(entry)
    assert f"lab/tiny:2 needs {human_bytes(need)} in {store.root}, and 8.4 MB to spare; it has " in str(e.value)
    assert server.count() == before and written(store) == 0
    free(monkeypatch, need + MARGIN_BYTES)
    store.pull(entry)


def test_too_little_space_for_the_view_alone_is_told(store, server, file_system, monkeypatch):
    entry = entry_at(server.url())
    shutil.rmtree(store.pull(entry).folder)
    free(monkeypatch, MARGIN_BYTES)
    with pytest.raises(StoreError, match="needs .* to spare"):
        store.pull(entry)


def test_a_pulled_model_needs_no_space(store, server, monkeypatch):
    entry = entry_at(server.url())
    installed = store.pull(entry)
    free(monkeypatch, 0)
    assert store.pull(entry) == installed


def test_trying_what_the_file_system_can_do_leaves_nothing(store):
    store.blobs.can_share()
    assert list(store.blobs.ingests.iterdir()) == []
    Path(store.root.parent / "file").touch()
    assert Store(store.root.parent / "file").blobs.can_share() == (False, False)
