"""Writes files and folders completely or not at all: first under a temporary name, synced, then renamed."""

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from ..errors import StoreError
from ..text import safe_text, sniff


@contextlib.contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `out`; deleted at the end, unless `put_in_place` renamed it."""
    from .temporary import unfinished_folder  # what it needs is slow to import, and `zoo list` does not write

    try:
        make_folder(out.parent)
        with unfinished_folder(out.parent) as folder:
            yield folder
    except OSError as e:
        raise StoreError(f"cannot write {safe_text(out)}: {e.strerror or safe_text(e)}") from e


def put_in_place(folder: Path, out: Path) -> None:
    """Syncs a folder and all that is in it, then gives it its name as `replace_folder` does. Modes follow the umask; a
    folder that had that name passes its mode on."""
    mode = default_mode(folder)
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)
        sync_file(path)
    folder.chmod(out.stat().st_mode & 0o777 if out.exists() else mode)
    sync_folder(folder)
    replace_folder(folder, out)


def replace_folder(folder: Path, out: Path) -> None:
    """Gives a synced folder its name in one step, and syncs the name. If there is a folder of that name, the two
    exchange their names: `folder` is then the old one, which the caller deletes.

    Where the file system cannot exchange names (some answer EINVAL), the old folder becomes `<out>.old` for the moment
    between two renames. A process that is killed then leaves the old one whole under that name.
    """
    if not out.exists():
        folder.rename(out)
    elif not exchange(folder, out):
        old = next(free for n in itertools.count() if not (free := _with_end(out, f".old{n or ''}")).exists())
        out.rename(old)
        try:
            folder.rename(out)
        except OSError:
            old.rename(out)
            raise
        sync_folder(out.parent)
        old.rename(folder)
    sync_folder(out.parent)


def _with_end(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step. False if the system (Linux has it: renameat2) or the file system cannot."""
    import ctypes

    AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if not libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def default_mode(folder: Path) -> int:
    """The mode of a new folder in `folder`, by this process's umask, which cannot be asked without changing it."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=folder, prefix=".mode-") as place:
        probe = Path(place) / "probe"
        probe.mkdir()
        return probe.stat().st_mode & 0o777


def write_atomically(path: Path, data: bytes, *, private: bool = False, synced: bool = True) -> None:
    """Writes a file in a temporary folder next to it, syncs it, renames it over the old one, and syncs the folder.

    A file that was there keeps its mode; a new one has that of the umask. Only its owner can read a `private` one. One
    that is not `synced` may be lost in a power cut: for what is replaced many times a second.
    """
    from .temporary import unfinished_folder

    try:
        with unfinished_folder(path.parent, noted=False) as folder:
            temporary = folder / "file"
            with _new_file(temporary, 0o600 if private else 0o666) as f:
                f.write(data)
                if synced:
                    f.flush()
                    os.fsync(f.fileno())
            with contextlib.suppress(FileNotFoundError):
                temporary.chmod(path.stat().st_mode & (0o600 if private else 0o777))
            temporary.replace(path)
            if synced:
                sync_folder(path.parent)
    except OSError as e:
        raise StoreError(f"cannot write {safe_text(path)}: {e.strerror}") from None


@contextlib.contextmanager
def made_beside(out: Path) -> Iterator[Path]:
    """A path next to `out` at which the caller makes a file or a folder. At the end of the block it is synced and gets
    the name `out`, unless there is something of that name by then; after an error it is removed."""
    from .temporary import unfinished_folder

    try:
        with unfinished_folder(out.parent, noted=False) as folder:
            new = folder / out.name
            yield new
            if not new.is_dir():
                sync_file(new)
            elif hasattr(os, "sync"):  # one for all files in it
                os.sync()
            else:  # Windows
                for path in new.rglob("*"):
                    sync_file(path)
            if not new.is_dir() or not out.exists():
                new.replace(out)
            sync_folder(out.parent)
    except OSError as e:
        raise StoreError(f"cannot write {safe_text(out)}: {e.strerror or safe_text(e)}") from None


def _new_file(path: str | Path, mode: int = 0o666) -> BinaryIO:
    """Opens a file that must not exist yet, for writing. The umask applies to its mode."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode), "wb")


class FilesTogether:
    """Writes many small files, each completely or not at all; they are synced together, since to sync each takes longer
    than to make it. A file gets its name with `commit`, at the latest some seconds later, or at the end of the block.

    Args:
        seconds: at most so many pass before files that were written get their names.
    """

    def __init__(self, seconds: float = 2.0):
        self._seconds, self._last = seconds, time.monotonic()
        self._waiting: list[tuple[str, str]] = []  # temporary name, name
        self._numbers = itertools.count()
        self._folders: dict[str, str] = {}  # of the temporary files, for each folder that is written into
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            self.commit()

    def write(self, path: str | Path, data: bytes) -> None:
        """Writes a file that replaces one of the same name; its folder must exist."""
        path = str(path)  # Path would take longer than to write
        try:
            temporary = f"{self._beside(os.path.dirname(path))}/{next(self._numbers)}"  # noqa: PTH120
            with _new_file(temporary) as f:
                f.write(data)
                if not hasattr(os, "sync"):  # Windows
                    f.flush()
                    os.fsync(f.fileno())
        except OSError as e:
            raise StoreError(f"cannot write {safe_text(path)}: {e.strerror}") from None
        self._waiting.append((temporary, path))
        if time.monotonic() - self._last > self._seconds:
            self.commit()

    def _beside(self, parent: str) -> str:
        if parent not in self._folders:
            from .temporary import unfinished_folder

            self._folders[parent] = str(self._stack.enter_context(unfinished_folder(Path(parent), noted=False)))
        return self._folders[parent]

    def commit(self) -> None:
        """Syncs what was written, and gives it its names; a file that cannot get its own does not stop the others."""
        waiting, self._waiting = self._waiting, []
        if waiting and hasattr(os, "sync"):
            os.sync()
        failed: StoreError | None = None
        for temporary, path in waiting:
            try:
                os.replace(temporary, path)  # noqa: PTH105 - there are many
            except OSError as e:
                failed = failed or StoreError(f"cannot write {safe_text(path)}: {e.strerror}")
        for folder in {os.path.dirname(path) for _, path in waiting}:  # noqa: PTH120
            sync_folder(Path(folder))
        self._last = time.monotonic()
        if failed:
            raise failed


def sniff_file(path: Path) -> str:
    """`; it is a git-lfs pointer: …` for a local file of an unexpected size or content; else empty."""
    try:
        with path.open("rb") as f:
            return sniff(f.read(512))
    except OSError:
        return ""


def sync_folder(folder: Path) -> None:
    """Syncs a folder, so that the names in it are durable."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Syncs the contents of a file; of a folder, the names in it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folders(folder: Path, top: Path) -> None:
    """Syncs the names in a folder, and those of its parents up to and including `top`."""
    sync_folder(folder)
    while folder != top:
        folder = folder.parent
        sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Creates the folder and its parents, and syncs its name."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
