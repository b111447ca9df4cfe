"""Fails the N-th file operation of a pull, for N = 1, 2, … until a pull meets no fault; SQLite's method.

    LD_PRELOAD=failing_calls.so python -m tests.sweep URL FOLDER

For each kind of operation, once and from then on: the pull ends with the exit code of a storage error or succeeds, what
is visible is right, and the next pull without faults succeeds. Prints one JSON line a fault that broke this, then a
count of all. Every pull is a fork of this process, so that a fault costs milliseconds.
"""

import ctypes
import errno
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.pullers import entry_at
from zoo.errors import StoreError, ZooError
from zoo.formats.registry import Entry
from zoo.store import check_apart as apart
from zoo.store import transport
from zoo.store.store import Store

KINDS = ("open", "write", "fsync", "chmod", "utime", "mkdir", "link", "rename", "unlink")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EROFS)
MOST = 400  # a sweep that needs more is no sweep

shim = ctypes.CDLL(None)


def forked(work: Callable[[], int]) -> int:
    """The exit code of a fork that does the work."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 70
    try:
        code = work()
    except BaseException as e:
        print(repr(e)[:300], file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def pull(root: Path, entry: Entry, fault: tuple[str, int, int, int] | None) -> int:
    """0, or the exit code of a ZooError; with 100 added when the fault was met."""
    if fault:
        kind, number, error, persistent = fault
        shim.arm(os.fsencode(root), kind.encode(), number, error, persistent)
    code = 0
    try:
        Store(root).pull(entry)
    except ZooError as e:
        code = e.exit_code
        if fault and isinstance(e, StoreError) and os.strerror(fault[2]) not in str(e) and str(root) not in str(e):
            code = 71  # names neither path nor cause
    return code + (100 if fault and shim.calls_seen() >= fault[1] else 0)


def is_wrong(root: Path, digest: str, succeeded: bool) -> bool:
    """Whether something wrong is visible, or nothing where there should be something."""
    store = Store(root)
    there = store.installed()
    blobs = store.blobs.folder.glob("*")
    return (
        (succeeded and [i.digest for i in there] != [digest])
        or any(store.verify(i) for i in there)
        or any(hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name for blob in blobs)
    )


def look_and_pull_again(root: Path, entry: Entry, succeeded: bool) -> int:
    """0 when all is right: now, and after a pull without faults."""
    if is_wrong(root, entry.digest, succeeded):
        return 1
    if pull(root, entry, None):
        return 2
    return 3 if is_wrong(root, entry.digest, True) else 0


def fault_is_met(root: Path, entry: Entry, fault: tuple[str, int, int, int]) -> bool:
    """One pull with a fault and one without; False when there was no such call. Prints what went wrong."""
    met, code = divmod(forked(lambda: pull(root, entry, fault)), 100)
    then = forked(lambda: look_and_pull_again(root, entry, code == 0))
    if code not in (0, StoreError.exit_code) or then:
        print(json.dumps({"fault": fault, "exit": code, "then": then}))
    shutil.rmtree(root, ignore_errors=True)
    return bool(met)


def main(url: str, folder: Path) -> None:
    apart.check_apart = lambda folder: []
    transport.BACKOFF_SECONDS = 0.01
    entry = entry_at(url)
    faults = 0
    for kind, persistent in itertools.product(KINDS, (0, 1)):
        for number in range(1, MOST):
            fault = kind, number, ERRORS[number % len(ERRORS)], persistent
            if not fault_is_met(folder / "store", entry, fault):
                break
            faults += 1
    print(json.dumps({"faults": faults}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
