"""Power is lost at any moment of a command: nothing wrong is visible, and everything acknowledged is there.

The operations of the real command are recorded and replayed to every cut (tests/power_loss.py). Each test also replays
them as if no file, and as if no folder, had been synced: that must be noticed, else it shows nothing.
"""

import hashlib
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.power_loss import ACKNOWLEDGED, Trace, build, record, write_tree
from zoo.formats import manifest as manifests
from zoo.formats import registry as registries
from zoo.formats.fields import compare_files, digest_of
from zoo.formats.reference import Reference
from zoo.names import MANIFEST
from zoo.store import check_apart as apart
from zoo.store.blobs import Blobs
from zoo.store.store import Store

pytestmark = pytest.mark.slow

ZOO = (sys.executable, "-m", "zoo")
PRUNE_ALL = "import zoo.store.prune as p; p.YOUNG_SECONDS = -1; from zoo.cli import main; main(['prune'])"
MEMORY = Path("/dev/shm")

Check = Callable[[Path, bool], object]  # raises if something is wrong in a folder; whether it was acknowledged


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("gcc compiles what records")
    return build(Path(__file__).parents[1] / "recording_calls.c", tmp_path_factory.mktemp("recorder") / "recorder.so")


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A registry with `tiny` 1 and 2, and the bundles next to it."""
    root = tmp_path_factory.mktemp("lab")
    bundles = [tiny.bundle(root / f"{version}", version=version, seed=version) for version in (1, 2)]
    return tiny.registry(root / "registry", *bundles)


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Path:
    """A registry with `tiny` 1 and 2, which have the same weights."""
    root = tmp_path_factory.mktemp("twins")
    bundles = [tiny.bundle(root / f"{version}", version=version) for version in (1, 2)]
    return tiny.registry(root / "registry", *bundles)


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """The folder in which a command works, with its home."""
    monkeypatch.setattr(apart, "check_apart", lambda folder: [])
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "work" / "home"))
    return tmp_path / "work"


@pytest.fixture
def recorded(library, work, tmp_path) -> Callable[..., Trace]:
    def run(*command: object, **options: object) -> Trace:
        return record(library, work, list(command), tmp_path / "log", **options)

    return run


def problems(trace: Trace, check: Check, *, most: float = float("inf"), begin: int = 1) -> list[str]:
    """What is wrong after a power loss at any moment, at most so many; each different tree is looked at once."""
    found, seen = [], set()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        for cut, lost in trace.states(ignore=("ingest", "locks"), begin=begin):
            tree, acknowledged = trace.tree(cut, lost), cut >= trace.acknowledged_at
            key = hash((tuple(tree.items()), acknowledged))
            if key in seen:
                continue
            seen.add(key)
            folder = Path(name) / f"{len(seen)}"
            folder.mkdir()
            write_tree(tree, folder)
            try:
                check(folder, acknowledged)
            except Exception as e:
                lost_steps = [str(trace.steps[n])[:200] for n in sorted(lost)]
                found.append(f"after {cut} of {len(trace.steps)} steps, without {lost_steps}: {e!r}"[:2000])
                if len(found) >= most:
                    break
            shutil.rmtree(folder)
    assert len(seen) >= 2 or begin > 1, "too little was looked at"
    return found


def assert_survives(trace: Trace, check: Check, *, files: bool = True, folders: bool = True) -> None:
    """Nothing is wrong; without the command's syncs of files or folders, something would be."""
    assert problems(trace, check) == []
    for of_folders in [False] * files + [True] * folders:
        assert problems(trace.without_syncs(of_folders=of_folders), check, most=1), "a missing sync is not noticed"


def points(trace: Trace, *ends: str) -> list[int]:
    """After how many steps of the command itself, not of a child that answers it, each of these paths was made."""
    paths = [getattr(step, "path", "") for step in trace.steps if step is not ACKNOWLEDGED]
    return [next(n for n, path in enumerate(paths, 1) if path.endswith(end)) for end in ends]


def assert_survives_after_a_kill(
    recorded: Callable[..., Trace], work: Path, command: tuple[object, ...], check: Check, *ends: str
) -> None:
    """A command is killed when it has just made a path, before it could sync it; then the same command succeeds."""
    shutil.copytree(work, work.parent / "before")
    for number in points(recorded(*command), *ends):
        shutil.rmtree(work)
        shutil.copytree(work.parent / "before", work)
        trace = recorded(*command, killed_after=number)
        assert problems(trace, check, begin=trace.acknowledged_at) == [], number


# --- The store --------------------------------------------------------------------------------------------------------


def entry(lab: Path, version: int) -> registries.Entry:
    return registries.resolve(Reference("tiny", version=version), [registries.read(lab, "lab")])


def store_with(
    *versions: int, lab: Path, always: tuple[int, ...] = (), never: tuple[int, ...] = (), removes: bool = False
) -> Check:
    """Whatever is visible is right, `always` is visible, and once it is acknowledged, `versions` but not `never`.

    Args:
        removes: the command removes views, which may have the only copy of a blob; otherwise none is lost.
    """
    turn = itertools.count()

    def check(folder: Path, acknowledged: bool) -> None:
        store = Store(folder / "home")
        visible = store.installed()
        for installed in visible:
            assert store.verify(installed) == [] and store.find(Reference("tiny", version=installed.version))
        for blob in store.blobs.folder.glob("*"):
            gone = removes and store.blobs.find(blob.name) is None
            assert gone or hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        there = {installed.version for installed in visible}
        assert there >= {*always, *(versions if acknowledged else ())}
        assert not (acknowledged and there & {*never})
        for version in (1, 2) if next(turn) % 5 == 0 else ():  # the next pull repairs whatever there is
            assert store.verify(store.pull(entry(lab, version))) == []

    return check


def test_pull_into_no_store(recorded, lab, work):
    shutil.copytree(lab, work / "lab")
    trace = recorded(*ZOO, "pull", "tiny:1", "--registry", work / "lab")
    assert_survives(trace, store_with(1, lab=lab))


def test_pull_that_is_killed_fetches_nothing_twice(recorded, lab, work, tmp_path):
    """At no moment are there fewer of the model's bytes than before."""
    shutil.copytree(lab, work / "lab")
    trace = recorded(*ZOO, "pull", "tiny:1", "--registry", work / "lab")
    missing = []
    for cut in range(len(trace.steps) + 1):
        (folder := tmp_path / "cuts" / f"{cut}").mkdir(parents=True)
        write_tree(trace.tree(cut), folder)
        blobs = Store(folder / "home").blobs
        missing.append(sum(blobs.missing(file.sha256, file.size) for file in entry(lab, 1).files.values()))
    assert missing == sorted(missing, reverse=True) and missing[-1] == 0


def test_pull_of_weights_that_another_version_has(recorded, twins, work):
    Store(work / "home").pull(entry(twins, 1))
    trace = recorded(*ZOO, "pull", "tiny:2", "--registry", twins)
    assert_survives(trace, store_with(2, lab=twins, always=(1,)))


def test_pull_after_a_killed_one(recorded, lab, work):
    shutil.copytree(lab, work / "lab")
    digest = entry(lab, 1).digest
    command = (*ZOO, "pull", "tiny:1", "--registry", work / "lab")
    name = f"lab-{digest_of((work / 'lab' / 'registry.yaml').as_uri().encode())[:8]}"
    ends = (f"/refs/{name}/tiny/1", f"/refs/{name}/tiny", f"/refs/{name}", "/home/refs", f"/views/{digest}")
    assert_survives_after_a_kill(recorded, work, command, store_with(1, lab=lab), *ends)


def test_pull_beside_another_version(recorded, lab, work):
    Store(work / "home").pull(entry(lab, 1))
    trace = recorded(*ZOO, "pull", "tiny:2", "--registry", lab)
    assert_survives(trace, store_with(2, lab=lab, always=(1,)))


def test_pull_that_repairs_a_view(recorded, lab, work):
    store = Store(work / "home")
    store.pull(entry(lab, 1))
    name = registries.read(lab, "lab").name
    (store.pull(entry(lab, 2)).folder / "README.md").unlink()
    shutil.rmtree(store.refs / name, ignore_errors=True)
    trace = recorded(*ZOO, "pull", "tiny:2", "--registry", lab)

    def check(folder: Path, acknowledged: bool) -> None:
        store = Store(folder / "home")
        wrong = {i.version for i in store.installed() if store.verify(i)}
        assert wrong <= ({2} if not acknowledged else set())

    assert problems(trace, check) == []


def test_rm(recorded, lab, work):
    store = Store(work / "home")
    for version in (1, 2):
        store.pull(entry(lab, version))
    trace = recorded(*ZOO, "rm", "lab/tiny:1")
    assert_survives(trace, store_with(lab=lab, always=(2,), never=(1,), removes=True), files=False)


def test_rm_of_the_only_copy_of_weights_that_another_model_has_too(recorded, twins, work):
    store = Store(work / "home")
    for version in (1, 2):
        store.pull(entry(twins, version))
    sha256 = entry(twins, 1).files["model.safetensors"].sha256
    assert store.blobs.find(sha256) == store.view(entry(twins, 1).digest) / "model.safetensors"
    trace = recorded(*ZOO, "rm", "lab/tiny:1")
    assert store.blobs.find(sha256) == store.view(entry(twins, 2).digest) / "model.safetensors"
    assert_survives(trace, store_with(lab=twins, always=(2,), never=(1,), removes=True), files=False)


def test_rm_of_a_model_that_another_registry_has_too(recorded, lab, work):
    store, ours = Store(work / "home"), entry(lab, 1)
    for name in ("lab", "mirror"):
        registry = registries.Registry(name, ours.registry.url, ours.registry.document)
        store.pull(registries.Entry(registry, "tiny", 1))
    trace = recorded(*ZOO, "rm", "lab/tiny:1")

    def check(folder: Path, acknowledged: bool) -> None:
        store = Store(folder / "home")
        visible = {i.registry for i in store.installed()}
        assert visible == {"mirror"} or (visible == {"lab", "mirror"} and not acknowledged)
        assert not any(store.verify(i) for i in store.installed())

    assert problems(trace, check) == []
    assert problems(trace.without_syncs(of_folders=True), check, most=1), "a missing sync is not noticed"


def test_prune(recorded, lab, work):
    store = Store(work / "home")
    for version in (1, 2):
        store.pull(entry(lab, version))
    (store.refs / "lab" / "tiny" / "1").unlink()
    trace = recorded(sys.executable, "-c", PRUNE_ALL)
    assert problems(trace, store_with(lab=lab, always=(2,), removes=True)) == []


def test_prune_of_second_copies(recorded, lab, work, monkeypatch):
    """Of a store that an older zoo has written."""
    store = Store(work / "home")
    with monkeypatch.context() as older:
        older.setattr(Blobs, "keep_once", lambda *_: {})
        for version in (1, 2):
            store.pull(entry(lab, version))
    trace = recorded(*ZOO, "prune")
    assert sum(blob.is_symlink() for blob in store.blobs.folder.iterdir()) == 4  # weights and golden cases
    assert problems(trace, store_with(lab=lab, always=(1, 2))) == []


def test_prune_after_a_pull_that_was_killed_before_it_synced_its_view(recorded, lab, work):
    """The view's name may be lost with the power, so it must not have the only copy yet."""
    shutil.copytree(lab, work / "lab")
    home, wanted = work / "home", entry(lab, 1)
    view, pull = home / "views" / wanted.digest, ["pull", "tiny:1", "--registry", str(work / "lab")]
    there = f"pathlib.Path({str(view)!r}).exists()"
    script = f"import pathlib; from zoo.cli import main; main(['prune'] if {there} else {pull!r})"
    (number,) = points(recorded(sys.executable, "-c", script), f"/views/{wanted.digest}")
    shutil.rmtree(home)
    trace = recorded(sys.executable, "-c", script, killed_after=number)
    assert Store(home).blobs.path(wanted.files["model.safetensors"].sha256).is_symlink()
    assert problems(trace, store_with(lab=lab), begin=number) == []
    unsynced = trace.without_syncs(of_folders=True)
    assert problems(unsynced, store_with(lab=lab), begin=number, most=1), "a missing sync is not noticed"


def test_registry_add(recorded, lab, work):
    shutil.copytree(lab, work / "lab")
    (work / "home").mkdir()
    (work / "home" / "registries.yaml").write_text("format: 1\nregistries: {old: 'file:///old/registry.yaml'}\n")
    trace = recorded(*ZOO, "registry", "add", "new", work / "lab")

    def check(folder: Path, acknowledged: bool) -> None:
        text = (folder / "home" / "registries.yaml").read_text()
        assert "old" in text and text.endswith("\n") and ("new" in text or not acknowledged)

    assert_survives(trace, check)


# --- Publishing -------------------------------------------------------------------------------------------------------


def registry_with(*versions: int, always: tuple[int, ...] = ()) -> Check:
    """What registry.yaml names is there, byte for byte."""

    def check(folder: Path, acknowledged: bool) -> None:
        there = set()
        if (folder / "registry" / "registry.yaml").exists():
            registry = registries.read(folder / "registry", "r")
            for number, version in registry.document.models["tiny"].versions.items():
                place = folder / "registry" / "models" / "tiny" / str(number)
                assert compare_files(place, version.files) == []
                there.add(number)
        assert there >= {*always, *(versions if acknowledged else ())}

    return check


def test_publish_into_no_registry(recorded, lab, work):
    trace = recorded(*ZOO, "publish", lab.parent / "1", "--to", work / "registry")
    assert_survives(trace, registry_with(1))


def test_publish_after_a_killed_one(recorded, lab, work):
    command = (*ZOO, "publish", lab.parent / "1", "--to", work / "registry")
    ends = ("/registry/models/tiny/1", "/registry/models/tiny", "/registry/models", "/registry/registry.yaml")
    assert_survives_after_a_kill(recorded, work, command, registry_with(1), *ends)


def test_publish_another_version(recorded, lab, work):
    tiny.registry(work / "registry", lab.parent / "1")
    trace = recorded(*ZOO, "publish", lab.parent / "2", "--to", work / "registry")
    assert_survives(trace, registry_with(2, always=(1,)))


def test_publish_over_a_damaged_copy(recorded, lab, work):
    tiny.registry(work / "registry", lab.parent / "1")
    (work / "registry" / "models" / "tiny" / "1" / "README.md").write_text("damaged")
    trace = recorded(*ZOO, "publish", lab.parent / "1", "--to", work / "registry")

    def check(folder: Path, acknowledged: bool) -> None:
        place = folder / "registry" / "models" / "tiny" / "1"
        wrong = manifests.check_files(place, manifests.read(place))
        assert wrong == [] or (not acknowledged and [w.split()[0] for w in wrong] == ["README.md"])

    assert_survives(trace, check)


# --- Exports and outputs ----------------------------------------------------------------------------------------------


def whole_export(folder: Path) -> str:
    """The model of an export that is whole."""
    from zoo.ship.export import check_export, read_export

    found = read_export(folder)
    assert check_export(folder, found) == []
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {*found.files, "export.json"}
    assert manifests.check_files(folder / "model", manifests.read(folder / "model")) == []
    assert (folder / "model" / MANIFEST).is_file() and json.loads((folder / "golden" / "cases.json").read_bytes())
    return found.model


def test_export_into_a_new_folder(recorded, lab, work):
    out = Path("new", "deep", "e")
    trace = recorded(*ZOO, "export", lab.parent / "1", "--target", "python", "--out", work / out)

    def check(folder: Path, acknowledged: bool) -> None:
        assert not (acknowledged or (folder / out).exists()) or whole_export(folder / out) == "tiny:1"

    assert_survives(trace, check)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "without exchange"])
def test_export_over_another(recorded, lab, work, exchange):
    from zoo.ship.export import export
    from zoo.store.locate import locate

    export(locate(str(lab.parent / "1")), "python", work / "e")
    environment = {} if exchange else {"RECORD_NO_EXCHANGE": "1"}
    command = (*ZOO, "export", lab.parent / "2", "--target", "python", "--out", work / "e", "--force")
    trace = recorded(*command, **environment)
    assert any(getattr(step, "path", "").endswith("/e.old") for step in trace.steps) is not exchange

    def check(folder: Path, acknowledged: bool) -> None:
        if not exchange and not (folder / "e").exists():  # documented: the old one is under that name
            assert whole_export(folder / "e.old") == "tiny:1" and not acknowledged
            return
        assert whole_export(folder / "e") in (("tiny:2",) if acknowledged else ("tiny:1", "tiny:2"))

    assert_survives(trace, check)
    assert list(work.glob(".e.*")) == list(work.glob("e.old*")) == []


@pytest.mark.parametrize("before", [None, b"old"], ids=["new", "over a file"])
def test_run_out(recorded, lab, work, before):
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(work / "in.png")
    if before:
        (work / "out.png").write_bytes(before)
    trace = recorded(*ZOO, "run", lab.parent / "1", "double", "--image", work / "in.png", "--out", work / "out.png")
    after = (work / "out.png").read_bytes()
    assert after not in (b"", before)

    def check(folder: Path, acknowledged: bool) -> None:
        path = folder / "out.png"
        assert (path.read_bytes() if path.exists() else None) in ((after,) if acknowledged else (before, after))

    assert_survives(trace, check)
