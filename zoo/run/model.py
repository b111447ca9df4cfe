"""A model in Python: arrays, pictures, names in; a dict of arrays out, which can be looked at."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..formats.manifest import Manifest
from ..names import graph_file
from ..ports.inputs import complete
from ..ports.outputs import check_outputs
from ..runtime import Device, physical_cores
from .isolated import AnySession, opener
from .results import Outputs

if TYPE_CHECKING:
    import numpy as np

    from ..hookspecs import Task
    from ..store.locate import Bundle
    from .live import Live


def load(
    text: str,
    device: Device = "auto",
    registries: Sequence[str] = (),
    *,
    isolated: bool | None = None,
    locked: bool | str | os.PathLike[str] = False,
) -> Model:
    """A model, ready to run; fetched if it is not available locally.

    Args:
        text: a reference (`vqvae-fashion`, `name:2`, `registry/name`, `name@sha256:…`) or a bundle's folder.
        device: `auto` uses CUDA if it really works; `cuda` means CUDA or an error.
        registries: URLs or folders to search in addition to the known ones.
        isolated: True: its graphs run in a worker process with a deadline and a memory limit; False: in this process,
            where they can crash it. None: in a worker, unless the model is built in, from a registry that was added
            with --in-process, or was made on this machine.
        locked: True: exactly the version and digest in ./zoo.lock, which `zoo lock` writes; a path: of another lock
            file. A lock file is used only if this says so.

    Raises:
        zoo.ZooError: not found, not locked, not fetched or not valid; its text is one line that says what to do.
    """
    from ..store.locate import locate

    if locked is not False:
        from ..store.lock import locked_reference
        from ..system.paths import user_path

        text = locked_reference(text, None if locked is True else user_path(locked))
    return Model(locate(text, registries=registries, isolated=isolated, meanwhile=prepare), device)


def prepare() -> None:
    """Imports what every call needs: 0.1 s, which a worker process uses to start."""
    import numpy as np  # noqa: F401
    from PIL import Image  # noqa: F401


class Model:
    """A model's tasks as methods: `model.reconstruct(image=pictures)` is `model.run("reconstruct", image=pictures)`.

    A graph is opened once, when its task first runs; several threads may share a model. After a fork, the child opens
    its graphs again. `print(model)` shows what each task takes and gives, `help(model.reconstruct)` explains it, and
    `model.manifest.tasks` has it as data.

    Attributes:
        manifest: the bundle's manifest.
        digest: SHA-256 of `model.yaml`, the model's identity.
        reference: its readable name, `vqvae-fashion:1`.
        folder: where its files are; of a bundle in a folder, a private copy.
        isolated: whether its graphs run in a worker process.
        device: the requested device; `session(task).provider` is what a task got.

    Args:
        share: by how many models the cores are shared; sessions on the CPU get as many threads fewer.
    """

    def __init__(self, bundle: Bundle, device: Device = "auto", *, share: int = 1):
        self.manifest: Manifest = bundle.manifest
        self.digest: str = bundle.digest
        self.reference: str = bundle.reference
        self.device: Device = device
        self.folder: Path = bundle.folder
        self.isolated: bool = bundle.worker is not None
        self._bundle = bundle  # its private copy of the files and its worker end with it
        threads = None if share == 1 else max(1, physical_cores() // share)
        self._open = partial(opener(bundle.worker), threads=threads)
        self._sessions: dict[str, AnySession] = {}
        self._lock = threading.Lock()
        self._methods: dict[str, Callable[..., Outputs]] = {}
        _models.add(self)

    def run(self, task: str, /, **ports: Any) -> Outputs:
        """Runs a task.

        Args:
            task: its name.
            ports: the task's inputs: arrays of the port's dtype with the batch axis. A picture may also be a path, a
                picture of Pillow, an array [height, width, channels] or [height, width], or a list of these, a batch.
                A label may be a class name; a single number for a label, seed or scalar is used for the whole batch;
                ports with a default may be left out. A missing seed is drawn.

        Returns:
            The task's outputs by name, with `.images`, and with `.seed`, the seeds that were given or drawn.

        Raises:
            NotFoundError: no such task.
            UsageError: an unknown or missing input, or one of the wrong type, shape or range.
            DeviceError: `cuda` was requested but did not run the task.
            InvalidFileError: the graph failed, gave something else than its ports, or its worker process died or took
                too long. The next call starts another worker.
        """
        name, declared = self.manifest.task(task)
        inputs = complete(name, declared, ports, draw=True)
        outputs = self.session(name).run(inputs)
        check_outputs(name, declared, inputs, outputs)
        return Outputs.of(declared, inputs, outputs)

    def example(self, task: str) -> dict[str, np.ndarray]:
        """Inputs that a task takes: those of the model's largest golden case. `model.run(task, **model.example(task))`.

        Raises:
            NotFoundError: no such task.
        """
        from ..formats.golden import read_cases
        from ..names import GOLDEN

        name, _ = self.manifest.task(task)
        cases = read_cases(self.folder / GOLDEN, self.manifest)[name]
        return max(cases, key=lambda case: sum(array.size for array in case.inputs.values())).inputs

    def stream(
        self, task: str, inputs: Iterable[Any], /, *, batch_size: int | None = None, **ports: Any
    ) -> Iterator[dict[str, np.ndarray]]:
        """Runs a task on many elements, in batches that fit the memory; gives the outputs batch by batch, in order.

        While the caller works with a batch, the next one is computed and the one after that is read, in threads.

            for outputs in model.stream("encode", (np.load(path) for path in paths)):
                save(outputs["tokens"])

        Args:
            task: its name.
            inputs: the elements, without the batch axis, of the task's pictures or tokens, or if it has none, its
                seeds: an array, a sequence, or anything that gives them one by one, such as a generator. Or a dict from
                ports to such. A batch ends where the shape of its elements changes.
            batch_size: the most elements of a batch; None: the first batches are small, the memory that they take is
                measured, and the size of the others follows from it.
            ports: the other inputs, the same for all elements, as for `run`.

        Raises:
            UsageError: inputs of different lengths.
            ZooError: as `run`. What was computed before comes first.
        """
        from .batches import stream

        name, declared = self.manifest.task(task)
        return stream(partial(self.run, name), declared, inputs, ports, batch_size, lambda: self.session(name))

    def live(self, task: str, requests: Any, /, *, latest: bool = False, **ports: Any) -> Live:
        """Runs a task on one request after the other, as they come: the outputs of each, an iterator.

            for outputs in model.live("generate", requests, latest=True, seed=7):
                show(outputs.images[0])

        Args:
            task: its name.
            requests: an iterable that may wait for the next one, or a queue, in which None is the end. A request is a
                dict of inputs as for `run`, or one value: that of the task's text, else of its label, else of its
                picture.
            latest: read the requests in a thread, and of those that come during a call, only take the newest.
            ports: inputs of every request that does not have them.

        Returns:
            An iterator with `.request`, the request that the last outputs came from, `.seconds`, how long its call
            took, and `.dropped`, how many older requests `latest` has left out. After a request that raised an error,
            `next` goes on with those after it.

        Raises:
            ZooError: as `run`, from the iterator.
        """
        from .live import Live

        name, declared = self.manifest.task(task)
        return Live(partial(self.run, name), declared, requests, latest, ports)

    def session(self, task: str) -> AnySession:
        """The session of a task's graph, opened by the first call."""
        name, _ = self.manifest.task(task)
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = self._open(self.folder / graph_file(name), self.device)
            return self._sessions[name]

    def __getattr__(self, name: str) -> Callable[..., Outputs]:
        if name.startswith("_") or name not in self.manifest.tasks:
            raise AttributeError(f"{type(self).__name__} has no attribute or task '{name}'")
        if name not in self._methods:
            self._methods[name] = _method(name, self.manifest.tasks[name])
        return MethodType(self._methods[name], self)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.manifest.tasks]

    def __repr__(self) -> str:
        from ..ports.signature import call_text, example_of

        tasks = "".join(
            f"\n  {name}{call_text(task)}" for name, task in self.manifest.tasks.items() if not task.part_of
        )
        return f"<zoo.Model {self.reference}{tasks}\n  example: {example_of(*self.manifest.task(None))}>"


def _method(name: str, task: Task) -> Callable[..., Outputs]:
    """A task as a method, with the signature and the docstring that its ports give."""
    from ..ports.signature import docstring_of, example_of, signature_of

    def method(_self: Model, /, **ports: Any) -> Outputs:
        return _self.run(name, **ports)

    method.__name__, method.__qualname__ = name, f"Model.{name}"
    method.__doc__ = docstring_of(task, example_of(name, task))
    signature = signature_of(task, Outputs)  # whose inputs may include `self`, but none with an underscore first
    receiver = inspect.Parameter("_self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = signature.replace(parameters=[receiver, *signature.parameters.values()])
    return method


_models: WeakSet[Model] = WeakSet()


def _forget_sessions() -> None:
    """In the child of a fork: a session's threads do not exist here, so a call would wait for them for ever, and so
    would its end, even that of the interpreter. The sessions are leaked; the first call of each task opens another."""
    import ctypes

    for model in list(_models):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(model._sessions))
        model._sessions, model._lock = {}, threading.Lock()  # a thread of the parent may have held the lock


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sessions)
