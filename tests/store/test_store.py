"""Pulling: what comes is the bundle, and what must not come is refused."""

from pathlib import Path

import msgspec
import pytest

from tests import tiny
from tests.pullers import entry_at
from tests.store.looks import tree
from zoo.errors import IntegrityError, InvalidFileError, TransportError
from zoo.formats import manifest, registry
from zoo.formats.reference import Reference
from zoo.formats.registry import Entry
from zoo.names import MANIFEST
from zoo.store import blobs
from zoo.store.prune import forget, prune, remove
from zoo.store.store import Store

pytestmark = pytest.mark.usefixtures("hurry")


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


def test_files_are_read_only_and_those_of_a_view_are_plain(store, local):
    installed = store.pull(local)
    for path in (*installed.folder.iterdir(), *map(store.blobs.find, (f.sha256 for f in local.files.values()))):
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
