"""What the processes of the store's tests do; importable, so that they can be started and killed."""

import multiprocessing
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from zoo.errors import ZooError
from zoo.formats import registry
from zoo.formats.registry import Entry
from zoo.store import transport
from zoo.store.store import Store

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.pullers", "requests", "tenacity", "filelock"])


def entry_at(url: str, reference: str = "tiny") -> Entry:
    """An entry of the registry at a URL, which is called `lab`."""
    known = registry.parse(transport.read_small(url, 1 << 20), "lab", url)
    return registry.resolve(registry.Reference.parse(reference), [known])


def pull(url: str, root: Path, reference: str = "tiny", *, locks: str = "real", most_bytes: int | None = None) -> None:
    """Pulls in this process; exit code 0, or that of the error.

    Args:
        locks: `real`; `none`: flock does nothing; `missing`: flock is not implemented.
        most_bytes: of a file that this process can write (RLIMIT_FSIZE), as a disk that is full.
    """
    from zoo.store import check_apart as apart
    from zoo.system.processes import hear_interrupts

    hear_interrupts()  # as the `zoo` command does
    apart.check_apart = lambda folder: []  # has tests of its own, and takes a second
    transport.BACKOFF_SECONDS = 0.01
    _weaken_locks(locks)
    if most_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        Store(root).pull(entry_at(url, reference))
    except ZooError as e:
        print(e, file=sys.stderr)
        sys.exit(e.exit_code)


def pulling(url: str, root: Path, *args: object, **kwargs: object) -> BaseProcess:
    """A process, not yet started, that pulls; the arguments are those of `pull`."""
    return processes.Process(target=pull, args=(url, root, *args), kwargs=kwargs)


def _weaken_locks(kind: str) -> None:
    import errno
    import fcntl

    def missing(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    if kind != "real":
        fcntl.flock = (lambda *_: None) if kind == "none" else missing


def hold_lock(root: Path, sha256: str, ready) -> None:
    """Takes the lock of a blob and keeps it until this process is killed."""
    import time

    from filelock import FileLock

    (root / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / "locks" / f"{sha256}.lock")  # a lock that nobody refers to is released
    lock.acquire()
    ready.set()
    time.sleep(600)


WRITES = {
    "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.truncate", "os.symlink",
    "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "tempfile.mkstemp", "tempfile.mkdtemp",
}  # fmt: skip


def only_read(root: Path, reference: str) -> None:
    """Finds, lists and verifies a model; ends with 99 at the first write, connection or process."""
    import os

    def watch(event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in WRITES:
            os._exit(99)

    sys.addaudithook(watch)
    store = Store(root)
    found = store.find(registry.Reference.parse(reference))
    right = found in store.installed() and store.verify(found) == [] and store.damage(found) == []
    os._exit(0 if right else 1)
