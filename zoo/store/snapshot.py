"""Private copies of bundles: the bytes that were hashed are the bytes that run.

A folder's files may change while a model runs. So they are copied while they are hashed, into a folder of this process
only, from which the graphs are opened. It is removed with the `Snapshot`; a later process removes what a killed one
left, which it recognises by the lock on the folder.
"""

import errno
import os
import shlex
import shutil
import stat
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import IntegrityError, StoreError
from ..formats.fields import File
from ..names import MANIFEST
from ..system.places import home
from ..system.temporary import locked_folder
from ..text import safe_text, sniff
from .blobs import BLOCK, CANNOT_LINK

RUNNING, PREFIX = "running", "zoo-running-"
"""Where in the store the copies are, and how their names begin."""


class Snapshot:
    """A private folder with a bundle's files.

    Args:
        source: the bundle's folder.
        data: bytes of its model.yaml.
        files: the other files, by name.
        name: of the bundle, as `zoo verify` takes it, for messages.

    Raises:
        IntegrityError: a file differs from its digest.
        StoreError: there is no space for the copy.
    """

    def __init__(self, source: Path, data: bytes, files: Mapping[str, File], name: str):
        self.folder, lock = _make_folder()
        self._finalizer = weakref.finalize(self, _remove, self.folder, lock, os.getpid())
        try:
            (self.folder / MANIFEST).write_bytes(data)
            for file, expected in files.items():
                if wrong := _copy(source / file, self.folder / file, expected):
                    hint = f"`zoo verify {shlex.quote(name)}` lists all differences"
                    raise IntegrityError(f"{name}: {file} {wrong}; {hint}")
        except OSError as e:
            self._finalizer()
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                where = safe_text(self.folder.parent)
                raise StoreError(f"{name} cannot be copied to {where} to run it: {e.strerror}") from None
            raise StoreError(f"{name} cannot be read: {safe_text(e)}") from None
        except BaseException:
            self._finalizer()
            raise


def _copy(source: Path, target: Path, expected: File) -> str:
    """Copies a file and hashes the copy; returns what is wrong with it, or an empty text."""
    import hashlib

    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return "is missing"
    except OSError as e:
        if e.errno == errno.ELOOP:
            return "is not a plain file"
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return "is not a plain file"
    with os.fdopen(fd, "rb", buffering=0) as original, target.open("xb+", buffering=0) as copy:
        if status.st_size != expected.size:
            known = sniff(original.read(2048))
            return f"has {status.st_size:,} bytes; the manifest says {expected.size:,}{known}"
        digest, size = hashlib.sha256(), 0
        if _reflink(original.fileno(), copy.fileno()):
            while block := copy.read(BLOCK):
                digest.update(block)
                size += len(block)
        else:
            while size <= expected.size and (block := original.read(BLOCK)):
                digest.update(block)
                size += len(block)
                _write(copy, block)
        os.fchmod(copy.fileno(), 0o444)
    if (size, digest.hexdigest()) != (expected.size, expected.sha256):
        return f"does not match its SHA-256 {expected.sha256[:12]}…"
    return ""


def _write(copy, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[copy.write(rest) :]


def _reflink(source: int, target: int) -> bool:
    """Makes the target share the source's blocks, until one of them is written; False where that is impossible."""
    import fcntl

    FICLONE = 0x40049409  # linux/fs.h
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as e:
        if e.errno in CANNOT_LINK:
            return False
        raise
    return True


def _make_folder() -> tuple[Path, int]:
    """A new private folder, locked as long as the returned descriptor is open: in the store, or in the folder for
    temporary files if there is no store that can be written."""
    with suppress(OSError, StoreError):
        parent = home() / RUNNING
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return locked_folder(parent, PREFIX)
    parent = Path(tempfile.gettempdir())
    try:
        return locked_folder(parent, PREFIX)
    except OSError as e:
        raise StoreError(f"cannot write {safe_text(parent)}: {e.strerror}") from None


def _remove(folder: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not remove its parent's
        shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
