"""Sessions in a worker process, with the interface of `zoo.runtime.Session`.

Arrays cross in a file in memory, one after the other; messages only name their types and shapes. What comes back is a
stranger's: types and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from .. import errors
from ..errors import InvalidFileError, ZooError
from ..runtime import Device, explain_device, open_session
from ..system.installation import warn_of_mixed_runtimes
from ..system.worker import Worker
from ..text import human_bytes, safe_text

if TYPE_CHECKING:
    import numpy as np

_NUMBERS = itertools.count()
_ALIGNMENT = 64  # bytes
_NO_MEMORY = re.compile("bad_alloc|[Ff]ailed to allocate")  # what ONNX Runtime says when malloc fails
_KEPT_BYTES = 64 << 20  # of the file for arrays, between two calls


class AnySession(Protocol):
    """What a session here and one in a worker have in common; see `zoo.runtime.Session`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    provider: str
    reason: str
    runtime_version: str
    left_on_cpu: dict[str, int]

    @property
    def processes(self) -> tuple[int, ...]: ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def interrupt(self, thread: int) -> None: ...


Opener = Callable[..., AnySession]
"""`open_session`, or a function with the same arguments that opens the session elsewhere."""


def opener(worker: Worker | None) -> Opener:
    """What opens sessions for a bundle: in its worker, or in this process if it has none."""
    return partial(IsolatedSession, worker) if worker else open_session


class IsolatedSession:
    """A graph that is ready to run in a worker; several threads may call it, one after the other.

    If the worker dies, the call raises, and the next one opens the graph again in a new worker.

    Args, attributes and errors: those of `zoo.runtime.open_session` and its session; in addition InvalidFileError if
    the worker died or took too long.
    """

    def __init__(
        self, worker: Worker, graph: Path, device: Device = "auto", *, threads: int | None = None, exact: bool = False
    ):
        self._worker, self._graph = worker, graph
        self._number = next(_NUMBERS)
        self._how = {"device": device, "threads": threads, "exact": exact}
        self.left_on_cpu: dict[str, int] = {}
        self._caller: int | None = None  # the thread whose turn it is
        with worker.turn():
            self._open()
        warn_of_mixed_runtimes()
        # Not closed from here: this may run at any time, even in the middle of a request.
        weakref.finalize(self, worker.unneeded.append, self._number).atexit = False

    def _open(self) -> None:
        request = {"do": "open", "session": self._number, "graph": str(self._graph.absolute()), **self._how}
        reply = self._ask(request, f"opening {safe_text(self._graph.name)}")
        self._generation = self._worker.generation
        with self._understood():
            self.inputs, self.outputs = tuple(map(str, reply["inputs"])), tuple(map(str, reply["outputs"]))
            self.provider, self.reason = str(reply["provider"]), safe_text(reply["reason"])
            self.runtime_version = safe_text(reply["runtime"])

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name."""
        with self._worker.turn() as shared, self._called():
            if self._generation != self._worker.generation:
                self._open()
            arrays = write_arrays(shared, inputs)
            request = {"do": "run", "session": self._number, "arrays": arrays}
            reply = self._ask(request, f"running {safe_text(self._graph.name)}")
            with self._understood():
                self.left_on_cpu = {str(name): int(count) for name, count in reply["left_on_cpu"].items()}
                outputs = read_arrays(shared, reply["arrays"], self._worker.limits.memory)
            if shared.seek(0, 2) > _KEPT_BYTES:
                shared.truncate(0)
            return outputs

    @contextmanager
    def _called(self) -> Iterator[None]:
        self._caller = get_ident()
        try:
            yield
        finally:
            self._caller = None

    def interrupt(self, thread: int) -> None:
        """Ends the call that the thread of this id has in progress, if it has one, with the worker's process."""
        if self._caller == thread:
            self._worker.kill()

    @property
    def processes(self) -> tuple[int, ...]:
        """The id of the process that runs the graph, if there is one, for measuring its memory."""
        return self._worker.processes

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Ends a worker whose reply is not what `zoo.run.worker` sends: a stranger's graph has taken it over."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, MemoryError) as e:
            self._worker.close()
            name = safe_text(self._worker.name)
            raise InvalidFileError(
                f"{name}: its worker process sent a reply that zoo cannot read: {safe_text(e)}"
            ) from None

    def _ask(self, request: dict[str, Any], doing: str) -> dict[str, Any]:
        unneeded = self._worker.unneeded
        request["close"] = [unneeded.pop() for _ in range(len(unneeded))]
        reply = self._worker.request(request, doing)
        if "error" not in reply:
            return reply
        text, kind = safe_text(reply["text"])[:2000], getattr(errors, str(reply["error"]), None)
        if _NO_MEMORY.search(text):
            text += f"; it may use {human_bytes(self._worker.limits.memory)} (ZOO_WORKER_MEMORY)"
        raise (kind if isinstance(kind, type) and issubclass(kind, ZooError) else InvalidFileError)(text)

    def __str__(self) -> str:
        return explain_device(self)


def write_arrays(shared: BinaryIO, arrays: Mapping[str, np.ndarray]) -> list[list[Any]]:
    """Writes arrays into the file; returns their names, types and shapes for `read_arrays`.

    Raises:
        InvalidFileError: an array of strings or objects.
    """
    import numpy as np

    described, position = [], 0
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
            raise InvalidFileError(f"{safe_text(name)} is not an array of numbers")
        whole = np.asarray(array, order="C")  # not ascontiguousarray: it turns a scalar into an array of one
        described.append([name, whole.dtype.name, list(whole.shape)])
        shared.seek(position)
        rest = whole.reshape(-1).view(np.uint8).data
        while rest:
            rest = rest[shared.write(rest) :]
        position += -(-whole.nbytes // _ALIGNMENT) * _ALIGNMENT
    return described


def read_arrays(shared: BinaryIO, described: Sequence[Any], most: int | None = None) -> dict[str, np.ndarray]:
    """The arrays that `write_arrays` wrote.

    Args:
        most: bytes of all of them together.

    Raises:
        InvalidFileError: types, shapes or sizes that cannot be right.
    """
    import numpy as np

    there = shared.seek(0, 2)
    arrays: dict[str, np.ndarray] = {}
    position = 0
    for name, type_name, shape in described:
        dtype = np.dtype(type_name)
        size = prod(shape) * dtype.itemsize
        if dtype.kind not in "buif" or min(shape, default=0) < 0 or position + size > (there if most is None else most):
            raise InvalidFileError(f"a worker gave {safe_text(name)} an impossible type or size")
        array = np.empty(shape, dtype)
        shared.seek(position)
        rest = array.reshape(-1).view(np.uint8).data
        while rest:
            # It is opened without a buffer, and so has `readinto`, which BinaryIO lacks.
            count = shared.readinto(rest)  # type: ignore[attr-defined]
            if not count:
                raise InvalidFileError(f"a worker gave less of {safe_text(name)} than it promised")
            rest = rest[count:]
        arrays[name] = array
        position += -(-size // _ALIGNMENT) * _ALIGNMENT
    return arrays
