"""Disks that are full, read-only or odd, and a store that is only read."""

import errno
import os

import msgspec
import pytest

from tests import tiny
from tests.children import running
from tests.pullers import entry_at, only_read, processes, pulling
from zoo.errors import StoreError
from zoo.formats import manifest, registry
from zoo.formats.reference import Reference
from zoo.names import MANIFEST
from zoo.store import blobs
from zoo.store.prune import prune
from zoo.store.store import Store

pytestmark = pytest.mark.usefixtures("hurry")


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
