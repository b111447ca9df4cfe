import errno
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import pytest

from tests import tiny
from tests.children import running
from tests.http_server import FaultServer, Ration
from tests.pullers import entry_at, hold_lock, only_read, processes, pull
from zoo.errors import IntegrityError, InvalidFileError, NotFoundError, StoreError, TransportError
from zoo.formats import manifest, registry
from zoo.formats.reference import Reference
from zoo.formats.registry import Entry
from zoo.names import MANIFEST
from zoo.store import blobs, transport
from zoo.store.prune import forget, prune, remove
from zoo.store.store import Store

BALLAST = 400_000


@pytest.fixture(autouse=True)
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


def tree(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def assert_only_right_models_are_visible(store: Store) -> None:
    for installed in store.installed():
        assert store.verify(installed) == []
    for blob in store.blobs.folder.glob("*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


# --- Pulling ----------------------------------------------------------------------------------------------------------


def test_pulled_model_is_the_bundle(store, local, folder):
    arrived = []
    installed = store.pull(local, on_bytes=arrived.append)
    assert tree(installed.folder) == tree(folder / "models" / "tiny" / "2")
    assert (installed.registry, installed.name, installed.version, installed.digest) == ("lab", "tiny", 2, local.digest)
    assert sum(arrived) == local.size
    assert store.installed() == [installed]
    assert store.find(Reference.parse("tiny")) == store.find(local.reference) == installed
    assert store.missing(local) == 0
    assert list(store.blobs.ingests.iterdir()) == []


def test_files_are_read_only_plain_and_no_symlinks(store, local):
    installed = store.pull(local)
    for path in (*installed.folder.iterdir(), *store.blobs.folder.iterdir()):
        status = path.lstat()
        assert status.st_mode & 0o777 == 0o444 and not path.is_symlink() and status.st_mtime == blobs.PUBLISHED


def test_second_pull_asks_nobody_and_writes_nothing(store, server):
    entry = entry_at(server.url())
    store.pull(entry)
    before, times = server.count(), {p: p.lstat().st_ctime_ns for p in store.root.rglob("*")}
    store.pull(entry)
    assert server.count() == before
    assert {p: p.lstat().st_ctime_ns for p in store.root.rglob("*")} == times


def test_other_version_fetches_only_other_files(store, server):
    store.pull(entry_at(server.url(), "tiny:1"))
    entry = entry_at(server.url(), "tiny:2")
    missing, before = store.missing(entry), server.sent()
    assert missing < entry.size
    store.pull(entry)
    assert server.sent() - before == missing
    assert [i.version for i in store.installed()] == [1, 2]
    assert store.find(Reference.parse("tiny")).version == 2
    assert store.find(Reference.parse("tiny:1")).version == 1
    assert store.find(Reference.parse("tiny:3")) is None


@pytest.mark.parametrize("behaviour", ["wrong_bytes", "flipped_bit", "html_of_right_size", "shifted_range"])
def test_wrong_bytes_are_refused_and_leave_nothing(store, server, behaviour):
    entry = entry_at(server.url())
    bad = Entry(registry.parse((server.read("registry.yaml")), "lab", server.url(behaviour=behaviour)), "tiny", 2)
    if behaviour == "shifted_range":  # right in the end: fetched once more, from its start
        server.counts.clear()
        assert store.verify(store.pull(bad)) == []
        return
    with pytest.raises(IntegrityError) as e:
        store.pull(bad)
    assert f"{behaviour}/models/tiny/2/model.yaml has the SHA-256" in str(e.value) and "lab/tiny:2: model.yaml" in str(
        e.value
    )
    if behaviour == "html_of_right_size":
        assert "it is an HTML page" in str(e.value)
    assert store.installed() == [] and tree(store.blobs.folder) == {}
    assert list(store.blobs.ingests.iterdir()) == []
    assert store.verify(store.pull(entry)) == []


def test_file_that_changed_between_two_requests_is_fetched_again(store, server):
    entry = Entry(
        registry.parse(server.read("registry.yaml"), "lab", server.url(behaviour="changed_between_tries")), "tiny", 2
    )
    assert store.verify(store.pull(entry)) == []


def test_interrupted_pull_goes_on_where_it_stopped(store, server):
    broken = Entry(registry.parse(server.read("registry.yaml"), "lab", server.url(behaviour="cut_always")), "tiny", 2)
    with pytest.raises(TransportError, match="connection cut at"):
        store.pull(broken)
    entry = entry_at(server.url())
    missing, before = store.missing(entry), server.sent()
    assert missing < entry.size and store.installed() == []
    assert store.verify(store.pull(entry)) == []
    assert server.sent() - before == missing
    assert list(store.blobs.ingests.iterdir()) == []


@pytest.mark.parametrize("wrong", [b"", b"x" * 1000, b"x" * 1_000_000])
def test_partial_of_other_bytes_costs_one_more_fetch(store, server, wrong):
    """Empty, shorter, and longer than the file."""
    entry = entry_at(server.url())
    sha256 = entry.files["model.safetensors"].sha256
    store.blobs.ingests.mkdir(parents=True)
    (store.blobs.ingests / f"{sha256}.1@elsewhere.x").write_bytes(wrong)
    assert store.verify(store.pull(entry)) == []
    assert list(store.blobs.ingests.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "folder", "symlink"])
def test_damaged_blob_is_fetched_again_before_it_is_shown(store, local, damage):
    store.pull(Entry(local.registry, "tiny", 1))
    file = local.files["README.md"]
    blob = store.blobs.path(file.sha256)
    data = blob.read_bytes()
    blob.unlink()
    if damage == "folder":
        blob.mkdir()
        (blob / "x").touch()
    elif damage == "symlink":
        blob.symlink_to("/etc/hostname")
    else:
        blob.write_bytes({"flip": b"?" + data[1:], "truncate": data[:-1], "extend": data + b"!"}[damage])
    assert store.verify(store.pull(local)) == []
    assert blob.read_bytes() == data and not blob.is_symlink()


def test_damaged_view_is_mended_by_a_pull(store, local):
    installed = store.pull(local)
    (installed.folder / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"model\.safetensors is missing; `zoo pull lab/tiny:2` repairs it"):
        store.find(local.reference)
    assert store.pull(local) == installed
    assert store.verify(installed) == []


# --- What is refused --------------------------------------------------------------------------------------------------


def test_published_version_with_another_digest_is_refused(store, local, folder, tmp_path):
    store.pull(local)
    changed = tiny.registry(tmp_path / "changed", tiny.bundle(tmp_path / "b", version=2, seed=9))
    other = registry.resolve(Reference.parse("tiny:2"), [registry.read(changed, "lab")])
    for _ in range(2):
        with pytest.raises(IntegrityError) as e:
            store.pull(other)
        assert local.digest in str(e.value) and other.digest in str(e.value)
        for installed in store.installed():
            remove(store, installed)  # also when it is no longer here
    forget(store, "lab")
    store.pull(other)


def test_reference_that_appears_meanwhile_with_another_digest_is_refused(store, local, monkeypatch):
    ref = store.refs / "lab" / "tiny" / "2"
    show = Store._show

    def race(self, *args):
        show(self, *args)
        ref.parent.mkdir(parents=True)
        ref.write_text("0" * 64 + "\n")

    monkeypatch.setattr(Store, "_show", race)
    with pytest.raises(IntegrityError, match="0" * 64):
        store.pull(local)


def _published(root: Path, bundle: Path, change) -> Entry:
    """An entry whose registry was changed by `change(files)` after publication."""
    folder = tiny.registry(root, bundle)
    document = registry.read(folder, "lab").document
    files = document.models["tiny"].versions[1].files
    change(files)
    return Entry(registry.Registry("lab", (folder / "registry.yaml").as_uri(), document), "tiny", 1)


def test_registry_and_manifest_must_agree(store, tmp_path):
    bundle = tiny.bundle(tmp_path / "b")

    def other_size(files):
        files["README.md"] = registry.RegistryFile(size=1, sha256=files["README.md"].sha256, url="x")

    def one_more(files):
        files["extra.bin"] = files["README.md"]

    def one_less(files):
        del files["README.md"]

    for n, (change, name) in enumerate([(other_size, "README.md"), (one_more, "extra.bin"), (one_less, "README.md")]):
        with pytest.raises(IntegrityError, match=f"differ on {name}"):
            store.pull(_published(tmp_path / f"r{n}", bundle, change))
    assert store.installed() == []


def test_manifest_of_another_model_is_refused(store, tmp_path):
    folder = tiny.registry(tmp_path / "r", tiny.bundle(tmp_path / "b", name="other"))
    document = registry.read(folder, "lab").document
    document.models["tiny"] = document.models["other"]
    entry = Entry(registry.Registry("lab", (folder / "registry.yaml").as_uri(), document), "tiny", 1)
    with pytest.raises(IntegrityError, match="belongs to other:1"):
        store.pull(entry)


def test_dangerous_graph_never_becomes_visible(store, tmp_path):
    bundle = tiny.bundle(tmp_path / "b")
    tiny.write_graph(bundle / "double.onnx", 0, 4, location="../../../etc/passwd")
    m = manifest.read(bundle)
    files = m.files | {"double.onnx": manifest.describe_file(bundle / "double.onnx")}
    (bundle / MANIFEST).write_bytes(manifest.dump(msgspec.structs.replace(m, files=files)))
    entry = _published(tmp_path / "r", bundle, lambda files: None)
    with pytest.raises(InvalidFileError, match=r"must not be run: .*passwd"):
        store.pull(entry)
    assert store.installed() == [] and list(store.views.iterdir()) == []


HOSTILE_DIGESTS = ["", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "/etc/passwd", "a" * 63 + "\0",
                   "\uff41" * 64, "sha256:" + "a" * 64, "." * 64, "a" * 32 + "/" + "b" * 31]  # fmt: skip


@pytest.mark.parametrize("digest", HOSTILE_DIGESTS)
def test_only_a_digest_becomes_a_path(store, digest):
    with pytest.raises(IntegrityError, match="is not a SHA-256"):
        store.blobs.path(digest)
    (store.refs / "lab" / "tiny").mkdir(parents=True)
    (store.refs / "lab" / "tiny" / "1").write_text(digest)
    assert store.installed() == [] or digest.strip() == "a" * 64
    prune(store, dry_run=True)


@pytest.mark.parametrize("name", ["..", "../x", "/x", "", "A", "a b", ".hidden", "x" * 65, "a\n", "con/../x"])
def test_only_a_name_becomes_a_path(store, local, name):
    bad = Entry(registry.Registry(name, local.registry.url, local.registry.document), "tiny", 2)
    with pytest.raises(InvalidFileError, match="not the name of a model"):
        store.pull(bad)
    assert not store.root.exists()


# --- The disk ---------------------------------------------------------------------------------------------------------


def test_full_disk_keeps_what_came_and_the_next_pull_goes_on(store, server, tmp_path, capfd):
    entry = entry_at(server.url())
    process = pulling(server.url(), store.root, most_bytes=250_000)
    with running(process):
        process.join()
    assert process.exitcode == StoreError.exit_code
    assert store.installed() == []
    missing, before = store.missing(entry), server.sent()
    assert missing == entry.size - sum(
        f.size for n, f in entry.files.items() if n < "model.safetensors"
    ) - 250_000 - 0 or (0 < missing <= entry.size - 250_000)
    assert len(list(store.blobs.ingests.iterdir())) == 1
    assert store.verify(store.pull(entry)) == []
    assert server.sent() - before == missing


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_error_of_the_disk_names_path_and_cause(store, local, monkeypatch, code):
    def fail(fd, data):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(StoreError, match=os.strerror(code)) as e:
        store.pull(local)
    assert str(store.root) in str(e.value)
    monkeypatch.undo()
    assert store.installed() == []


def test_short_writes_are_completed(store, local, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: max(1, len(data) // 2)]))
    assert store.verify(store.pull(local)) == []


def test_store_that_is_a_file(tmp_path, local):
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*store"):
        Store(tmp_path / "store").pull(local)


@pytest.mark.parametrize("missing", [{"_reflink"}, {"_reflink", "_hard_link"}, {"publish"}])
def test_file_system_without_reflinks_or_hard_links(store, local, monkeypatch, missing):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")

    if missing == {"publish"}:
        monkeypatch.setattr(os, "link", unsupported)
    for name in missing - {"publish"}:
        monkeypatch.setattr(blobs, name, unsupported)
    installed = store.pull(local)
    assert store.verify(installed) == [] and store.damage(installed) == []
    links = (installed.folder / "double.onnx").stat().st_nlink
    assert links == (2 if missing == {"_reflink"} else 1)
    # ONNX Runtime refuses a loop's weights in a file that has several hard links.
    assert (installed.folder / "model.safetensors").stat().st_nlink == 1


def test_a_pulled_model_whose_loop_has_weights_runs(tmp_path, store, monkeypatch):
    """On a file system without reflinks too."""

    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")

    import msgspec
    import numpy as np
    import onnx

    from zoo.run.model import Model
    from zoo.store.locate import Bundle

    bundle = tiny.bundle(tmp_path / "looping", name="looping")
    model = onnx.load(bundle / "double.onnx", load_external_data=False)
    graph = model.graph
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n] product) => (float[n] once)
      <int64 one = {1}, bool go = {1}> { once = Loop(one, go, levels) <body = b (int64 i, bool c, float[n] a)
        => (bool d, float[n] y) { d = Identity(c) y = Mul(a, scale) }> }"""
    parsed = onnx.parser.parse_model(text).graph
    parsed.node[0].output[0] = "product"
    parsed.node[0].attribute[0].g.initializer.append(next(t for t in graph.initializer if t.name == "scale"))
    kept = [t for t in graph.initializer if t.name != "scale"]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *parsed.initializer])
    graph.node[1].CopyFrom(parsed.node[0])
    onnx.save_model(model, bundle / "double.onnx")
    said = manifest.read(bundle)
    files = said.files | {"double.onnx": manifest.describe_file(bundle / "double.onnx")}
    (bundle / MANIFEST).write_bytes(manifest.dump(msgspec.structs.replace(said, files=files)))
    folder = tiny.registry(tmp_path / "reg", bundle)
    entry = registry.resolve(Reference.parse("looping"), [registry.read(folder, "lab")])
    monkeypatch.setattr(blobs, "_reflink", unsupported)
    installed = store.pull(entry)
    pulled = Model(Bundle(installed.folder, manifest.read(installed.folder), installed.digest, "looping"), "cpu")
    assert pulled.double(image=np.full((1, 2, 2, 1), 21, np.uint8))["doubled"].max() == 42


@pytest.mark.parametrize("name", ["a b", "ü", "x" * 250, "-n", "'\"$(x)"])
def test_store_at_an_odd_path(tmp_path, local, name):
    store = Store(tmp_path / name)
    assert store.verify(store.pull(local)) == []


def test_umask_does_not_matter(store, local):
    before = os.umask(0o077)
    try:
        installed = store.pull(local)
    finally:
        os.umask(before)
    assert store.verify(installed) == []


def test_home_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "b"))
    assert Store().root == tmp_path / "a"
    monkeypatch.delenv("ZOO_HOME")
    assert Store().root == tmp_path / "b" / "zoo"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store().root == tmp_path / ".local" / "share" / "zoo"


def test_reading_writes_nothing_and_asks_nobody(store, local):
    store.pull(local)
    process = processes.Process(target=only_read, args=(store.root, "tiny"))
    with running(process):
        process.join()
    assert process.exitcode == 0


def test_reading_an_absent_store_makes_none(store, local):
    assert store.installed() == [] and store.find(local.reference) is None and store.missing(local) == local.size
    assert prune(store, dry_run=False).paths == ()
    assert not store.root.exists()


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


def on_disk(name: str, size: int) -> int:
    """Bytes of a file in the store without reflinks: weights lie there twice, as blob and in the view."""
    return size * (2 if name.endswith(".safetensors") else 1)


def test_remove_frees_what_no_other_model_needs(store, local):
    one, two = store.pull(Entry(local.registry, "tiny", 1)), store.pull(local)
    shared = {"README.md", "double.onnx"}
    freed = remove(store, one)
    files = Entry(local.registry, "tiny", 1).files
    assert freed == sum(on_disk(name, file.size) for name, file in files.items() if name not in shared)
    assert store.installed() == [two] and store.verify(two) == []
    assert remove(store, two) == sum(on_disk(name, file.size) for name, file in local.files.items())
    assert store.installed() == [] and tree(store.blobs.folder) == {} and list(store.views.iterdir()) == []


def test_model_of_two_registries_stays_until_both_are_removed(store, local):
    other = Entry(registry.Registry("mirror", local.registry.url, local.registry.document), "tiny", 2)
    first, second = store.pull(local), store.pull(other)
    assert remove(store, first) == 0
    assert store.installed() == [second] and store.verify(second) == []
    assert remove(store, second) == sum(on_disk(name, file.size) for name, file in local.files.items())


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


# --- Many processes, and their end ------------------------------------------------------------------------------------


def pulling(url: str, root: Path, *args: object, **kwargs: object) -> BaseProcess:
    return processes.Process(target=pull, args=(url, root, *args), kwargs=kwargs)


@pytest.mark.parametrize("locks", ["real", "none", "missing"])
def test_processes_that_pull_at_once(store, server, locks):
    pulls = [pulling(server.url(behaviour="slow"), store.root, f"tiny:{1 + n % 2}", locks=locks) for n in range(8)]
    with running(*pulls):
        for process in pulls:
            process.join()
    assert [process.exitcode for process in pulls] == [0] * 8
    assert_only_right_models_are_visible(store)
    assert [i.version for i in store.installed()] == [1, 2]
    assert list(store.blobs.ingests.iterdir()) == []
    if locks == "real":
        sizes = {f.sha256: f.size for v in (1, 2) for f in entry_at(server.url(), f"tiny:{v}").files.values()}
        assert server.sent() - server.sent("registry.yaml") == sum(sizes.values())  # each blob once


def kill_after(sent: int, server: FaultServer, store: Store, how: int = signal.SIGKILL, *, stored: int = 0) -> None:
    """Starts a pull, and kills it when the server has sent it so many bytes, and sends no more.

    Args:
        stored: and when the store holds so many bytes more.
    """
    entry = entry_at(server.url())
    missing = store.missing(entry)
    server.ration = Ration(sent)
    process = pulling(server.url(behaviour="rationed"), store.root)
    with running(process):
        while process.is_alive() and not (server.ration.spent.is_set() and missing - store.missing(entry) >= stored):
            time.sleep(0.001)
        os.kill(process.pid, how)
        process.join()
    server.ration.over.set()
    assert process.exitcode not in (0, None), "the pull ended before the kill"


def kill_and_pull_again(store: Store, server: FaultServer, dice: random.Random, how: int) -> None:
    """Kills a pull somewhere in its transfer. Then everything must hold."""
    entry = entry_at(server.url())
    kill_after(dice.randrange(1, entry.size), server, store, how)
    assert_only_right_models_are_visible(store)
    missing, since = store.missing(entry), len(server.requests)
    assert store.verify(store.pull(entry)) == []
    assert server.sent(since=since) == missing  # not a byte twice
    assert list(store.blobs.ingests.iterdir()) == []


def test_killed_pulls_leave_nothing_wrong_and_go_on(tmp_path, server):
    dice = random.Random(1)
    for n in range(15):
        kill_and_pull_again(Store(tmp_path / f"{n}"), server, dice, signal.SIGKILL)


@pytest.mark.slow
def test_killed_pulls_many_times(tmp_path, server):
    dice = random.Random(2)
    ways = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    for n in range(100):
        kill_and_pull_again(Store(tmp_path / f"{n}"), server, dice, ways[n % 3])


def test_pull_that_is_killed_again_and_again_gets_on_and_keeps_one_partial(store, server, folder):
    entry = entry_at(server.url())
    missing, registry_size = [entry.size], (folder / "registry.yaml").stat().st_size
    for _ in range(3):
        kill_after(110_000, server, store, stored=110_000 - registry_size)
        missing.append(store.missing(entry))
        assert len(store.blobs._partials(entry.files["model.safetensors"].sha256)) <= 1
    assert [before - after for before, after in zip(missing, missing[1:])] == [110_000 - registry_size] * 3


def test_lock_of_a_killed_process_is_free_at_once(store, local):
    ready = processes.Event()
    sha256 = local.files["model.safetensors"].sha256
    with running(processes.Process(target=hold_lock, args=(store.root, sha256, ready))):
        assert ready.wait(60)
    assert store.verify(store.pull(local)) == []


def test_lock_of_a_stopped_process_is_told_and_not_waited_for(store, local, monkeypatch, caplog):
    monkeypatch.setattr(blobs, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(blobs, "PATIENCE_SECONDS", 0.3)
    # A library's logging set-up in another test disables loggers.
    monkeypatch.setattr(logging.getLogger("zoo"), "disabled", False)
    ready = processes.Event()
    holder = processes.Process(target=hold_lock, args=(store.root, local.files["model.safetensors"].sha256, ready))
    with running(holder):
        assert ready.wait(60)
        os.kill(holder.pid, signal.SIGSTOP)
        assert store.verify(store.pull(local)) == []
    assert "waiting for another process" in caplog.text and "continuing without it" in caplog.text


def test_missing_source_is_a_transport_error(store, local, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "r")
    (tmp_path / "r" / "models" / "tiny" / "2" / "README.md").unlink()
    entry = Entry(registry.read(tmp_path / "r", "lab"), "tiny", 2)
    with pytest.raises(TransportError, match=r"README\.md is missing"):
        store.pull(entry)
    with pytest.raises(NotFoundError):
        registry.read(tmp_path / "nowhere", "lab")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_file_operation_that_fails_once_or_for_ever(tmp_path, folder):
    if not shutil.which("gcc"):
        pytest.skip("gcc compiles what makes the calls fail")
    here = Path(__file__).parents[1]
    shim = tmp_path / "failing_calls.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, here / "failing_calls.c", "-ldl"], check=True)
    memory = Path("/dev/shm")  # where an fsync costs nothing
    with (
        FaultServer(folder) as server,
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as work,
    ):
        done = subprocess.run(
            [sys.executable, "-m", "tests.sweep", server.url(), work],
            env=os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": str(here.parent)},
            capture_output=True,
            text=True,
            cwd=here.parent,
        )
    *broken, count = done.stdout.splitlines()
    assert done.returncode == 0 and broken == []
    assert json.loads(count)["faults"] > 100, "the sweep hit too little"
