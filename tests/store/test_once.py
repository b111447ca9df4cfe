"""Weights are kept once where the file system has no reflinks: in the view, which the blob is then a link to."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.pullers import entry_at
from zoo.formats.fields import describe_file
from zoo.formats.registry import Entry, Registry
from zoo.store import blobs
from zoo.store import prune as prunes
from zoo.store.blobs import Blobs
from zoo.store.prune import prune, remove
from zoo.store.store import Store, may_link

pytestmark = pytest.mark.usefixtures("hurry")

WEIGHTS = "model.safetensors"
BLOCK = 4096


def unsupported(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "not here")


@pytest.fixture(params=["hard links", "copies"], autouse=True)
def file_system(request, monkeypatch):
    """Without reflinks; and without hard links either."""
    monkeypatch.setattr(blobs, "_reflink", unsupported)
    if request.param == "copies":
        monkeypatch.setattr(blobs, "_hard_link", unsupported)
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A registry with `tiny` 1, 2 and 3, which have the same weights."""
    root = tmp_path_factory.mktemp("registry")
    versions = [tiny.bundle(root / f"{n}", version=n, ballast=400_000) for n in (1, 2, 3)]
    return tiny.registry(root / "registry", *versions)


@pytest.fixture
def one(local) -> Entry:
    return Entry(local.registry, "tiny", 1)


@pytest.fixture
def two(local) -> Entry:
    return Entry(local.registry, "tiny", 2)


def taken(root: Path) -> int:
    """Bytes that the files of a folder take on the disk, each inode once."""
    files = [path.lstat() for path in root.rglob("*") if not path.is_dir()]
    return sum({status.st_ino: status.st_blocks * 512 for status in files}.values())


def rounding(store: Store) -> int:
    """Bytes that the files of a store may take because each takes whole blocks."""
    return BLOCK * sum(1 for path in store.root.rglob("*") if not path.is_dir())


def blob_of(store: Store, entry: Entry, name: str = WEIGHTS) -> Path:
    return store.blobs.path(entry.files[name].sha256)


def overwrite(path: Path, data: bytes) -> None:
    """As a disk that fails: neither size nor time changes."""
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)
    os.utime(path, (blobs.PUBLISHED, blobs.PUBLISHED))


def assert_right(store: Store, *entries: Entry) -> None:
    """These models are there; their weights have one name, and all blobs are found and right."""
    assert [i.version for i in store.installed()] == sorted(entry.version for entry in entries)
    for installed in store.installed():
        assert store.verify(installed) == []
        assert {path.lstat().st_nlink for path in installed.folder.glob("*.safetensors")} == {1}
    for blob in store.blobs.folder.iterdir():
        assert describe_file(blob).sha256 == blob.name
    assert list(store.blobs.ingests.iterdir()) == []


# --- The space --------------------------------------------------------------------------------------------------------


def test_a_pull_takes_the_bytes_of_the_model(store, one):
    installed = store.pull(one)
    assert_right(store, one)
    assert one.size <= taken(store.root) <= one.size + rounding(store) < one.size + one.files[WEIGHTS].size
    assert str(blob_of(store, one).readlink()) == f"../views/{one.digest}/{WEIGHTS}"
    assert store.blobs.find(one.files[WEIGHTS].sha256) == installed.folder / WEIGHTS
    assert store.missing(one) == sum(store.blobs.missing(f.sha256, f.size) for f in one.files.values()) == 0


def test_a_model_with_the_same_weights_fetches_none_and_has_its_own(store, one, two, folder, server):
    store.pull(entry_at(server.url(), "tiny:1"))
    entry, before = entry_at(server.url(), "tiny:2"), server.sent()
    store.pull(entry)
    assert server.sent() - before < entry.files[WEIGHTS].size
    assert_right(store, one, two)
    assert taken(store.root) <= 2 * one.size + rounding(store) < 3 * one.files[WEIGHTS].size


def test_nothing_changes_where_reflinks_work(store, one, file_system, monkeypatch):
    monkeypatch.setattr(blobs, "_reflink", shutil.copy2)  # what a reflink looks like
    store.pull(one)
    assert not any(blob.is_symlink() for blob in store.blobs.folder.iterdir())
    assert prune(store, dry_run=False).paths == ()


def test_weights_are_kept_twice_where_there_are_no_symbolic_links(store, one, monkeypatch):
    monkeypatch.setattr(os, "symlink", unsupported)
    store.pull(one)
    assert_right(store, one)
    assert not blob_of(store, one).is_symlink()
    assert prune(store, dry_run=False).paths == ()


# --- Removing ---------------------------------------------------------------------------------------------------------


def test_weights_are_found_in_the_view_that_is_left(store, one, two, local, server):
    installed = store.pull(one)
    store.pull(two)
    remove(store, installed)
    assert str(blob_of(store, two).readlink()) == f"../views/{two.digest}/{WEIGHTS}"
    entry, before = entry_at(server.url()), server.sent()
    store.pull(entry)
    assert server.sent() - before < entry.files[WEIGHTS].size
    assert_right(store, two, local)
    for left in store.installed():
        remove(store, left)
    assert list(store.blobs.folder.iterdir()) == list(store.views.iterdir()) == []


def test_a_link_that_leads_nowhere_is_as_no_blob(store, one, two, monkeypatch):
    monkeypatch.setattr(prunes, "YOUNG_SECONDS", 0)
    shutil.rmtree(store.pull(one).folder)
    assert store.blobs.find(one.files[WEIGHTS].sha256) is None
    assert store.missing(two) >= two.files[WEIGHTS].size
    (store.refs / "lab" / "tiny" / "1").unlink()
    store.pull(two)
    prune(store, dry_run=False)  # what only the other one had
    assert_right(store, two)


def test_prune_points_a_link_to_a_view_that_is_left(store, one, two, monkeypatch):
    monkeypatch.setattr(prunes, "YOUNG_SECONDS", 0)
    view = store.pull(one).folder
    store.pull(two)
    (store.refs / "lab" / "tiny" / "1").unlink()
    shutil.rmtree(view)
    assert blob_of(store, one).name not in str(prune(store, dry_run=False).paths)
    assert_right(store, two)


# --- Damage -----------------------------------------------------------------------------------------------------------


def test_damage_of_the_only_copy_is_found_and_repaired(store, one, two, server):
    entry = entry_at(server.url(), "tiny:1")
    installed, weights = store.pull(entry), store.view(one.digest) / WEIGHTS
    overwrite(weights, bytes(weights.stat().st_size))
    assert store.verify(installed) == [f"{WEIGHTS} does not match its SHA-256 {one.files[WEIGHTS].sha256[:12]}…"]
    before = server.sent()
    store.pull(entry_at(server.url(), "tiny:2"))  # takes nothing from there
    assert server.sent() - before > one.files[WEIGHTS].size
    assert store.verify(store.installed()[1]) == []
    os.utime(weights)  # what `zoo run` and `zoo pull` look at
    before = server.sent()
    store.pull(entry)
    assert server.sent() == before  # the other model had them
    assert_right(store, one, two)


def test_a_blob_is_not_replaced_by_a_link_to_other_bytes(store, one, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(Blobs, "keep_once", lambda *_, **__: {})
        view = store.pull(one).folder
    overwrite(view / WEIGHTS, bytes(one.files[WEIGHTS].size))
    assert blob_of(store, one).name not in str(prune(store, dry_run=False).paths)
    assert describe_file(blob_of(store, one)).sha256 == one.files[WEIGHTS].sha256


@pytest.mark.parametrize(
    "link",
    ["/etc/hostname", "../../etc/hostname", "../views/x/y", "../views/{}/..", "../views/{}/../{}/README.md",
     "../views/{}/", "../views/{}/README.md\n", "README.md"],
)  # fmt: skip
def test_a_link_to_anything_else_is_not_followed(store, one, link):
    store.pull(one)
    blob = blob_of(store, one, "README.md")
    blob.unlink()
    blob.symlink_to(link.replace("{}", one.digest))
    assert store.blobs.find(blob.name) is None
    store.blobs.ensure(blob.name, one.files["README.md"].size, one.registry.file_url(one.files["README.md"]), print)
    assert not blob.is_symlink() and describe_file(blob).sha256 == blob.name


def test_a_link_through_a_linked_folder_is_not_followed(store, one, tmp_path):
    store.pull(one)
    blob, other = blob_of(store, one, "README.md"), tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_bytes(b"elsewhere")
    (store.blobs.folder.parent / "views" / ("a" * 64)).symlink_to(other)
    blob.unlink()
    blob.symlink_to(f"../views/{'a' * 64}/README.md")
    assert store.blobs.find(blob.name) is None


@pytest.mark.parametrize("file_system", ["hard links"], indirect=True)
def test_the_only_copy_never_gets_a_second_name(store, one, tmp_path, monkeypatch):
    """Also if a blob becomes a link just when it is to be hard-linked."""
    view = store.pull(one).folder
    sha256 = one.files[WEIGHTS].sha256
    store.blobs.place(sha256, tmp_path / "weights")
    assert (view / WEIGHTS).lstat().st_nlink == (tmp_path / "weights").lstat().st_nlink == 1
    monkeypatch.setattr(Blobs, "find", lambda self, sha256: self.path(sha256))
    with pytest.raises(FileNotFoundError):
        store.blobs.place(sha256, tmp_path / "again")
    assert not (tmp_path / "again").is_symlink()


# --- Older stores -----------------------------------------------------------------------------------------------------


def test_a_store_of_an_older_zoo(store, one, two, local, file_system, monkeypatch):
    """It works as it is; `zoo prune` frees the second copies."""
    with monkeypatch.context() as older:
        older.setattr(Blobs, "keep_once", lambda *_, **__: {})
        store.pull(one)
        store.pull(two)
    assert_right(store, one, two)
    store.pull(local)
    assert_right(store, one, two, local)
    before, would = taken(store.root), prune(store, dry_run=True)
    assert taken(store.root) == before
    copied = {
        f.sha256: f.size for e in (one, two) for n, f in e.files.items() if file_system == "copies" or not may_link(n)
    }
    assert prune(store, dry_run=False) == would
    assert set(would.paths) <= {f"blobs/{sha256}" for sha256 in copied} and would.bytes <= sum(copied.values())
    assert before - taken(store.root) >= would.bytes - BLOCK * len(would.paths)  # a link takes a block
    assert not any(b.lstat().st_nlink == 1 and not b.is_symlink() for b in store.blobs.folder.iterdir())
    assert_right(store, one, two, local)
    assert prune(store, dry_run=False).paths == ()


def test_a_model_of_two_registries_is_kept_once(store, one):
    mirror = Entry(Registry("mirror", one.registry.url, one.registry.document), "tiny", 1)
    first, second = store.pull(one), store.pull(mirror)
    assert taken(store.root) < one.size + one.files[WEIGHTS].size
    remove(store, first)
    assert store.installed() == [second] and store.verify(second) == []
    assert blob_of(store, one).exists()
