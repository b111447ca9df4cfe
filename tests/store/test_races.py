"""A pull beside `zoo rm` and `zoo prune`: what a pull has acknowledged stays, wherever the other is interrupted.

Not by luck: one side runs step by step, a step being a call of the operating system on the store, and before its N-th
step the other side runs from beginning to end; for N = 1, 2, … The stepping side goes on after that, or is killed.
"""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from zoo.formats import registry
from zoo.formats.fields import describe_file
from zoo.formats.reference import Reference
from zoo.formats.registry import Entry
from zoo.store import blobs
from zoo.store import check_apart as apart
from zoo.store import prune as prunes
from zoo.store.prune import prune, remove
from zoo.store.store import Installed, Store, asides

CALLS = (
    "rename", "replace", "link", "symlink", "unlink", "rmdir", "mkdir", "stat", "lstat", "readlink", "scandir", "open",
    "listdir",
)  # fmt: skip


class Killed(BaseException):
    """Ends a process where it is; its clean-up does not run either, since `cut` lets no further call through."""


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(apart, "check_apart", lambda folder: [])
    monkeypatch.setattr(prunes, "YOUNG_SECONDS", 0)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(blobs, "_reflink", unsupported)


def unsupported(*_: object) -> None:
    """As on most file systems: then views have the only copy of weights, which has the most races."""
    raise OSError(errno.EOPNOTSUPP, "not here")


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Entry:
    root = tmp_path_factory.mktemp("registry")
    folder = tiny.registry(root / "registry", tiny.bundle(root / "b"))
    return registry.resolve(Reference.parse("tiny"), [registry.read(folder, "lab")])


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> tuple[Entry, Entry]:
    """Two versions with the same weights."""
    root = tmp_path_factory.mktemp("twins")
    folder = tiny.registry(root / "registry", *(tiny.bundle(root / f"{n}", version=n) for n in (1, 2)))
    known = registry.read(folder, "lab")
    return Entry(known, "tiny", 1), Entry(known, "tiny", 2)


@pytest.fixture(scope="module")
def mirror(lab) -> Entry:
    return Entry(registry.Registry("mirror", lab.registry.url, lab.registry.document), "tiny", 1)


def before_step(number: int, other: Callable[[], object], work: Callable[[], object], *, kill: bool = False) -> bool:
    """Does the work, with the other in front of its N-th call; False if it has fewer calls."""
    real = {name: getattr(os, name) for name in CALLS}
    count, watched = 0, True  # the functions stay replaced meanwhile: `shutil` keeps some, and compares them later

    def cut(call: Callable) -> Callable:
        def counted(*args, **kwargs):
            nonlocal count, watched
            if not watched:
                return call(*args, **kwargs)
            count += 1
            if count > number and kill:
                raise Killed
            if count == number:
                watched = False
                other()
                if kill:
                    watched = True
                    raise Killed
            return call(*args, **kwargs)

        return counted

    for name, call in real.items():
        setattr(os, name, cut(call))
    try:
        work()
    except Killed:
        pass
    finally:
        for name, call in real.items():
            setattr(os, name, call)
    return count >= number


def assert_there(store: Store, entry: Entry, case: object) -> None:
    found = [i for i in store.installed() if (i.registry, i.digest) == (entry.registry.name, entry.digest)]
    assert len(found) == 1, case
    assert store.verify(found[0]) == [], case
    # ONNX Runtime refuses a loop's weights in a file that has several names.
    assert {file.lstat().st_nlink for file in found[0].folder.glob("*.safetensors")} == {1}, case


def every_step(store: Store, prepare, other, work, *, kill: bool, check) -> int:
    """How many steps the work has. Each run begins with what `prepare` made, and `check` looks at what it left."""
    prepare()
    before = store.root.with_name("before")
    if prepared := store.root.exists():
        store.root.rename(before)
    number = 0
    while True:
        number += 1
        shutil.rmtree(store.root, ignore_errors=True)
        if prepared:
            subprocess.run(["cp", "-a", before, store.root], check=True)  # with its links of both kinds
        if not before_step(number, other, work, kill=kill):
            return number - 1
        check(number)


def orphan_view(store: Store, entry: Entry) -> None:
    """A complete view without a reference, and its blobs."""
    store.pull(entry)
    (store.refs / "lab" / "tiny" / "1").unlink()


def orphan_ref(store: Store, entry: Entry) -> None:
    """A reference whose view is gone."""
    shutil.rmtree(store.pull(entry).folder)


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    """In memory where that is a folder: a test makes and removes ten thousand files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Store(Path(folder) / "store")


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["goes on", "is killed"])
@pytest.mark.parametrize("before", [orphan_view, orphan_ref])
def test_pull_beside_a_prune(store, lab, before, kill):
    """The prune is interrupted at each of its steps."""

    def check(number):
        assert_there(store, lab, number)
        prune(store, dry_run=False)  # clears up what a killed one left
        assert_there(store, lab, f"{number}, then another prune")
        assert asides(store.views / "*") == [] and len(list(store.views.iterdir())) == 1

    steps = every_step(
        store,
        lambda: before(store, lab),
        lambda: store.pull(lab),
        lambda: prune(store, dry_run=False),
        kill=kill,
        check=check,
    )
    assert steps > 20


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["goes on", "is killed"])
def test_pull_beside_the_removal_of_the_same_model_of_another_registry(store, lab, mirror, kill):
    steps = every_step(
        store,
        lambda: store.pull(lab),
        lambda: store.pull(mirror),
        lambda: remove(store, store.installed()[0]),
        kill=kill,
        check=lambda number: assert_there(store, mirror, number),
    )
    assert steps > 20


def removal(store: Store) -> Callable[[], object]:
    """A removal of what is there when it runs."""
    return lambda: [remove(store, i) for i in store.installed() if i.registry == "lab"]


@pytest.mark.slow
@pytest.mark.parametrize("before", [orphan_view, orphan_ref, Store.pull])
@pytest.mark.parametrize("what", ["prune", "rm"])
def test_prune_and_removal_beside_a_pull(store, lab, mirror, before, what):
    """The pull is interrupted at each of its steps, and has then acknowledged what it returns."""
    other, pulled = (lambda: prune(store, dry_run=False), lab) if what == "prune" else (removal(store), mirror)
    steps = every_step(
        store,
        lambda: before(store, lab),
        other,
        lambda: store.pull(pulled),
        kill=False,
        check=lambda number: assert_there(store, pulled, number),
    )
    assert steps > 5


def holder(what: str, store: Store, one: Entry) -> tuple[Callable[[], object], Callable[[], object]]:
    """Something that happens to the view with the only copy of weights: what must be there before, and the deed."""
    view = Installed("lab", "tiny", 1, one.digest, store.view(one.digest))
    return {
        "rm": (lambda: store.pull(one), lambda: remove(store, view)),
        "prune": (lambda: orphan_view(store, one), lambda: prune(store, dry_run=False)),
        "pull": (lambda: None, lambda: store.pull(one)),
    }[what]


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["goes on", "is killed"])
@pytest.mark.parametrize("what", ["rm", "prune", "pull"])
def test_pull_beside_what_happens_to_the_only_copy_of_its_weights(store, twins, what, kill, monkeypatch):
    """That is interrupted at each of its steps."""
    monkeypatch.setattr(blobs, "LOOK_SECONDS", 0.01)  # the other pull holds the lock and does not go on
    monkeypatch.setattr(blobs, "PATIENCE_SECONDS", 0.02)
    one, two = twins
    before, deed = holder(what, store, one)

    def check(number):
        assert_there(store, two, number)
        if what == "pull":
            store.pull(one)
        prune(store, dry_run=False)  # clears up what a killed one left
        assert_there(store, two, f"{number}, then a prune")
        assert_only_right_blobs(store, number)

    assert every_step(store, before, lambda: store.pull(two), deed, kill=kill, check=check) > 20


@pytest.mark.slow
@pytest.mark.parametrize("what", ["rm", "prune", "pull"])
def test_what_happens_to_the_only_copy_beside_a_pull_of_the_same_weights(store, twins, what, monkeypatch):
    """The pull is interrupted at each of its steps, and has then acknowledged what it returns."""
    monkeypatch.setattr(blobs, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(blobs, "PATIENCE_SECONDS", 0.02)
    one, two = twins
    before, deed = holder(what, store, one)

    def check(number):
        assert_there(store, two, number)
        prune(store, dry_run=False)
        assert_there(store, two, f"{number}, then a prune")
        assert_only_right_blobs(store, number)

    assert every_step(store, before, deed, lambda: store.pull(two), kill=False, check=check) > 20


def assert_only_right_blobs(store: Store, case: object) -> None:
    """A blob has its bytes, in one place: a second is only where a blob is hard-linked."""
    for blob in store.blobs.folder.iterdir():
        assert describe_file(blob).sha256 == blob.name, case
        assert blob.is_symlink() or blob.lstat().st_nlink > 1, case


def test_view_that_is_being_removed_is_still_found(store, lab):
    """As when the removal is slow, or was killed, after a pull has named the view."""
    installed = store.pull(lab)
    installed.folder.rename(store.views / f".aside-{lab.digest}-0123")
    assert_there(store, lab, "aside")
    (found,) = store.installed()
    assert store.find(lab.reference) == found and found.folder.name.startswith(".aside-")
    assert store.pull(lab) == installed and installed.folder.is_dir()  # back, without a fetch


def test_two_removals_and_a_pull(store, lab, monkeypatch):
    """The first has found no reference and is slow; a pull takes the view back; the second sets it aside again."""
    orphan_view(store, lab)
    names, paths = Store.names, []

    def slow(self: Store, digest: str) -> bool:
        found = names(self, digest)
        monkeypatch.setattr(Store, "names", names)
        store.pull(lab)
        prunes.remove(store, Installed("other", "tiny", 1, "0" * 64, store.view(lab.digest)))
        paths.extend(store.views.iterdir())
        return found

    (store.refs / "other" / "tiny").mkdir(parents=True)
    monkeypatch.setattr(Store, "names", slow)
    store.remove_view(store.view(lab.digest))
    assert paths and names(store, lab.digest)
    assert_there(store, lab, "two removals")


def test_damaged_view_is_replaced_in_one_step(store, lab, monkeypatch):
    installed = store.pull(lab)
    (installed.folder / "README.md").unlink()
    seen = []
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *args: (rename(*args), seen.append(installed.folder.is_dir()))[0])
    store.pull(lab)
    assert_there(store, lab, "repaired")
    assert all(seen)
