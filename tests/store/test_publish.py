"""Publishing: all or nothing, the same bundle twice, other bytes never, killed and racing publishers."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from tests import tiny
from tests.children import started
from zoo.errors import IntegrityError, InvalidFileError, NotFoundError, StoreError
from zoo.formats import manifest as manifests
from zoo.formats import registry as registries
from zoo.formats.reference import Reference
from zoo.formats.registry import REGISTRY, resolve
from zoo.names import MANIFEST
from zoo.store.publish import publish


@pytest.fixture
def bundle(tmp_path) -> Path:
    return tiny.bundle(tmp_path / "bundle")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "registry"


def versions(folder: Path) -> dict[str, list[int]]:
    return {name: list(model.versions) for name, model in registries.read(folder, "r").document.models.items()}


def check_all(folder: Path) -> None:
    """What the registry names is there, byte for byte, and nothing half-written lies about."""
    registry = registries.read(folder, "r")
    for name, model in registry.document.models.items():
        for version, entry in model.versions.items():
            place = folder / "models" / name / str(version)
            for file, expected in entry.files.items():
                described = manifests.describe_file(place / file)
                assert (described.size, described.sha256) == (expected.size, expected.sha256)
                assert registry.file_url(expected) == (place / file).as_uri()
            assert manifests.check_files(place, manifests.read(place)) == []
    assert not list(folder.rglob(".publish-*")) and not list(folder.glob(f".{REGISTRY}.*"))


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its inode and time of change: equal when nothing was written."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".registry.lock")
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def test_a_bundle_is_copied_and_named(bundle, folder):
    manifest = publish(bundle, folder)
    assert (manifest.name, manifest.version) == ("tiny", 1)
    check_all(folder)
    entry = resolve(Reference.parse("tiny"), [registries.read(folder, "r")])
    assert entry.digest == manifests.digest((bundle / MANIFEST).read_bytes())
    assert set(entry.files) == {*manifest.files, MANIFEST}


def test_the_same_bundle_again_writes_nothing(bundle, folder):
    publish(bundle, folder)
    before = state(folder)
    publish(bundle, folder)
    publish(folder / "models/tiny/1", folder)  # the published copy itself, too
    assert state(folder) == before


def test_a_published_version_never_changes(bundle, folder, tmp_path):
    publish(bundle, folder)
    before = state(folder)
    other = tiny.bundle(tmp_path / "other", seed=1)
    with pytest.raises(IntegrityError, match="tiny:1 is already published with .* give the bundle a higher version"):
        publish(other, folder)
    assert state(folder) == before


def test_versions_and_models_add_up(bundle, folder, tmp_path):
    publish(tiny.bundle(tmp_path / "b2", version=2, summary="The second"), folder)
    publish(bundle, folder)  # an older one after it
    publish(tiny.bundle(tmp_path / "other", name="other"), folder)
    assert versions(folder) == {"other": [1], "tiny": [1, 2]}
    assert registries.read(folder, "r").document.models["tiny"].summary == "The second"
    check_all(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "double.onnx", "README.md"])
def test_a_tampered_bundle_is_refused(bundle, folder, name):
    data = bytearray((bundle / name).read_bytes())
    data[-1] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{name} does not match its SHA-256"):
        publish(bundle, folder)
    assert not folder.exists()


def test_a_missing_or_linked_file_is_refused(bundle, folder, tmp_path):
    shutil.move(bundle / "model.safetensors", tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=r"model.safetensors is missing"):
        publish(bundle, folder)
    (bundle / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=r"model.safetensors is not a plain file"):
        publish(bundle, folder)


def test_a_graph_that_may_not_run_is_refused(bundle, folder):
    tiny.write_graph(bundle / "double.onnx", 0, 4, location="../../etc/passwd")
    manifest = manifests.read(bundle)
    files = manifest.files | {"double.onnx": manifests.describe_file(bundle / "double.onnx")}
    manifest = msgspec.structs.replace(manifest, files=files)
    (bundle / MANIFEST).write_bytes(manifests.dump(manifest))
    with pytest.raises(InvalidFileError, match=r"double.onnx"):
        publish(bundle, folder)
    assert not folder.exists()


def test_a_folder_that_is_no_bundle(tmp_path, folder):
    with pytest.raises(NotFoundError, match=r"is not a bundle: it has no model.yaml"):
        publish(tmp_path, folder)


def test_a_folder_that_cannot_be_written(bundle, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot publish to .*file/registry: "):
        publish(bundle, tmp_path / "file" / "registry")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(bundle, folder):
    folder.mkdir()
    folder.chmod(0o555)
    with pytest.raises(StoreError, match="cannot publish to .*: Permission denied"):
        publish(bundle, folder)


def test_a_broken_registry_is_not_overwritten(bundle, folder):
    folder.mkdir()
    (folder / REGISTRY).write_text("models: [")
    with pytest.raises(InvalidFileError, match=r"registry.yaml"):
        publish(bundle, folder)
    assert (folder / REGISTRY).read_text() == "models: ["


def test_a_damaged_copy_is_mended_by_publishing_again(bundle, folder):
    publish(bundle, folder)
    (folder / "models/tiny/1/README.md").write_text("scribbled over")
    publish(bundle, folder)
    check_all(folder)
    (folder / "models/tiny/1" / MANIFEST).unlink()
    publish(bundle, folder)
    check_all(folder)


# --- Killed and racing publishers -------------------------------------------------------------------------------------

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import zoo.store.publish as publishing
where = sys.argv[3]
def killed(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "copy":  # after the first file
    real = shutil.copyfile
    publishing.shutil.copyfile = lambda *a: (real(*a), killed())
elif where == "write":
    publishing.registries.write = killed
elif where == "replace":  # the new registry.yaml is written beside the old
    real = Path.replace
    Path.replace = lambda self, target: killed() if Path(target).name == "registry.yaml" else real(self, target)
publishing.publish(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("where", ["copy", "write", "replace"])
def test_a_killed_publisher_leaves_the_registry_right(bundle, folder, tmp_path, where):
    publish(bundle, folder)
    second = tiny.bundle(tmp_path / "second", version=2, seed=2)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(second), str(folder), where], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert versions(folder) == {"tiny": [1]}
    # Another bundle may take the version that nobody saw, and the next publisher clears what was left.
    third = tiny.bundle(tmp_path / "third", version=2, seed=3)
    publish(third, folder)
    assert versions(folder) == {"tiny": [1, 2]}
    for leftover in folder.glob(f".{REGISTRY}.*"):  # a killed write leaves one, which no reader sees
        leftover.unlink()
    check_all(folder)


@pytest.mark.slow
def test_publishers_at_once_lose_nothing(folder, tmp_path):
    code = "import sys; from pathlib import Path; from zoo.store.publish import *; publish(*map(Path, sys.argv[1:]))"
    bundles = [
        tiny.bundle(tmp_path / f"{name}{version}", name=name, version=version, seed=version)
        for name in ("one", "two")
        for version in (1, 2, 3)
    ]
    with ExitStack() as stack:
        commands = [[sys.executable, "-c", code, b, folder] for b in [*bundles, bundles[0]]]
        children = [stack.enter_context(started(command)) for command in commands]
        assert [child.wait() for child in children] == [0] * len(children)
    assert versions(folder) == {"one": [1, 2, 3], "two": [1, 2, 3]}
    check_all(folder)
