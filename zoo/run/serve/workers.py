"""The worker processes of a served model, and the queue before them.

Each worker owns the sessions of its model (`zoo.run.isolated`). A task of the event loop gives it one call at a time,
in a thread of its own. Calls that wait and fit together (`batching.py`) are one call; if that fails, each of them runs
again, alone. A worker that ends is started again, with growing pauses; the call that it ran alone is answered with
`Unavailable`, which the client may repeat, and no other call notices.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING

from ...errors import ZooError
from ...ports.outputs import check_outputs
from ...system.worker import WorkerEnded
from ..batches import batch_length
from ..steps import parts_of
from . import batching
from .watched import Watch, run_watched

if TYPE_CHECKING:
    import numpy as np

    from ...hookspecs import Task
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
    batch: int = 16  # elements, such as pictures, that calls may have together; more in one call are as they are
    batch_seconds: float = 0.0  # for which a call that has had company waits for more


@dataclass(eq=False)
class _Job:
    task: str
    inputs: Mapping[str, np.ndarray]
    size: int  # elements
    key: Hashable  # of calls that fit together; None: it runs alone
    done: asyncio.Future[dict[str, np.ndarray]]
    watch: Watch | None = None  # then it runs alone
    run: _Run | None = None  # the last that it was in
    started: float | None = None


@dataclass(eq=False)
class _Run:
    """Calls that a worker runs as one."""

    jobs: Sequence[_Job]
    interrupt: Callable[[], None] = lambda: None  # while it runs

    def end_if_unwanted(self) -> None:
        if all(job.done.done() for job in self.jobs):
            self.interrupt()


@dataclass
class Counts:
    """What has happened so far, for statistics."""

    answered: Counter[str] = field(default_factory=Counter)  # calls, by task
    failed: Counter[str] = field(default_factory=Counter)
    waited: dict[str, float] = field(default_factory=dict)  # seconds in the queue
    runs: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    """By task and how many elements ran as one: how often, and seconds of the workers."""
    restarts: int = 0


class Workers:
    """The workers of one model, started by `start`.

    Args:
        openers: one for each worker: gives the model with its sessions in that worker. Called again after it ended.
        closers: one for each worker: ends its process.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        openers: Sequence[Callable[[], Model]],
        closers: Sequence[Callable[[], None]],
        calls: Calls,
    ):
        self._known, self._openers, self._closers, self.calls = tasks, openers, closers, calls
        self._waiting: deque[_Job] = deque()
        self._news = asyncio.Event()
        self._most: dict[str, int] = {}  # elements that calls of a task may have together
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

    def check_room(self) -> None:
        """Before a request is decoded, so that refusing it costs little.

        Raises:
            Unavailable: the queue is full, or the model is being unloaded.
        """
        if not self._tasks:
            raise Unavailable("the model is being unloaded")
        if len(self._waiting) >= self.calls.queue:
            raise Unavailable(f"{len(self._waiting)} calls are waiting, as many as may; repeat it later")

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
        self.check_room()
        alone = watch is not None or self.calls.batch <= 1
        key = None if alone else batching.key_of(task, self._known[task], inputs)
        size = batch_length(self._known[task].inputs, inputs)
        job = _Job(task, inputs, size, key, asyncio.get_running_loop().create_future(), watch)
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
            elif job.done.cancelled() and job.run:  # nobody waits for it any more
                asyncio.get_running_loop().call_later(GRACE_SECONDS, job.run.end_if_unwanted)
            waited = (job.started or time.monotonic()) - arrived
            self.counts.waited[task] = self.counts.waited.get(task, 0.0) + waited
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
        company = False
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            if company and self.calls.batch_seconds:
                await self._company()
            if not (jobs := self._next()):
                continue
            run = _Run(jobs)
            for job in jobs:
                job.run, job.started = run, time.monotonic()
            self.running += 1
            try:
                self._answer(jobs, await loop.run_in_executor(thread, _run, model, run))
                opened.add(jobs[0].task)
            except WorkerEnded as e:
                self._refuse(jobs, Unavailable(f"{e}; the call may be repeated"))
                raise
            except ZooError as e:
                self._refuse(jobs, e)
            except BaseException:
                for job in jobs:
                    _fail(job, Unavailable("the server is stopping"))
                raise
            finally:
                self.running -= 1
            company = len(jobs) > 1 or bool(self._waiting)

    async def _company(self) -> None:
        """Waits until a batch is full, a few milliseconds at most."""
        end = time.monotonic() + self.calls.batch_seconds
        while sum(job.size for job in self._waiting) < self.calls.batch and (left := end - time.monotonic()) > 0:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()

    def _next(self) -> list[_Job]:
        """The call that has waited longest, and those that fit to it; other workers that are idle are left their share.
        Empty: another worker was faster."""
        share = -(-len(self._waiting) // max(1, self.up - self.running))
        jobs: list[_Job] = []
        passed: list[_Job] = []
        size, most = 0, self.calls.batch
        while self._waiting and len(jobs) < share and size < most:
            job = self._waiting.popleft()
            if job.done.done():
                continue
            if not jobs:
                most = self._most.get(job.task, most) if job.key else 1
            elif job.key != jobs[0].key or size + job.size > most:
                passed.append(job)
                continue
            jobs.append(job)
            size += job.size
        self._waiting.extendleft(reversed(passed))
        return jobs

    def _answer(self, jobs: Sequence[_Job], outputs: Sequence[dict[str, np.ndarray]]) -> None:
        size, most = self._count(self.counts.answered, jobs), self._most.get(jobs[0].task, self.calls.batch)
        self._most[jobs[0].task] = min(most + (size >= most), self.calls.batch)
        for job, own in zip(jobs, outputs, strict=True):
            if not job.done.done():
                job.done.set_result(own)

    def _refuse(self, jobs: Sequence[_Job], error: ZooError) -> None:
        """Answers a call with an error. Of several that ran as one, nobody knows whose it is, and it may only be their
        number: each runs again, alone, and fewer are joined for a while."""
        if len(jobs) == 1:
            self._count(self.counts.failed, jobs)
            _fail(jobs[0], error)
            return
        self._most[jobs[0].task] = max(1, sum(job.size for job in jobs) // 2)
        for job in reversed(jobs):
            if not job.done.done():
                job.key = None
                self._waiting.appendleft(job)
        self._news.set()

    def _count(self, totals: Counter[str], jobs: Sequence[_Job]) -> int:
        task, size = jobs[0].task, sum(job.size for job in jobs)
        totals[task] += len(jobs)
        run = self.counts.runs.setdefault((task, size), [0, 0.0])
        run[0], run[1] = run[0] + 1, run[1] + time.monotonic() - (jobs[0].started or 0.0)
        return size

    @property
    def waiting(self) -> int:
        """How many calls are in the queue."""
        return len(self._waiting)


def _fail(job: _Job, error: ZooError) -> None:
    if not job.done.done():
        job.done.set_exception(error)


def _opened(opener: Callable[[], Model], tasks: Sequence[str]) -> Model:
    """In a worker's thread: the model, with the sessions of these tasks, or of its default task."""
    model = opener()
    for task in tasks or (model.manifest.default_task,):
        model.session(task)
    return model


def _run(model: Model, run: _Run) -> list[dict[str, np.ndarray]]:
    """In a worker's thread: calls as one; the outputs of each."""
    name, watch = run.jobs[0].task, run.jobs[0].watch
    thread, tasks = get_ident(), model.manifest.tasks
    each = [job.inputs for job in run.jobs]
    inputs = batching.joined(tasks[name], each)
    parts = parts_of(tasks, name) if watch else None
    sessions = [model.session(part) for part in parts or (name,)]

    def interrupt() -> None:
        for session in sessions:
            session.interrupt(thread)

    run.interrupt = interrupt
    try:
        if watch and parts:
            outputs = run_watched(model, parts, inputs, watch, lambda: not run.jobs[0].done.done())
        else:
            outputs = sessions[0].run(inputs)
    finally:
        run.interrupt = lambda: None
    check_outputs(name, tasks[name], inputs, outputs)
    return batching.parted(tasks[name], each, outputs)
