"""Writes files and folders completely or not at all: first under a temporary name, synced, then renamed."""

import contextlib
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
    """Syncs the files, then gives the folder its name in one step. A folder that had that name is removed."""
    import shutil
    import tempfile

    mode = default_mode(folder)
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)
        if path.is_file():
            with path.open("rb") as f:
                os.fsync(f.fileno())
    folder.chmod(out.stat().st_mode & 0o777 if out.exists() else mode)
    sync_folder(folder)
    if out.exists():  # a rename cannot replace a folder that is not empty
        old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        out.rename(old / out.name)
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(out)
    sync_folder(out.parent)


def default_mode(folder: Path) -> int:
    """The mode of a new folder in `folder`, by this process's umask, which cannot be asked without changing it."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=folder, prefix=".mode-") as place:
        probe = Path(place) / "probe"
        probe.mkdir()
        return probe.stat().st_mode & 0o777


def write_atomically(path: Path, data: bytes, *, private: bool = False) -> None:
    """Writes a temporary file next to it, syncs, renames it over the file, and syncs the folder.

    A file that was there keeps its mode; a new one has that of the umask, or can only be read by its owner if it is
    `private`.
    """
    import tempfile

    temporary = None
    try:
        mode = 0o600 if private else default_mode(path.parent) & 0o666
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
            temporary = Path(f.name)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        with contextlib.suppress(FileNotFoundError):
            mode = path.stat().st_mode & 0o777
        temporary.chmod(mode)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as e:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {safe_text(path)}: {e.strerror}") from None


def sync_folder(folder: Path) -> None:
    """Syncs a folder, so that the names in it are durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Creates the folder and its parents, and syncs its name."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)
        sync_folder(folder.parent)
