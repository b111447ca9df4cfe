"""Temporary folders that a process locks while it uses them, so that what a killed one left is recognised and removed.

unfinished/<digest of the path>     in the store: the path of a folder that is being written elsewhere, for `zoo prune`
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreError
from .places import home

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, so nothing is recognised
    fcntl = None

UNFINISHED = ".zoo-unfinished-"
"""How the names of folders begin that are being written next to their final place."""


def locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder that only this user can read. It is locked until the descriptor is closed, also by the end of the
    process. What killed processes left next to it under the same prefix is removed."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        if fcntl is None:
            return folder, os.open(os.devnull, os.O_RDONLY)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for a killed one's, before it was locked
            continue
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_SH)
        if folder.exists():
            break
        os.close(lock)
    for left in parent.glob(f"{prefix}*"):
        if left != folder:
            remove_abandoned(left)
    return folder, lock


def is_abandoned(folder: Path) -> bool:
    """Whether a locked folder of this user was left by a process that was killed."""
    with contextlib.suppress(OSError), _taken(folder):
        return True
    return False


def remove_abandoned(folder: Path) -> None:
    """Removes the folder if it is abandoned."""
    with contextlib.suppress(OSError), _taken(folder):
        shutil.rmtree(folder)


@contextlib.contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Locks a folder that nobody uses; OSError for any other."""
    if fcntl is None or folder.lstat().st_uid != os.getuid():
        raise PermissionError
    fd = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


class LockedFolder:
    """A `locked_folder` among the temporary files, removed at the end of a `with` block, by `cleanup`, with this object
    or, if this process is killed, by the next one that makes a folder of the same prefix."""

    def __init__(self, prefix: str):
        self.path, lock = locked_folder(Path(tempfile.gettempdir()), prefix)
        self.cleanup = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.cleanup()


def _remove(folder: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not remove its parent's
        shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


@contextlib.contextmanager
def unfinished_folder(parent: Path, *, noted: bool = True) -> Iterator[Path]:
    """A temporary folder that gets its final name next to it, or whose files do; removed at the end, unless it has it.

    If this process is killed, the next one that writes into `parent` removes it, and so does `zoo prune` if it was
    `noted` or is in the store.
    """
    folder, lock = locked_folder(parent, UNFINISHED)
    note = _note(folder) if noted else None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        if note:
            note.unlink(missing_ok=True)


def _note(folder: Path) -> Path | None:
    """Writes the folder's path into the store; None if the store cannot be written."""
    path = os.fsencode(folder.absolute())
    with contextlib.suppress(OSError, StoreError):
        notes = home() / "unfinished"
        notes.mkdir(parents=True, exist_ok=True)
        note = notes / hashlib.sha256(path).hexdigest()[:16]
        note.write_bytes(path)
        return note
    return None


def abandoned(store: Path) -> Iterator[Path]:
    """The folders that killed processes left wherever they wrote, and the notes about folders that are gone.

    Args:
        store: the folder of the store, in which they were noted.
    """
    for note in sorted(store.glob("unfinished/*")):
        try:
            folder = Path(os.fsdecode(note.read_bytes()))
        except OSError:
            continue
        if not folder.is_absolute() or not folder.name.startswith(UNFINISHED) or not folder.is_dir():
            yield note
        elif is_abandoned(folder):
            yield from (folder, note)
