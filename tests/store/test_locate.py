import os

import msgspec
import pytest

from tests import tiny
from tests.http_server import FaultServer
from zoo.errors import IntegrityError, InvalidFileError, NotFoundError, UsageError
from zoo.formats import manifest, registry
from zoo.store import catalogue, transport
from zoo.store.locate import is_path, locate
from zoo.store.prune import remove
from zoo.store.store import Store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A default registry with `inside`, an empty store, the graph check in this process."""
    from zoo.graph import check
    from zoo.store import check_apart as apart

    default = tiny.registry(tmp_path / "default", tiny.bundle(tmp_path / "b" / "inside", name="inside"))
    monkeypatch.setattr("zoo.system.places.default_folder", lambda: default)
    monkeypatch.setattr("zoo.plugins.registries", list, raising=False)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(apart, "check_apart", lambda folder: check.check(folder, manifest.read(folder)))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path):
    one, two = tiny.bundle(tmp_path / "b" / "one"), tiny.bundle(tmp_path / "b" / "two", version=2)
    return tiny.registry(tmp_path / "lab", one, two)


def test_model_in_the_package_is_read_in_place(tmp_path, home):
    bundle = locate("inside", pull=False)
    assert bundle.folder == tmp_path / "default" / "models" / "inside" / "1"
    assert (bundle.reference, bundle.manifest.name) == ("inside:1", "inside")
    assert bundle.digest == manifest.digest((bundle.folder / "model.yaml").read_bytes())
    assert locate(f"default/inside:1@sha256:{bundle.digest}") == bundle
    assert not home.exists()


def test_model_is_pulled_once_and_then_needs_no_network(folder):
    said, arrived = [], []
    with FaultServer(folder) as server:
        catalogue.add("lab", server.url())
        with pytest.raises(
            NotFoundError, match=r"lab/tiny:2 is not in the store; `zoo pull lab/tiny:2` fetches it \(2\.\d kB\)"
        ):
            locate("tiny", pull=False)
        bundle = locate(
            "tiny", on_pull=lambda entry, missing: said.append((str(entry), missing)), on_bytes=arrived.append
        )
    assert bundle.reference == "lab/tiny:2"
    assert said == [("lab/tiny:2", sum(arrived))] and sum(arrived) > 0
    assert locate("lab/tiny", pull=False) == locate("tiny:2") == bundle  # the server is gone
    assert locate("inside").reference == "inside:1"


def test_registry_given_with_the_call(folder):
    bundle = locate("tiny:1", registries=[str(folder)])
    assert bundle.manifest.version == 1 and bundle.reference.startswith("lab-")
    assert locate("tiny") == bundle  # it is here, also when nobody names its registry
    with pytest.raises(NotFoundError, match="no model 'tiny'"):
        locate("tiny:2")


def test_pulled_model_outlives_its_registry(folder):
    catalogue.add("lab", str(folder))
    bundle = locate("tiny:1")
    catalogue.remove("lab")
    assert locate("tiny") == locate("lab/tiny:1") == bundle


def test_changed_file_is_refused_before_it_is_used(folder):
    catalogue.add("lab", str(folder))
    bundle = locate("tiny:1")
    path = bundle.folder / "model.safetensors"
    path.chmod(0o644)
    os.truncate(path, 10)
    with pytest.raises(
        IntegrityError, match=r"lab/tiny:1 was changed since it was pulled: model\.safetensors has 10 bytes"
    ):
        locate("tiny:1")
    store = Store()
    remove(store, store.installed()[0])
    assert store.verify(store.pull(registry.resolve(registry.Reference.parse("tiny:1"), catalogue.registries()))) == []


def test_changed_package_is_refused(tmp_path):
    inside = tmp_path / "default" / "models" / "inside" / "1"
    (inside / "double.onnx").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"inside:1: double\.onnx has 0 bytes"):
        locate("inside")
    (inside / "double.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"double\.onnx is missing"):
        locate("inside")
    (inside / "model.yaml").write_text("x")
    with pytest.raises(IntegrityError, match="reinstall genzoo-inside"):
        locate("inside")
    (inside / "model.yaml").unlink()
    with pytest.raises(NotFoundError, match="inside:1 is not installed: "):
        locate("inside")


def test_folder_is_copied_to_run_it(tmp_path, monkeypatch, home):
    folder = tiny.bundle(tmp_path / "b" / "one")
    bundle = locate(str(folder))
    assert bundle.folder.parent == home / "running" and bundle.reference == str(folder)
    assert {f.name: f.read_bytes() for f in bundle.folder.iterdir()} == {
        f.name: f.read_bytes() for f in folder.iterdir()
    }
    monkeypatch.chdir(folder.parent)
    again = locate("./one")
    assert (again.reference, again.digest) == ("./one", bundle.digest)
    del again
    with pytest.raises(NotFoundError, match=r"no model 'one' in registry 'default'.*; the folder is ./one"):
        locate("one")
    with pytest.raises(NotFoundError, match=r"nowhere is not a bundle: it has no model\.yaml"):
        locate("./nowhere")
    assert [path.name for path in (home / "running").iterdir()] == [bundle.folder.name]  # the others are gone


def test_changed_weights_of_the_same_size_do_not_run(tmp_path):
    folder = tiny.bundle(tmp_path / "b" / "one")
    inside = tmp_path / "default" / "models" / "inside" / "1"
    for place, text in ((folder, str(folder)), (inside, "inside")):
        weights = (place / "model.safetensors").read_bytes()
        (place / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
        with pytest.raises(IntegrityError, match=r"model\.safetensors does not match its SHA-256 .*`zoo verify "):
            locate(text)


@pytest.mark.parametrize(("folder", "command"), [("mine", "./mine"), ("my model", "'my model'")])
def test_the_command_for_a_damaged_folder_takes_the_folder(tmp_path, monkeypatch, folder, command):
    """Not the model of the same name."""
    monkeypatch.chdir(tmp_path)
    (tiny.bundle(tmp_path / folder) / "README.md").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=f"{folder}: README.md .*; `zoo verify {command}` lists all"):
        locate(f"./{folder}")


def test_graph_of_a_folder_is_checked(tmp_path):
    folder = tiny.bundle(tmp_path / "b" / "one")
    tiny.write_graph(folder / "double.onnx", 0, 4, location="/etc/hostname___")
    m = manifest.read(folder)
    files = m.files | {"double.onnx": manifest.describe_file(folder / "double.onnx")}
    (folder / "model.yaml").write_bytes(manifest.dump(msgspec.structs.replace(m, files=files)))
    with pytest.raises(InvalidFileError, match="must not be run"):
        locate(str(folder))


@pytest.mark.parametrize("text", [".", "./x", "/x", "~/x", "x/", "a/b/c", "../x"])
def test_path(text):
    assert is_path(text)


@pytest.mark.parametrize("text", ["tiny", "lab/tiny", "lab/tiny:2", "tiny@sha256:" + "0" * 64])
def test_reference(text):
    assert not is_path(text)


@pytest.mark.parametrize("text", ["", "Tiny", "tiny:0", "tiny:x", "tiny@sha256:abc", "-x", "a b", "tiny\n", "\x1b[31m"])
def test_neither(text):
    with pytest.raises(UsageError, match="is not a model reference") as e:
        locate(text)
    assert str(e.value).isprintable()
