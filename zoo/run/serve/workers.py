"""The worker processes of a served model, and the queue before them.

Each worker owns the sessions of its model (`zoo.run.isolated`). A task of the event loop gives it one call at a time,
in a thread of its own. A worker that ends is started again, with growing pauses; its call is answered with
`Unavailable`, which the client may repeat, and no other call notices.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ...errors import ZooError
from ...ports.outputs import check_outputs
from ...system.worker import WorkerEnded
from ..steps import parts_of
from .watched import Watch, run_watched

if TYPE_CHECKING:
    import numpy as np

    from ..model import Model

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a worker is started again: the first time at once, then so long, then twice as long each time."""
GRACE_SECONDS = 1.0
"""For a call that nobody waits for, to end by itself: ending it ends its worker, and the next call waits for one."""


class Unavailable(ZooError):
    """A call that was not run, or not to its end, for a reason that is not its own: the client may repeat it.

    Args:
        after: seconds after which that makes sense.
    """

    def __init__(self, text: str, after: float = 1.0):
        super().__init__(text)
        self.after = after


class Late(ZooError):
    """A call that has taken longer than allowed, its time in the queue included."""


@dataclass(frozen=True)
class Calls:
    """What calls may take."""

    queue: int = 64  # calls of one model that wait
    seconds: float = 600.0  # of a call, its time in the queue included


@dataclass(eq=False)
class _Job:
    task: str
    inputs: Mapping[str, np.ndarray]
    done: asyncio.Future[dict[str, np.ndarray]]
    watch: Watch | None = None
    interrupt: Callable[[], None] = lambda: None  # while it runs
    started: float | None = None


@dataclass
class Counts:
    """What has happened so far, for statistics."""

    answered: dict[str, int] = field(default_factory=dict)  # calls, by task
    failed: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # in the workers
    waited: dict[str, float] = field(default_factory=dict)  # seconds in the queue
    restarts: int = 0


class Workers:
    """The workers of one model, started by `start`.

    Args:
        openers: one for each worker: gives the model with its sessions in that worker. Called again after it ended.
        closers: one for each worker: ends its process.
    """

    def __init__(self, openers: Sequence[Callable[[], Model]], closers: Sequence[Callable[[], None]], calls: Calls):
        self._openers, self._closers, self.calls = openers, closers, calls
        self._waiting: deque[_Job] = deque()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._threads: list[ThreadPoolExecutor] = []
        self.up = 0
        """How many of them can take a call."""
        self.running = 0
        self.counts = Counts()

    async def start(self) -> None:
        """Opens the first worker's model and its default task, then starts the others.

        Raises:
            ZooError: it cannot be opened.
        """
        loop = asyncio.get_running_loop()
        self._threads = [ThreadPoolExecutor(1, "zoo-worker") for _ in self._openers]
        models = []
        try:
            for opener, thread in zip(self._openers, self._threads, strict=True):
                models.append(await loop.run_in_executor(thread, _opened, opener, ()))
        except BaseException:
            await self.stop()
            raise
        both = zip(models, self._openers, self._threads, strict=True)
        self._tasks = [loop.create_task(self._work(model, opener, thread)) for model, opener, thread in both]

    async def run(
        self, task: str, inputs: Mapping[str, np.ndarray], watch: Watch | None = None
    ) -> dict[str, np.ndarray]:
        """The outputs of a task for checked inputs. Cancelling it takes the call from the queue; one that runs already
        is ended soon.

        Args:
            watch: who is told of each step, of a task that has steps.

        Raises:
            Unavailable: the queue is full, or the worker ended.
            Late: the time was over.
            ZooError: the graph failed.
        """
        if not self._tasks:
            raise Unavailable("the model is being unloaded")
        if len(self._waiting) >= self.calls.queue:
            raise Unavailable(f"{len(self._waiting)} calls are waiting, as many as may; repeat it later")
        job = _Job(task, inputs, asyncio.get_running_loop().create_future(), watch)
        arrived = time.monotonic()
        self._waiting.append(job)
        self._news.set()
        try:
            async with asyncio.timeout(self.calls.seconds):
                outputs = await job.done
        except TimeoutError:
            raise Late(f"it takes more than {self.calls.seconds:g} s, its time in the queue included") from None
        finally:
            if job in self._waiting:
                self._waiting.remove(job)
            elif job.done.cancelled():  # nobody waits for it any more
                asyncio.get_running_loop().call_later(GRACE_SECONDS, lambda: job.interrupt())
            _add(self.counts.waited, task, (job.started or time.monotonic()) - arrived)
        return outputs

    async def stop(self) -> None:
        """Answers what waits, lets each worker end its call, and ends the processes."""
        tasks, self._tasks = self._tasks, []
        while self._waiting:
            _fail(self._waiting.popleft(), Unavailable("the model is being unloaded"))
        while self.running:
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
        for close in self._closers:
            await asyncio.to_thread(close)

    async def _work(self, model: Model, opener: Callable[[], Model], thread: ThreadPoolExecutor) -> None:
        """Gives one worker a call after the other, and starts it again when it has ended."""
        loop = asyncio.get_running_loop()
        pause, opened = 0.0, set[str]()
        while True:
            self.up += 1
            try:
                await self._calls_of(model, thread, opened)
            except WorkerEnded:
                self.counts.restarts += 1
            finally:
                self.up -= 1
            while True:
                if opened:  # it has worked since the last time
                    pause = 0.0
                await asyncio.sleep(pause)
                pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
                with suppress(ZooError):
                    model = await loop.run_in_executor(thread, _opened, opener, tuple(opened))
                    opened = set()
                    break
                opened = set()

    async def _calls_of(self, model: Model, thread: ThreadPoolExecutor, opened: set[str]) -> None:
        """Calls of one life of a worker.

        Raises:
            WorkerEnded: it ended.
        """
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            job = self._waiting.popleft()
            if job.done.done():
                continue
            job.started = time.monotonic()
            self.running += 1
            try:
                outputs = await loop.run_in_executor(thread, _run, model, job)
                opened.add(job.task)
                if not job.done.done():
                    job.done.set_result(outputs)
                self._count(self.counts.answered, job)
            except WorkerEnded as e:
                self._count(self.counts.failed, job)
                _fail(job, Unavailable(f"{e}; the call may be repeated"))
                raise
            except ZooError as e:
                self._count(self.counts.failed, job)
                _fail(job, e)
            finally:
                self.running -= 1
                _fail(job, Unavailable("the server is stopping"))

    def _count(self, totals: dict[str, int], job: _Job) -> None:
        _add(totals, job.task, 1)
        _add(self.counts.seconds, job.task, time.monotonic() - (job.started or 0.0))

    @property
    def waiting(self) -> int:
        """How many calls are in the queue."""
        return len(self._waiting)


def _add(totals: dict[str, Any], task: str, value: float) -> None:
    totals[task] = totals.get(task, 0) + value


def _fail(job: _Job, error: ZooError) -> None:
    if not job.done.done():
        job.done.set_exception(error)


def _opened(opener: Callable[[], Model], tasks: Sequence[str]) -> Model:
    """In a worker's thread: the model, with the sessions of these tasks, or of its default task."""
    model = opener()
    for task in tasks or (model.manifest.default_task,):
        model.session(task)
    return model


def _run(model: Model, job: _Job) -> dict[str, np.ndarray]:
    """In a worker's thread: one call."""
    thread, tasks = get_ident(), model.manifest.tasks
    parts = parts_of(tasks, job.task) if job.watch else None
    sessions = [model.session(name) for name in parts or (job.task,)]

    def interrupt() -> None:
        for session in sessions:
            session.interrupt(thread)

    job.interrupt = interrupt
    try:
        if job.watch and parts:
            outputs = run_watched(model, parts, job.inputs, job.watch, lambda: not job.done.done())
        else:
            outputs = sessions[0].run(job.inputs)
    finally:
        job.interrupt = lambda: None
    check_outputs(job.task, tasks[job.task], job.inputs, outputs)
    return outputs
