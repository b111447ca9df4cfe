"""From a reference or path to a folder that can be run, and to the process that may run it.

What reads manifests, registries and the store is imported by the functions that need it: a folder's worker starts
before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import IntegrityError, InvalidFileError, NotFoundError
from ..formats.fields import digest_of, read_manifest
from ..formats.reference import Reference
from ..names import EXPORT, MANIFEST
from ..system.paths import is_file, user_path
from ..system.places import DEFAULT, distribution_of
from ..system.urls import path_of
from ..text import human_bytes, safe_text, warn
from . import checked as memory
from . import trust

if TYPE_CHECKING:
    from ..formats.manifest import Manifest
    from ..formats.registry import Entry
    from ..system.worker import Worker
    from .snapshot import Snapshot
    from .store import Installed

Meanwhile = Callable[[], object] | None


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder, ready to run, and its manifest."""

    folder: Path
    manifest: Manifest
    digest: str  # SHA-256 of its model.yaml
    reference: str  # for people: `vqvae-fashion:1`, or the folder
    worker: Worker | None = field(default=None, compare=False, repr=False)  # runs its graphs; None: this process does
    snapshot: Snapshot | None = field(default=None, compare=False, repr=False)  # keeps `folder`, if it is a copy


def locate(
    text: str,
    *,
    registries: Sequence[str] = (),
    pull: bool = True,
    isolated: bool | None = None,
    meanwhile: Meanwhile = None,
    on_pull: Callable[[Entry, int], None] | None = None,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> Bundle:
    """The bundle that a reference or a path names; fetched if it is not available locally.

    Models of the default registry are read where they are installed. A pulled model needs no network and no writes.

    Args:
        text: `[registry/]name[:version][@sha256:digest]`, or a bundle's folder: `./tiny`, `/models/tiny`.
        registries: URLs or folders that are searched before the known ones.
        pull: fetch the model if it is not available locally.
        isolated: whether its graphs run in a worker process; None: if `zoo.store.trust` says so.
        meanwhile: called while that process starts, which it then does right away: what the caller needs next.
        on_pull: called before that, with the number of bytes to fetch.
        on_bytes: called with the number of bytes as they arrive.

    Raises:
        NotFoundError: there is no such model, or it is not available locally and `pull` is off.
        ZooError: it cannot be fetched, or is damaged.
    """
    if is_path(text):
        return read_folder(user_path(text), isolated=isolated, meanwhile=meanwhile)
    from ..formats.registry import resolve
    from . import catalogue, default
    from .store import Store

    store, how = Store(), _How(isolated, meanwhile)
    with reference_of(text) as reference:
        try:
            entry = resolve(reference, catalogue.registries(registries))
        except NotFoundError:
            # Its registry is gone or unreadable, but the model was pulled.
            if not default.has_name(reference) and (installed := store.find(reference)):
                return _installed(installed, how.worker(str(installed), installed.digest))
            raise
    if entry.registry.name == DEFAULT:
        return read_in_place(entry, isolated=isolated, meanwhile=meanwhile)
    installed = store.find(entry.reference)
    if installed is None and not pull:
        missing = human_bytes(store.missing(entry))
        raise NotFoundError(f"{entry} is not in the store; `zoo pull {entry}` fetches it ({missing})")
    worker = how.worker(str(entry), entry.digest, entry)
    if installed is None:
        if on_pull:
            on_pull(entry, store.missing(entry))
        installed = store.pull(entry, on_bytes=on_bytes)
    return _installed(installed, worker)


@dataclass(frozen=True)
class _How:
    """Where the caller wants a model to run."""

    isolated: bool | None
    meanwhile: Meanwhile

    def worker(self, name: str, digest: str, entry: Entry | None = None, *, checks: bool = False) -> Worker | None:
        """The worker that runs a model, and if it `checks`, first reads its graphs; None if this process does."""

        def trusted() -> bool:
            return bool(entry and trust.is_trusted(entry.registry)) or trust.was_made_here(digest)

        if not trust.runs_apart(self.isolated, trusted):
            return None
        from ..system.worker import Worker

        worker = Worker(name, checks=checks)
        if self.meanwhile:
            worker.start()
            self.meanwhile()
        return worker


def is_path(text: str) -> bool:
    """Whether a text means a folder. What can be a reference is one, whatever folders there are.

    `tiny` and `lab/tiny` are references; `./tiny`, `tiny/`, `/models/tiny` and `out/models/tiny` are paths.
    """
    if text.startswith((".", "/", "~")) or text.endswith("/") or text.count("/") > 1:
        return True
    return not Reference.fits(text) and _is_model(text)


@contextmanager
def reference_of(text: str) -> Iterator[Reference]:
    """The reference that a text is; if there is a folder of that name as well, one line says which was meant."""
    from . import default

    reference = Reference.parse(text)
    folder = f"./{safe_text(text)}" if _is_model(text) else ""
    try:
        yield reference
    except NotFoundError as e:
        problem = default.install_line(reference) or str(e)
        raise NotFoundError(f"{problem}; the folder is {folder}" if folder else problem) from None
    if folder:
        warn("'%s' is the name of a model here; the folder is %s", safe_text(text), folder)


def _is_model(text: str) -> bool:
    """Whether there is a bundle or an export in a folder."""
    return any(is_file(Path(text) / name) for name in (MANIFEST, EXPORT))


def read_folder(
    folder: Path, *, isolated: bool | None = None, meanwhile: Meanwhile = None, checked: bool = True
) -> Bundle:
    """The bundle in a folder, as a private copy: what is hashed and checked here is what runs.

    Args:
        isolated, meanwhile: as for `locate`.
        checked: refuse graphs that must not be run, if the store does not remember that they may; else the caller does.
    """
    data = read_manifest(folder)
    digest, name = digest_of(data), safe_text(folder)
    checks = checked and not memory.passed(digest)
    worker = _How(isolated, meanwhile).worker(name, digest, checks=checks)
    from ..formats import manifest as manifests
    from .snapshot import Snapshot

    manifest = manifests.parse(data, str(folder / MANIFEST))
    snapshot = Snapshot(folder, data, manifest.files, safe_text(folder_reference(folder)))
    bundle = Bundle(snapshot.folder, manifest, digest, folder_reference(folder), worker, snapshot)
    if checks:
        if unsafe := check_graphs(bundle):
            raise InvalidFileError(f"{name} must not be run: {safe_text('; '.join(unsafe))[:2000]}")
        memory.remember(digest, folder)
    return bundle


def check_graphs(bundle: Bundle) -> list[str]:
    """What `zoo.graph.check` finds in a bundle, one line each. A stranger's graph may crash what reads it, so that is
    done in the process that would run it."""
    if bundle.worker:
        from .check_apart import check_in

        return check_in(bundle.worker, bundle.folder, bundle.manifest)
    from ..graph.check import check

    return check(bundle.folder, bundle.manifest)


def folder_reference(folder: Path) -> str:
    """The text that `locate` takes for a folder: `./tiny`, since `tiny` is a model."""
    return str(folder) if is_path(str(folder)) else f"./{folder}"


def read_in_place(entry: Entry, *, isolated: bool | None = None, meanwhile: Meanwhile = None) -> Bundle:
    """A model of the default registry, in the folder where it is installed."""
    from ..formats import manifest as manifests

    folder = folder_of(entry)
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError:
        raise NotFoundError(f"{entry} is not installed: {safe_text(folder)} has no {MANIFEST}") from None
    if manifests.digest(data) != entry.digest:
        again = f"reinstall {distribution_of(entry.name)}"
        raise IntegrityError(f"{entry}: {safe_text(folder / MANIFEST)} was changed; {again}")
    worker = _How(isolated, meanwhile).worker(str(entry), entry.digest, entry)
    manifest = manifests.parse(data, str(folder / MANIFEST))
    _check_files(folder, manifest, str(entry))
    return Bundle(folder, manifest, entry.digest, str(entry), worker)


def folder_of(entry: Entry) -> Path:
    """The folder of a model of a local registry."""
    return path_of(entry.registry.file_url(entry.files[MANIFEST])).parent


def _installed(installed: Installed, worker: Worker | None) -> Bundle:
    from ..formats import manifest as manifests

    manifest = manifests.read(installed.folder)
    return Bundle(installed.folder, manifest, installed.digest, str(installed), worker)


def _check_files(folder: Path, manifest: Manifest, name: str) -> None:
    """Hashes every file, at 1 ms per MB. Other bytes of the same size would run, and draw something else."""
    from ..formats import manifest as manifests

    if findings := manifests.check_files(folder, manifest):
        raise IntegrityError(f"{safe_text(name)}: {findings[0]}; `zoo verify {safe_text(name)}` lists all differences")
