"""Files by digest: fetched, hashed while they are written, and published only if they are right.

The steps follow containerd's content store: an ingest file that belongs to one process, then fsync, checks of size and
digest, a link that fails if the name exists, and fsync of the folder. Correctness does not depend on locks; a lock only
keeps two processes from fetching the same bytes. Every published file has the modification time `PUBLISHED`, so that a
later change can be detected without hashing.

A view never needs a blob: blobs only save a later pull from fetching the same bytes again. So where the file system has
no reflinks, and a view has a copy of its own, the blob is replaced by a symbolic link to that copy: the bytes are kept
once, and are still found by their digest.
"""

import errno
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import IntegrityError
from ..formats.fields import describe_file
from ..system.files import make_folder, sync_folder
from ..system.urls import shown
from ..text import safe_text, sniff, warn

PUBLISHED = 946_684_800
"""Modification time of every published file: 2000-01-01 UTC, which every file system can store."""

LOOK_SECONDS = 10.0  # between two checks of what another process fetches
PATIENCE_SECONDS = 60.0  # without a new byte from it, before continuing without the lock
BLOCK = 1 << 20
FLUSH = 8 << 20

# Errors of file systems that do not support reflinks or hard links, or not between these folders.
CANNOT_LINK = {
    errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.EPERM, errno.ENOSYS, errno.EMLINK,
}  # fmt: skip


_LINK = re.compile(r"\.\./views/[0-9a-f]{64}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""What the symbolic link of a blob may contain: the only copy of its bytes, in a view."""


class Blobs:
    """`blobs/<sha256>`, and `ingest/`, where they are written."""

    def __init__(self, root: Path):
        self.folder, self.ingests, self.locks = root / "blobs", root / "ingest", root / "locks"

    def path(self, sha256: str) -> Path:
        """The path of a blob: the only place that turns a digest into a path."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise IntegrityError(f"'{safe_text(sha256)[:80]}' is not a SHA-256")
        return self.folder / sha256

    def find(self, sha256: str) -> Path | None:
        """The file that has a blob's bytes: the blob, or the file of a view that its link names. None: there is none.

        A blob's file may have other bytes, if it was damaged; `ensure` makes sure that it is right.
        """
        path = self.path(sha256)
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                link = str(path.readlink())
                if not _LINK.fullmatch(link):
                    return None
                path = self.folder.parent / link.removeprefix("../")
                if not stat.S_ISDIR(os.lstat(path.parent).st_mode):  # a view is a folder, no link to one
                    return None
            return path if stat.S_ISREG(os.lstat(path).st_mode) else None
        except OSError:
            return None

    def has(self, sha256: str, size: int) -> bool:
        """Whether the blob exists, judged by its size."""
        try:
            file = self.find(sha256)
            return file is not None and os.lstat(file).st_size == size
        except OSError:  # removed in the meantime
            return False

    def missing(self, sha256: str, size: int) -> int:
        """Bytes still to fetch: none if the blob exists, fewer if a download was interrupted."""
        if self.has(sha256, size):
            return 0
        return size - min(size, max((held for _, held in self._partials(sha256)), default=0))

    def ensure(self, sha256: str, size: int, url: str, on_bytes: Callable[[int], object]) -> None:
        """Makes sure that the blob exists and is right; a damaged one is fetched again.

        Raises:
            IntegrityError: the URL gives other bytes, even when fetched from the start.
            TransportError: it cannot be read.
            OSError: it cannot be written. What was fetched stays for the next try.
        """
        if self._is_right(sha256, size):
            return
        for folder in (self.folder, self.ingests, self.locks):
            make_folder(folder)
        missing = self.missing(sha256, size)
        with self._turn(sha256):
            if self._is_right(sha256, size):  # another process was faster
                on_bytes(missing)
                return
            _discard(self.path(sha256))
            # A partial download may have other bytes, and so may a file that changed between two requests: then fetch
            # everything once.
            if self._ingest(sha256, size, url, on_bytes, resume=True) and (
                wrong := self._ingest(sha256, size, url, on_bytes, resume=False)
            ):
                raise IntegrityError(wrong)

    def place(self, sha256: str, target: Path, *, hard_link: bool = True) -> None:
        """A blob's bytes at `target`, read-only: shared by reflink, else by hard link, else copied.

        Args:
            hard_link: whether the file may have several names. The file of a view that is the only copy never gets
                another one.

        Raises:
            FileNotFoundError: the blob is gone.
        """
        source = self.find(sha256)
        if source is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path(sha256)))
        may_link = hard_link and source == self.path(sha256)
        for way in (_reflink, _hard_link, _copy) if may_link else (_reflink, _copy):
            try:
                return way(source, target)
            except OSError as e:
                if way is _copy or e.errno not in CANNOT_LINK:
                    raise

    def keep_once(self, files: Iterable[tuple[str, Path]], *, dry_run: bool = False) -> dict[Path, int]:
        """Replaces blobs of which a view has a copy of its own by links to that copy, which is hashed first.

        A reflink takes no space, so nothing is done where they work. An error of the file system (some have no symbolic
        links) leaves the blob as it is.

        Args:
            files: digests, and files `views/<digest>/<name>` that have these bytes and are durable under this name.
            dry_run: only look.

        Returns:
            The blobs that were replaced, and how many bytes that freed.
        """
        spare = {(sha256, file): size for sha256, file in files if (size := self._spare(sha256, file)) is not None}
        if not spare or self.can_share()[0]:
            return {}
        replaced = {}
        for (sha256, file), size in spare.items():
            with suppress(OSError):
                if describe_file(file).sha256 != sha256:
                    continue
                if not dry_run:
                    self._replace_by_link(sha256, file)
                if size:
                    replaced[self.path(sha256)] = size
        return replaced

    def _spare(self, sha256: str, file: Path) -> int | None:
        """How many bytes are freed if a link to a view's file replaces the blob; 0 if the blob is a link to a file that
        is gone. None: it stays as it is."""
        blob = self.path(sha256)
        try:
            one, other = os.lstat(blob), os.lstat(file)
        except OSError:
            return None
        if not (stat.S_ISREG(other.st_mode) and _LINK.fullmatch(_link_to(file))):
            return None
        if stat.S_ISLNK(one.st_mode):
            return 0 if self.find(sha256) is None else None
        # With a second name, the blob is already shared with a view.
        return one.st_size if stat.S_ISREG(one.st_mode) and one.st_nlink == 1 else None

    def _replace_by_link(self, sha256: str, file: Path) -> None:
        import secrets

        link = self.ingests / f"link.{secrets.token_hex(8)}"
        link.symlink_to(_link_to(file))
        try:
            link.replace(self.path(sha256))
        finally:
            link.unlink(missing_ok=True)

    def can_share(self) -> tuple[bool, bool]:
        """Whether a view's file can be a reflink, and whether it can be a hard link, of its blob: tried with a small
        file, since file systems do not say. False too if nothing can be written."""
        import shutil
        import tempfile

        try:
            for folder in (self.folder, self.ingests):
                make_folder(folder)
            folder = Path(tempfile.mkdtemp(dir=self.ingests, prefix="probe."))
        except OSError:
            return False, False
        try:
            probe = folder / "blob"
            probe.write_bytes(bytes(4096))
            return _works(_reflink, probe, folder / "reflink"), _works(_hard_link, probe, folder / "link")
        except OSError:
            return False, False
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _is_right(self, sha256: str, size: int) -> bool:
        file = self.find(sha256) if self.has(sha256, size) else None
        try:
            return file is not None and describe_file(file).sha256 == sha256
        except FileNotFoundError:
            return False

    def _ingest(self, sha256: str, size: int, url: str, on_bytes: Callable[[int], object], *, resume: bool) -> str:
        """Fetches into this process's own file and publishes it. Returns what was wrong with the bytes, if anything."""
        import tempfile

        from . import transport  # both are slow to import, and `zoo list` does not fetch

        partials = self._partials(sha256)
        fd, name = tempfile.mkstemp(dir=self.ingests, prefix=f"{sha256}.{_owner()}.")
        ingest = Path(name)
        try:
            with _Hasher() as hasher:
                held = _copy_largest(partials, size, fd, hasher) if resume else 0
                for chunk in transport.fetch(url, size, held):
                    hasher.update(chunk)
                    _write_all(fd, chunk)
                    held = _start_flush(fd, held, len(chunk))
                    on_bytes(len(chunk))
                _seal(fd)
                actual = hasher.hexdigest()
            if actual != sha256 or os.fstat(fd).st_size != size:
                wrong = (
                    f"{shown(url)} has the SHA-256 {actual[:12]}…, the registry says"
                    f" {sha256[:12]}…{sniff(os.pread(fd, 512, 0))}"
                )
                for partial in (ingest, *(path for path, _ in partials)):
                    partial.unlink(missing_ok=True)
                return wrong
            self._publish(ingest, sha256)
            for partial, _ in self._partials(sha256):
                partial.unlink(missing_ok=True)
            return ""
        except BaseException:
            self._keep_largest(ingest, sha256)
            raise
        finally:
            os.close(fd)

    def _publish(self, ingest: Path, sha256: str) -> None:
        # Another process may have published the same bytes in the meantime, and removed this process's file.
        with suppress(FileExistsError):
            try:
                publish(ingest, self.path(sha256))
            except FileNotFoundError:
                if not self.path(sha256).exists():
                    raise

    def _keep_largest(self, ingest: Path, sha256: str) -> None:
        """After a failure: keeps one partial download for the next try; a full disk does not need a second."""
        with suppress(OSError):
            own = ingest.stat().st_size
            if any(size >= own for path, size in self._partials(sha256) if path != ingest) or not own:
                ingest.unlink()

    def _partials(self, sha256: str) -> list[tuple[Path, int]]:
        """The ingest files of a digest and their sizes, the largest first."""
        found = []
        for path in self.ingests.glob(f"{self.path(sha256).name}.*"):
            with suppress(OSError):
                found.append((path, path.stat().st_size))
        return sorted(found, key=lambda item: -item[1])

    @contextmanager
    def _turn(self, sha256: str) -> Iterator[None]:
        """Lets one process at a time fetch a blob, if locks work on this file system."""
        from filelock import FileLock

        lock = FileLock(self.locks / f"{sha256}.lock")
        held = self._acquire(lock, sha256)
        try:
            yield
        finally:
            if held:
                with suppress(OSError):
                    lock.release()

    def _acquire(self, lock, sha256: str) -> bool:
        from filelock import Timeout

        grown, since = -1, time.monotonic()
        while True:
            try:
                lock.acquire(timeout=LOOK_SECONDS)
                return True
            except Timeout:
                pass
            except (OSError, NotImplementedError):  # NFS, GPFS, CIFS: not every file system has locks
                return False
            now = max((size for _, size in self._partials(sha256)), default=0)
            if now != grown:
                grown, since = now, time.monotonic()
            if time.monotonic() - since >= PATIENCE_SECONDS:
                warn("another process makes no progress fetching %s…; continuing without it", sha256[:12])
                return False
            warn("waiting for another process to fetch %s… (%s bytes so far)", sha256[:12], f"{now:,}")


class _Hasher:
    """SHA-256 in its own thread, so that hashing and writing together only take as long as the slower one."""

    def __init__(self) -> None:
        import hashlib
        import queue

        self._sha256 = hashlib.sha256()
        self._chunks: queue.Queue[bytes | None] = queue.Queue(maxsize=16)  # limited, so that memory use stays constant
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "_Hasher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._chunks.put(None)

    def _work(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            self._sha256.update(chunk)

    def update(self, chunk: bytes) -> None:
        self._chunks.put(chunk)

    def hexdigest(self) -> str:
        self._chunks.put(None)
        self._thread.join()
        return self._sha256.hexdigest()


# --- Files ------------------------------------------------------------------------------------------------------------


def publish(source: Path, target: Path) -> None:
    """Gives a finished file its name, durably.

    Raises:
        FileExistsError: the name is taken; the existing file stays.
    """
    try:
        target.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError as e:
        if e.errno not in CANNOT_LINK:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
        source.rename(target)  # no hard links here: at worst, this replaces a file that has just appeared
    sync_folder(target.parent)


def _link_to(file: Path) -> str:
    """The contents of a blob's link to a file of a view."""
    return f"../views/{file.parent.name}/{file.name}"


def _works(way: Callable[[Path, Path], object], blob: Path, target: Path) -> bool:
    try:
        way(blob, target)
    except OSError:
        return False
    return True


def _reflink(blob: Path, target: Path) -> None:
    import fcntl

    FICLONE = 0x40049409  # linux/fs.h
    _fill(blob, target, lambda source, fd: fcntl.ioctl(fd, FICLONE, source))


def _hard_link(blob: Path, target: Path) -> None:
    target.hardlink_to(blob)
    if target.is_symlink():  # which the blob has just become
        target.unlink()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(blob))


def _copy(blob: Path, target: Path) -> None:
    def copy(source: int, fd: int) -> None:
        while block := os.read(source, BLOCK):
            _write_all(fd, block)

    _fill(blob, target, copy)


def _fill(blob: Path, target: Path, fill: Callable[[int, int], object]) -> None:
    source = os.open(blob, os.O_RDONLY)
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fill(source, fd)
            _seal(fd)
        except BaseException:
            target.unlink()
            raise
        finally:
            os.close(fd)
    finally:
        os.close(source)


def _seal(fd: int) -> None:
    """Makes a file read-only, gives it the modification time of published files, and syncs it."""
    os.fchmod(fd, 0o444)
    os.utime(fd, (PUBLISHED, PUBLISHED))
    os.fsync(fd)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _start_flush(fd: int, begin: int, count: int) -> int:
    """Makes the kernel start writing back recent data, so that the fsync at the end is shorter.

    Args:
        begin, count: the bytes in the file. Returns their end.
    """
    end = begin + count
    block = end // FLUSH * FLUSH
    if block > begin and hasattr(os, "posix_fadvise"):  # DONTNEED does not drop what is not on the disk yet
        os.posix_fadvise(fd, block - FLUSH, FLUSH, os.POSIX_FADV_DONTNEED)
    return end


def _discard(path: Path) -> None:
    """Removes anything that has the name of a blob but is not one."""
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- Interrupted fetches ----------------------------------------------------------------------------------------------


def _owner() -> str:
    import socket

    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:60]
    return f"{os.getpid()}@{host}"


def _is_abandoned(partial: Path) -> bool:
    """Whether the process that wrote an ingest file has certainly ended: it ran on this host and no longer exists."""
    pid, _, host = partial.name.split(".")[1].partition("@")
    if host != _owner().partition("@")[2] or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _copy_largest(partials: list[tuple[Path, int]], size: int, fd: int, hasher: _Hasher) -> int:
    """Copies the largest partial download into the new file and hashes it; returns the number of bytes.

    It is copied and not reused: a process that still writes to it must not change what this one publishes.
    """
    copied = 0
    for partial, _ in partials:
        with suppress(FileNotFoundError), partial.open("rb") as f:
            while block := f.read(min(BLOCK, size - copied)):
                hasher.update(block)
                _write_all(fd, block)
                copied += len(block)
            break
    for partial, _ in partials:
        if _is_abandoned(partial):
            partial.unlink(missing_ok=True)
    return copied
