"""Registries that go backwards, and registries that say something else than the manifests do."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from tests import tiny
from tests.http_server import FaultServer
from zoo.errors import IntegrityError
from zoo.formats import registry as registries
from zoo.formats.reference import Reference
from zoo.formats.registry import Registry, RegistryDocument
from zoo.store import catalogue, transport
from zoo.store import check_apart as apart
from zoo.store.store import Store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty store, a default registry with `inside`, no plugins."""
    default = tiny.registry(tmp_path / "default", tiny.bundle(tmp_path / "b" / "inside", name="inside"))
    monkeypatch.setattr("zoo.system.places.default_folder", lambda: default)
    monkeypatch.setattr("zoo.plugins.registries", list, raising=False)
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(apart, "check_apart", lambda folder: [])
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """Registries: `one` and `two` list that many versions of `tiny`; `both` also lists another model; `forged` has a
    version 1 with other bytes."""
    root = tmp_path_factory.mktemp("made")
    first, second = (tiny.bundle(root / f"{n}", version=n, seed=n) for n in (1, 2))
    other = tiny.bundle(root / "other", name="other")
    return {
        "one": tiny.registry(root / "r1", first),
        "two": tiny.registry(root / "r2", first, second),
        "newest": tiny.registry(root / "r3", second),
        "both": tiny.registry(root / "r4", first, second, other),
        "forged": tiny.registry(root / "r5", tiny.bundle(root / "forged", seed=9), second),
    }


class Lab:
    """A registry called `lab`, in a folder or on a server, whose contents can be replaced."""

    def __init__(self, made: dict[str, Path], folder: Path, server: FaultServer | None):
        self.made, self.folder, self.server = made, folder, server
        self.place = server.url() if server else str(folder)

    def becomes(self, name: str) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.made[name], self.folder)

    def look(self, *, refresh: bool = True, allow_rollback: bool = False) -> dict[str, list[int]]:
        found = catalogue.registries(refresh=refresh, allow_rollback=allow_rollback)
        return {
            name: sorted(model.versions)
            for registry in found
            if registry.name == "lab"
            for name, model in registry.document.models.items()
        }


@pytest.fixture(params=["folder", "server"])
def lab(made, tmp_path, request):
    folder = tmp_path / "lab"
    shutil.copytree(made["both"], folder)
    if request.param == "folder":
        lab = Lab(made, folder, None)
        catalogue.add("lab", lab.place)
        yield lab
        return
    with FaultServer(folder) as server:
        lab = Lab(made, folder, server)
        catalogue.add("lab", lab.place)
        yield lab


ALL = {"other": [1], "tiny": [1, 2]}


@pytest.mark.parametrize(
    ("older", "says"),
    [
        ("one", "other is gone; tiny was at version 2 and is at 1"),
        ("two", "other is gone"),
    ],
)
def test_older_registry_is_noticed_and_not_used(lab, older, says, caplog):
    lab.becomes(older)
    for _ in range(2):
        caplog.clear()
        assert lab.look() == ALL
        (line,) = caplog.messages
        assert line.startswith("using the last copy of the registry 'lab', read on 20") and says in line
        assert line.endswith("`zoo list --allow-rollback` accepts that") and line.isprintable()


def test_older_registry_is_used_if_that_is_allowed_with_a_line(lab, caplog):
    lab.becomes("one")
    assert lab.look(allow_rollback=True) == {"tiny": [1]}
    assert "the registry 'lab' went backwards, which --allow-rollback accepts" in caplog.text
    caplog.clear()
    assert lab.look() == lab.look(refresh=False) == {"tiny": [1]} and caplog.messages == []
    lab.becomes("both")
    assert lab.look() == ALL and caplog.messages == []


def test_newer_registry_is_no_step_back(lab, caplog):
    lab.becomes("newest")
    lab.look(allow_rollback=True)
    caplog.clear()
    lab.becomes("both")  # a version in between is new, the highest is the same
    assert lab.look() == ALL and caplog.messages == []


def test_removed_version_cannot_come_back_with_other_bytes(lab, caplog):
    """Gone for one read: the last copy does not have it either."""
    lab.becomes("newest")
    assert lab.look(allow_rollback=True) == {"tiny": [2]}
    lab.becomes("forged")
    assert lab.look() == {"tiny": [2]}
    assert "lab/tiny:1 had the digest" in caplog.text and "never changes" in caplog.text
    assert lab.look(allow_rollback=True) == {"tiny": [2]}  # which is no question of age
    lab.becomes("two")
    assert lab.look() == {"tiny": [1, 2]}


def test_removed_model_cannot_come_back_with_other_bytes(lab, made, tmp_path, caplog):
    lab.becomes("two")
    assert lab.look(allow_rollback=True) == {"tiny": [1, 2]}
    forged = tiny.bundle(tmp_path / "b" / "other", name="other", seed=7)
    lab.made = made | {"forged": tiny.registry(shutil.copytree(made["two"], tmp_path / "forged"), forged)}
    lab.becomes("forged")
    assert lab.look() == {"tiny": [1, 2]} and "lab/other:1 had the digest" in caplog.text


def test_removing_the_registry_forgets_what_was_seen(lab, home):
    lab.becomes("one")
    catalogue.remove("lab")
    assert list((home / "registries").iterdir()) == []
    catalogue.add("lab", lab.place)
    assert lab.look() == {"tiny": [1]}


def test_registry_given_with_the_call_is_compared_too(lab, caplog):
    catalogue.remove("lab")

    def versions() -> list[int]:
        registry = catalogue.registries([lab.place], refresh=True)[0]
        return sorted(registry.document.models["tiny"].versions)

    assert versions() == [1, 2]
    lab.becomes("one")
    assert versions() == [1, 2] and "using the last copy" in caplog.text


def test_without_a_last_copy_an_older_registry_is_an_error(lab, home, caplog):
    lab.becomes("one")
    for kept in (home / "registries").glob("*.yaml"):
        kept.unlink()
    assert lab.look() == {} and "skipping the registry 'lab': it lists less than before" in caplog.text
    with pytest.raises(IntegrityError, match="lists less than before"):
        catalogue.registries([lab.place], refresh=True)


def test_copy_kept_by_an_older_zoo_counts_as_seen(lab, home):
    for seen in (home / "registries").glob("*.seen.json"):
        seen.unlink()
    lab.becomes("one")
    assert lab.look() == ALL


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b'{"format": 9}', b'{"models": {"tiny": {"highest": "x"}}}'])
def test_damaged_history_starts_again_with_a_line(lab, home, damage, caplog):
    (seen,) = (home / "registries").glob("*.seen.json")
    seen.write_bytes(damage)
    lab.becomes("one")
    assert lab.look() == {"tiny": [1]} and "starts again" in caplog.text
    lab.becomes("both")
    lab.look()
    assert json.loads(seen.read_bytes())["models"]["tiny"]["highest"] == 2


def test_default_registry_may_list_less(made, tmp_path, caplog):
    """It changes with the package: an update drops old versions."""
    (tmp_path / "default" / "registry.yaml").write_bytes((made["two"] / "registry.yaml").read_bytes())
    catalogue.registries(refresh=True)
    (tmp_path / "default" / "registry.yaml").write_bytes((made["one"] / "registry.yaml").read_bytes())
    assert catalogue.registries(refresh=True)[0].document.models["tiny"].versions.keys() == {1}
    assert caplog.messages == []


# --- What a registry says about a model -------------------------------------------------------------------------------


def lying(made: dict[str, Path], registry: str = "two", **says: object) -> Registry:
    found = registries.read(made[registry], "lab")
    model = msgspec.structs.replace(found.document.models["tiny"], **says)
    return Registry("lab", found.url, RegistryDocument(format=1, models={"tiny": model}))


LIES = {
    "license": ("MIT", "licence 'MIT', not 'Apache-2.0'"),
    "family": ("gan", "family 'gan', not 'tiny'"),
    "tasks": (("double", "generate"), "tasks 'double generate', not 'double'"),
    "summary": ("The best of all", "summary 'The best of all', not"),
}


@pytest.mark.parametrize("pulled", [False, True], ids=["new", "pulled"])
@pytest.mark.parametrize("field", LIES)
def test_registry_that_describes_another_model_is_refused(made, field, pulled):
    """Before the model is visible; and also if its files are already here, from another registry or from this one."""
    store = Store()
    if pulled:
        store.pull(registries.resolve(Reference("tiny"), [registries.read(made["two"], "mirror")]))
    value, says = LIES[field]
    with pytest.raises(IntegrityError) as e:
        store.pull(registries.resolve(Reference("tiny"), [lying(made, **{field: value})]))
    assert says in str(e.value) and "lab/tiny:2: the registry 'lab' says" in str(e.value)
    assert [i.registry for i in store.installed()] == ["mirror"] * pulled


def test_all_lies_are_named(made):
    with pytest.raises(IntegrityError) as e:
        Store().pull(registries.resolve(Reference("tiny"), [lying(made, license="MIT", family="gan")]))
    assert "licence 'MIT'" in str(e.value) and "family 'gan'" in str(e.value)


def test_an_older_version_may_differ_and_its_licence_is_named(made, caplog):
    """A registry describes a model's newest version."""
    store = Store()
    store.pull(registries.resolve(Reference("tiny", version=1), [lying(made, license="MIT", summary="Newer")]))
    assert [i.version for i in store.installed()] == [1]
    assert "lab/tiny:1 has the licence 'Apache-2.0'; the registry names that of a newer version" in caplog.text


def test_list_shows_what_a_pulled_model_says(made, tmp_path, capsys):
    from zoo.store.listing import listed

    folder = shutil.copytree(made["two"], tmp_path / "lab")
    catalogue.add("lab", str(folder))
    Store().pull(registries.resolve(Reference("tiny"), [registries.read(folder, "lab")]))
    text = (folder / "registry.yaml").read_text()
    (folder / "registry.yaml").write_text(text.replace("Apache-2.0", "MIT"))
    rows = {row.version: row.license for row in listed() if row.name == "tiny"}
    assert rows == {1: "MIT", 2: "Apache-2.0"}


def test_our_own_registries_describe_their_models():
    from zoo.formats import manifest as manifests
    from zoo.formats.registry import Entry
    from zoo.store.store import _check_description

    root = Path(__file__).parents[2]
    for folder in (root, root / "research"):
        registry = registries.read(folder, "r")
        for name, model in registry.document.models.items():
            newest = max(model.versions)
            _check_description(Entry(registry, name, newest), manifests.read(folder / "models" / name / str(newest)))
