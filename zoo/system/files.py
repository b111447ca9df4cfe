"""Writes files and folders completely or not at all: first under a temporary name, synced, then renamed."""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreError
from ..text import safe_text


@contextlib.contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `out`; deleted at the end, unless `put_in_place` renamed it."""
    import shutil  # these two are slow to import, and `zoo list` does not write
    import tempfile

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as e:
        raise StoreError(f"cannot write {safe_text(out)}: {e.strerror or safe_text(e)}") from e


def put_in_place(folder: Path, out: Path) -> None:
    """Syncs a folder and all that is in it, then gives it its name as `replace_folder` does."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        sync_file(path)
    folder.chmod(0o755)
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


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a temporary file next to it, syncs, renames it over the file, and syncs the folder."""
    import tempfile

    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
            temporary = Path(f.name)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as e:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {safe_text(path)}: {e.strerror}") from None


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
        folder.mkdir(mode=0o755, exist_ok=True)
        sync_folder(folder.parent)
