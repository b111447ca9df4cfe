"""Child processes of tests, which end with their test whatever happens: an assertion, a time limit, an interrupt."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess

IGNORING_SIGINT = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""Stands before a command, which then inherits SIGINT as ignored: so do a script's background jobs and many CI jobs."""

GRACE_SECONDS = 10.0


@contextmanager
def started(command: list[object], **options: object) -> Iterator[subprocess.Popen]:
    """A process that leads a group of its own; when the context ends, the whole group is ended.

    Args:
        options: of `subprocess.Popen`.
    """
    with subprocess.Popen(list(map(str, command)), start_new_session=True, **options) as child:
        try:
            yield child
        finally:
            with suppress(ProcessLookupError):  # all have ended
                if child.poll() is None:  # torchrun ends its workers, which lead groups of their own
                    os.killpg(child.pid, signal.SIGTERM)
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(GRACE_SECONDS)
                os.killpg(child.pid, signal.SIGKILL)


@contextmanager
def running(*processes: BaseProcess) -> Iterator[None]:
    """Starts processes of `multiprocessing`; when the context ends, those that still run are killed."""
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            if process.pid:
                process.kill()
                process.join()
