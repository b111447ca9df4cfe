"""Removes models from the store, and deletes what no model needs any more.

A process may be killed at any point, so everything that is not visible as a model is cleaned up here.
"""

from __future__ import annotations

import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidFileError
from ..formats import manifest as manifests
from ..formats.fields import digest_of
from ..formats.strictyaml import PARSED
from ..names import MANIFEST, NAME
from ..system.files import sync_folder
from ..system.temporary import UNFINISHED, abandoned, is_abandoned, remove_abandoned
from . import checked
from .snapshot import PREFIX, RUNNING
from .store import Installed, Store, asides, origin, read_digest, remove_path, storage

YOUNG_SECONDS = 3600
"""Newer files may belong to a running pull; `prune` keeps them."""


@dataclass(frozen=True)
class Pruned:
    """What `prune` removed, or would remove."""

    paths: tuple[str, ...]  # relative to the store, if they are in it
    bytes: int


def remove(store: Store, installed: Installed) -> int:
    """Removes a model and what no other model needs. Returns the number of bytes freed."""
    ref = store.refs / installed.registry / installed.name / str(installed.version)
    with storage(store.root):
        for path in (ref, *asides(ref)):
            path.unlink(missing_ok=True)
        sync_folder(ref.parent)
        if store.names(installed.digest):
            return 0
        manifest, _ = store.read_manifest(installed)
        if manifest is None:  # its files are unknown, and `prune` finds them
            return _remove_all(store, [installed.folder]).bytes
        needed = _needed_blobs([folder for folder in _view_folders(store) if folder != installed.folder])
        digests = {installed.digest, *(f.sha256 for f in manifest.files.values())}
        unneeded = map(store.blobs.path, digests - needed.keys())
        freed = _remove_all(store, [installed.folder, *unneeded]).bytes
        # The view may have had the only copy of files that another view has too.
        kept = store.blobs.keep_once((sha256, needed[sha256]) for sha256 in digests & needed.keys())
        return freed + sum(kept.values())


def forget(store: Store, registry: str) -> None:
    """Forgets which digests a registry's versions had: its name may now belong to another registry."""
    with storage(store.root):
        if re.fullmatch(NAME, registry) and (store.seen / registry).is_dir():
            shutil.rmtree(store.seen / registry)


def prune(store: Store, *, dry_run: bool) -> Pruned:
    """Removes blobs that no model needs, or that a view has a copy of, views without references and vice versa,
    interrupted downloads, folders that killed commands left, remembered checks of models that are gone, and what
    registries and manifests say, which is soon remembered again.

    Anything newer than an hour is kept, as it may belong to a running pull, but for blobs of which there is a copy, and
    for folders that are locked while they are used.
    """
    with storage(store.root):
        if not dry_run:
            for folder in asides(store.views / "*"):
                if store.names(origin(folder).name):  # a removal was killed before it put it back
                    store.remove_view(folder)
        unneeded = list(_unneeded(store))
        pruned = _pruned(store, unneeded, _freed(unneeded)) if dry_run else _remove_all(store, unneeded)
        twice = _keep_once(store, [f for f in _view_folders(store) if f not in unneeded], dry_run=dry_run)
        return Pruned(tuple(sorted(pruned.paths + twice.paths)), pruned.bytes + twice.bytes)


def _keep_once(store: Store, folders: list[Path], *, dry_run: bool) -> Pruned:
    """Removes the second copies that older versions of zoo kept, and those that a pull left that was killed."""
    if store.views.is_dir() and not dry_run:
        sync_folder(store.views)  # such a pull may not have done it
    kept = store.blobs.keep_once(_needed_blobs(folders).items(), dry_run=dry_run)
    return _pruned(store, list(kept), sum(kept.values()))


def _remove_all(store: Store, paths: list[Path]) -> Pruned:
    """Removes what nothing needed when it was listed, unless a pull has just named it."""
    removed, freed = [], 0
    for path in paths:
        size = _freed([path])
        if path.is_relative_to(store.refs):
            store.remove_stale_ref(path)
        elif path.parent == store.views and re.fullmatch("[0-9a-f]{64}", origin(path).name):
            store.remove_view(path)
        elif path.name.startswith((UNFINISHED, PREFIX)):
            remove_abandoned(path)
        else:
            remove_path(path)
        if not path.exists():
            removed.append(path)
            freed += size
    return _pruned(store, removed, freed)


def _pruned(store: Store, paths: list[Path], freed: int) -> Pruned:
    return Pruned(
        tuple(sorted(str(p.relative_to(store.root) if p.is_relative_to(store.root) else p) for p in paths)), freed
    )


def _unneeded(store: Store) -> Iterator[Path]:
    digests = {read_digest(path) for path in store.refs.glob("*/*/*")}
    folders = _view_folders(store)
    orphans = [f for f in folders if origin(f).name not in digests and _is_old(f)]
    yield from orphans
    needed = _needed_blobs([f for f in folders if f not in orphans])
    for path in _children(store.blobs.folder):
        if path.name not in needed and _is_old(path):
            yield path
    yield from filter(_is_old, _children(store.blobs.ingests))
    for path in store.refs.glob("*/*/*"):
        digest = read_digest(path)
        if _is_old(path) and not (digest and store.shown(digest)):
            yield path
    yield from filter(_is_old, checked.unneeded(store.root))
    yield from filter(_is_old, sorted((store.root / PARSED).glob("*/*")))  # whatever is needed is soon there again
    yield from filter(is_abandoned, sorted((store.root / RUNNING).glob(f"{PREFIX}*")))
    unfinished = sorted(store.root.rglob(f"{UNFINISHED}*"))  # of files in the store, of which there is no note
    yield from dict.fromkeys([*abandoned(store.root), *filter(is_abandoned, unfinished)])


def _view_folders(store: Store) -> list[Path]:
    """Every view, including unfinished ones, whose names begin with a dot."""
    return _children(store.views)


def _needed_blobs(folders: list[Path]) -> dict[str, Path]:
    """The digests of the files of views, and for each the path of one such file."""
    needed = {}
    for folder in folders:
        try:
            data = (folder / MANIFEST).read_bytes()
            manifest = manifests.parse(data, str(folder))
        except (OSError, InvalidFileError):
            continue
        needed |= {digest_of(data): folder / MANIFEST}
        needed |= {file.sha256: folder / name for name, file in manifest.files.items()}
    return needed


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_old(path: Path) -> bool:
    """Age by the inode's last change: the modification time of published files is always the same."""
    try:
        return time.time() - path.lstat().st_ctime >= YOUNG_SECONDS
    except OSError:
        return False


def _freed(paths: list[Path]) -> int:
    """Bytes freed by removing the paths. A file with several names, as in a view of hard links, counts once, and only
    if all of its names are removed."""
    names: dict[tuple[int, int], int] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for path in paths:
        for file in (path, *path.rglob("*")):
            with suppress(OSError):
                status = file.lstat()
                inode = status.st_dev, status.st_ino
                names[inode] = names.get(inode, 0) + 1
                sizes[inode] = (status.st_size, status.st_nlink) if stat.S_ISREG(status.st_mode) else (0, 0)
    return sum(size for inode, (size, links) in sizes.items() if names[inode] >= links)
