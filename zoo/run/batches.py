"""Work in batches that fit the memory: one engine for `zoo run` and `Model.stream`.

While a batch runs, the next one is read and the last one is written. The size of the batches is measured: the first
are small, and each tells how much memory a picture takes, in this process and in the one that runs the model.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DeviceError, InvalidFileError, UsageError, ZooError
from ..hookspecs import Port, Task
from ..ports.kind import BATCH, MAX_BATCH
from ..ports.kinds import drawn, kind_of
from ..system import memory

if TYPE_CHECKING:
    import numpy as np

    from .isolated import AnySession

Arrays = Mapping[str, "np.ndarray"]
B = TypeVar("B")
R = TypeVar("R")

MOST_AT_ONCE = 64
"""The most elements that are run as one batch without measuring."""

FIRST, GROWTH, LARGEST = 8, 4, 256
"""Elements of the first batch; how much larger the next one may be; the largest: beyond it, nothing gets faster."""

MEMORY = 512 << 20
"""Bytes that batches may take in addition to the opened model, if the machine has four times as much left."""

SECONDS = 4.0
"""How long a batch may take, if it has more elements than the first: results should come, and Ctrl-C be heard."""

_NO_MEMORY = re.compile("bad_alloc|[Ff]ailed to allocate|more memory")


class BatchSize:
    """How many elements the next batch has.

    Args:
        given: the user's own choice; nothing is measured then.
        processes: the ids of the processes whose memory counts.
    """

    def __init__(self, given: int | None = None, processes: Sequence[int] = ()):
        self.size = given or FIRST
        self._processes = {os.getpid(), *processes}
        memory.forget_peaks(self._processes)  # of what this program did before
        self._before = sum(map(memory.taken, self._processes))
        self._budget = min(MEMORY, (memory.free_memory() or 4 * MEMORY) // 4)
        self._fixed = given is not None or not self._before
        self.settled, self._elements = self._fixed, 0

    def most(self, elements: int) -> int:
        """The size of the next batch, if each of its pictures has so many pixels or values. If all before had fewer, it
        is small, and measured again."""
        if elements > self._elements > 0 and not self._fixed:
            self.size, self.settled = min(self.size, FIRST), False
        self._elements = max(elements, self._elements)
        return self.size

    def measured(self, count: int, seconds: float = 0) -> None:
        """After a batch of `count` elements that ran for so long: chooses the size of the next."""
        if self.settled or count < self.size:  # of the last ones, there are fewer
            return
        share = max(sum(map(memory.peak, self._processes)) - self._before, 1) / count
        in_time = max(FIRST, int(count * SECONDS / max(seconds, 1e-6)))
        chosen = max(1, min(int(self._budget / share), count * GROWTH, in_time, LARGEST))
        self.settled = chosen <= count or chosen == LARGEST
        self.size = chosen

    def too_large(self, count: int) -> None:
        """A batch of `count` elements did not fit."""
        self.size, self.settled = max(1, count // 2), True


def in_batches(
    prepare: Callable[[int], B | None],
    run: Callable[[B], R],
    count: Callable[[B], int],
    size: BatchSize,
    interrupt: Callable[[int], None] = lambda thread: None,
) -> Iterator[tuple[B, R]]:
    """Batches with their results, in order.

    While the caller works with one, the next one runs and the one after that is prepared. What was finished before an
    error is given before it is raised.

    Args:
        prepare: the next batch of at most so many elements; None at the end. Called in one thread.
        run: computes a batch. Called in another thread.
        count: the number of elements of a batch.
        interrupt: ends what `run` does in the thread of this id. Called when the batches are no longer wanted, as after
            Ctrl-C: a batch may take hours, and Python waits for its threads.
    """
    from concurrent.futures import Future, ThreadPoolExecutor, wait

    done: tuple[B, R] | None = None
    failed: ZooError | None = None
    with ThreadPoolExecutor(1, "zoo-read") as reader, ThreadPoolExecutor(1, "zoo-run") as runner:
        thread = runner.submit(get_ident).result()
        running: Future[tuple[R, float]] | None = None
        try:
            batch = reader.submit(prepare, size.size).result()
            while batch is not None:
                running = runner.submit(_timed, run, batch)
                # While sizes are still being chosen, the next batch waits for the result of this one.
                ahead = reader.submit(prepare, size.size) if size.settled else None
                if done:
                    yield done
                    done = None
                result, seconds = running.result()
                done = batch, result
                if ahead is None:  # else the size may already be that of larger pictures
                    size.measured(count(batch), seconds)
                try:
                    batch = (ahead or reader.submit(prepare, size.size)).result()
                except ZooError as e:
                    batch, failed = None, e
            if done:
                yield done
        except BaseException:
            while running and not running.done():  # again and again: a batch that ends is run in halves
                interrupt(thread)
                wait([running], 0.05)
            raise
    if failed:
        raise failed


def _timed(run: Callable[[B], R], batch: B) -> tuple[R, float]:
    start = time.perf_counter()
    return run(batch), time.perf_counter() - start


def run_within_memory(
    run: Callable[[Any], dict[str, np.ndarray]], task: Task, inputs: Mapping[str, Any], size: BatchSize | None = None
) -> dict[str, np.ndarray]:
    """Runs a batch; one that does not fit in the memory of the device or of the worker is run in halves."""
    length = batch_length(task.inputs, inputs)
    try:
        return run(inputs)
    except (InvalidFileError, DeviceError) as e:
        if length < 2 or not _NO_MEMORY.search(str(e)):
            raise
    if size:
        size.too_large(length)
    middle = length // 2
    parts = [
        run_within_memory(run, task, part_of(task.inputs, inputs, half), size)
        for half in (slice(0, middle), slice(middle, length))
    ]
    return join(task.outputs, parts)


def run_in_parts(
    run: Callable[[Any], dict[str, np.ndarray]],
    task: Task,
    inputs: Arrays,
    size: BatchSize,
    interrupt: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Runs a batch of any length in batches that fit the memory, and joins their outputs."""
    length, start = batch_length(task.inputs, inputs), 0

    def prepare(count: int) -> Arrays | None:
        nonlocal start
        part = slice(start, min(start + count, length))
        start = part.stop
        return part_of(task.inputs, inputs, part) if part.stop > part.start else None

    ran = in_batches(
        prepare,
        lambda part: run_within_memory(run, task, part, size),
        lambda part: batch_length(task.inputs, part),
        size,
        interrupt,
    )
    return join(task.outputs, [outputs for _, outputs in ran])


def stream(
    run: Callable[..., dict[str, np.ndarray]],
    task: Task,
    inputs: Iterable[Any],
    ports: Mapping[str, Any],
    batch_size: int | None,
    session: Callable[[], AnySession],
) -> Iterator[dict[str, np.ndarray]]:
    """See `Model.stream`.

    Args:
        run: runs the task with ports as keywords.
        session: opens that of the task.
    """
    if batch_size is not None and not 1 <= batch_size <= MAX_BATCH:
        raise UsageError(f"batch_size is {batch_size}; it must be 1 .. {MAX_BATCH}")
    many = inputs if isinstance(inputs, Mapping) else {_main_port(task): inputs}
    if both := next((name for name in many if name in ports), None):
        raise UsageError(f"{both} is given twice: as a stream, and for all elements")
    rows = zip(*many.values(), strict=True)
    held: list[tuple[Any, ...]] = []  # an element of another shape, for the next batch

    def prepare(size: BatchSize, most: int) -> dict[str, Any] | None:
        batch = [held.pop()] if held else []
        try:
            most = min(most, size.most(_elements(batch[0]))) if batch else most
            while len(batch) < most and (row := next(rows, None)) is not None:
                if not batch:
                    most = min(most, size.most(_elements(row)))
                elif _shapes(row) != _shapes(batch[0]):
                    held.append(row)
                    break
                batch.append(row)
        except ValueError as e:
            if "zip()" not in str(e):
                raise
            raise UsageError(f"{' and '.join(many)} have different lengths") from None
        return {name: _batch(column) for name, column in zip(many, zip(*batch))} if batch else None

    def results() -> Iterator[dict[str, np.ndarray]]:
        opened = session()
        size = BatchSize(batch_size, opened.processes)
        compute = partial(run_within_memory, lambda batch: run(**batch, **ports), task, size=size)
        for _, outputs in in_batches(
            partial(prepare, size), compute, lambda batch: len(next(iter(batch.values()))), size, opened.interrupt
        ):
            yield outputs

    return results()


def _main_port(task: Task) -> str:
    """The port of the pictures or tokens; of a task that has none, the first seed, else the first with a batch."""
    options = {name: kind_of(port).option(name, port, task) for name, port in task.inputs.items()}
    taken = [name for name, option in options.items() if option and option.positional] + drawn(task.inputs)
    taken += [name for name, port in task.inputs.items() if port.shape[:1] == (BATCH,)]
    if not taken:
        raise UsageError("this task has no input with one value per element; use run")
    return taken[0]


def _shapes(row: Sequence[Any]) -> list[tuple[int, ...] | None]:
    return [getattr(value, "shape", None) for value in row]


def _elements(row: Sequence[Any]) -> int:
    return sum(getattr(value, "size", 1) for value in row)


def _batch(column: Sequence[Any]) -> Any:
    """Arrays as one; other things, such as names of classes, as a list."""
    import numpy as np

    return np.stack(column) if isinstance(column[0], (np.ndarray, np.generic)) else list(column)


def batch_length(ports: Mapping[str, Port], arrays: Mapping[str, Any]) -> int:
    """The number of elements; 1 if no port has a batch."""
    return next((len(a) for name, a in arrays.items() if ports[name].shape[:1] == (BATCH,)), 1)


def part_of(ports: Mapping[str, Port], arrays: Mapping[str, Any], part: slice) -> dict[str, Any]:
    """Some elements of a batch; arrays without the batch axis as they are."""
    return {name: a[part] if ports[name].shape[:1] == (BATCH,) else a for name, a in arrays.items()}


def join(ports: Mapping[str, Port], parts: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """The outputs of several batches as those of one."""
    import numpy as np

    if len(parts) == 1:
        return dict(parts[0])
    return {
        name: np.concatenate([part[name] for part in parts]) if port.shape[:1] == (BATCH,) else parts[0][name]
        for name, port in ports.items()
    }
