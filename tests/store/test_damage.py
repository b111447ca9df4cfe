"""Damage on the disk is found and repaired; models are removed, and what nothing needs."""

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.pullers import entry_at
from tests.store.looks import tree
from zoo.errors import IntegrityError
from zoo.formats import registry
from zoo.formats.reference import Reference
from zoo.formats.registry import Entry
from zoo.names import MANIFEST
from zoo.store import blobs
from zoo.store.prune import prune, remove
from zoo.store.store import Store

pytestmark = pytest.mark.usefixtures("hurry")


# --- Damage -----------------------------------------------------------------------------------------------------------


def _overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(5))
def test_every_flipped_bit_is_found_and_its_file_named(store, local, seed):
    installed, dice = store.pull(local), random.Random(seed)
    for _ in range(40):
        path = dice.choice(sorted(installed.folder.iterdir()))
        right = path.read_bytes()
        bit = dice.randrange(len(right) * 8)
        wrong = bytearray(right)
        wrong[bit // 8] ^= 1 << bit % 8
        _overwrite(path, wrong)
        assert [f.split()[0] for f in store.verify(installed)] == [path.name]
        assert [f.split()[0] for f in store.damage(installed)] == [path.name]  # its time has changed
        _overwrite(path, right)
        assert store.verify(installed) == store.damage(installed) == []


@pytest.mark.slow
def test_every_bit_of_a_small_file(store, local):
    installed = store.pull(local)
    path = installed.folder / "double.onnx"
    right = path.read_bytes()
    for bit in range(len(right) * 8):
        wrong = bytearray(right)
        wrong[bit // 8] ^= 1 << bit % 8
        _overwrite(path, wrong)
        assert store.verify(installed) != []


def test_same_size_and_time_is_found_by_verify(store, local):
    installed = store.pull(local)
    path = installed.folder / "model.safetensors"
    _overwrite(path, bytes(path.stat().st_size))
    os.utime(path, (blobs.PUBLISHED, blobs.PUBLISHED))
    assert store.damage(installed) == []
    assert store.verify(installed) != []


@pytest.mark.parametrize("kind", ["truncate", "extend", "missing", "symlink", "fifo", "folder", "swap"])
@pytest.mark.parametrize("name", ["model.safetensors", MANIFEST])
def test_damage_is_refused_at_a_look(store, local, kind, name):
    installed = store.pull(local)
    path = installed.folder / name
    data = path.read_bytes()
    path.unlink()
    match kind:
        case "truncate":
            path.write_bytes(data[:-1])
        case "extend":
            path.write_bytes(data + b"\n")
        case "symlink":
            (installed.folder.parent / "copy").write_bytes(data)
            path.symlink_to(installed.folder.parent / "copy")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "swap":
            path.write_bytes((installed.folder / "README.md").read_bytes())
    assert name in store.damage(installed)[0] and name in store.verify(installed)[0]
    with pytest.raises(IntegrityError, match="was changed since it was pulled"):
        store.find(local.reference)


def test_extra_file_is_found_by_verify(store, local):
    installed = store.pull(local)
    (installed.folder / "sitecustomize.py").touch()
    assert store.verify(installed) == ["sitecustomize.py is not listed in the manifest"]


def test_copied_store_whose_times_changed_still_works(store, local, tmp_path):
    store.pull(local)
    shutil.copytree(store.root, tmp_path / "copy", copy_function=shutil.copyfile)
    copy = Store(tmp_path / "copy")
    assert copy.verify(copy.find(Reference.parse("tiny"))) == []


# --- Removing ---------------------------------------------------------------------------------------------------------


def test_remove_frees_what_no_other_model_needs(store, local):
    one, two = store.pull(Entry(local.registry, "tiny", 1)), store.pull(local)
    shared = {"README.md", "double.onnx"}
    freed = remove(store, one)
    files = Entry(local.registry, "tiny", 1).files
    assert freed == sum(file.size for name, file in files.items() if name not in shared)
    assert store.installed() == [two] and store.verify(two) == []
    assert remove(store, two) == local.size
    assert store.installed() == [] and tree(store.blobs.folder) == {} and list(store.views.iterdir()) == []


def test_model_of_two_registries_stays_until_both_are_removed(store, local):
    other = Entry(registry.Registry("mirror", local.registry.url, local.registry.document), "tiny", 2)
    first, second = store.pull(local), store.pull(other)
    assert remove(store, first) == 0
    assert store.installed() == [second] and store.verify(second) == []
    assert remove(store, second) == local.size


def test_prune_removes_what_is_not_needed_and_nothing_else(store, local, monkeypatch):
    installed = store.pull(local)
    stray = store.blobs.path("a" * 64)
    stray.write_bytes(b"x" * 1000)
    partial = store.blobs.ingests / f"{'b' * 64}.1@h.x"
    partial.write_bytes(b"x" * 500)
    orphan_view = store.views / ("c" * 64)
    shutil.copytree(installed.folder, orphan_view)
    orphan_ref = store.refs / "lab" / "gone" / "1"
    orphan_ref.parent.mkdir()
    orphan_ref.write_text("d" * 64)
    assert prune(store, dry_run=False).paths == ()  # all of it is young
    monkeypatch.setattr("zoo.store.prune.YOUNG_SECONDS", 0)
    would = prune(store, dry_run=True)
    assert len(would.paths) == 4 and stray.exists()
    assert would.bytes == 1000 + 500 + 64 + sum(p.stat().st_size for p in orphan_view.iterdir())
    assert prune(store, dry_run=False) == would
    assert not any(p.exists() for p in (stray, partial, orphan_view, orphan_ref))
    assert store.installed() == [installed] and store.verify(installed) == []
    assert prune(store, dry_run=False).paths == ()


def test_pull_survives_a_prune_in_its_middle(store, server, monkeypatch):
    """The blobs that it has are taken away once, while it fetches the last file."""
    monkeypatch.setattr("zoo.store.prune.YOUNG_SECONDS", 0)
    entry, pruned = entry_at(server.url()), []

    def on_bytes(count):
        if not pruned and store.blobs.path(entry.files["README.md"].sha256).exists():
            pruned.append(prune(store, dry_run=False))

    assert store.verify(store.pull(entry, on_bytes=on_bytes)) == []
    assert pruned[0].paths
