"""A folder made whole or not at all: written beside the wanted place, then renamed."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import StoreError
from .registry import sync_folder
from .text import safe_text


@contextlib.contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `out`; gone at the end, unless `put_in_place` renamed it."""
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
    """Makes the files durable, then gives the folder its name in one step. A folder that had the name is removed."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            with path.open("rb") as f:
                os.fsync(f.fileno())
    folder.chmod(0o755)
    sync_folder(folder)
    if out.exists():  # a folder that is not empty can't be renamed over
        old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        out.rename(old / out.name)
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(out)
    sync_folder(out.parent)
