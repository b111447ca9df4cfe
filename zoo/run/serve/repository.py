"""Which models are served: each as it was named on the command line, loaded or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import NotFoundError, UsageError, ZooError
from ...text import did_you_mean, one_line, safe_text
from . import telemetry
from .workers import Calls, Unavailable, Workers

if TYPE_CHECKING:
    import numpy as np

    from ...hookspecs import Task
    from ..model import Model
    from .watched import Watch


@dataclass(frozen=True)
class Opened:
    """A model that was found: how each of its workers opens it, and how each is ended."""

    name: str
    version: int
    tasks: dict[str, Task]
    openers: Sequence[Callable[[], Model]]
    closers: Sequence[Callable[[], None]]
    processes: Callable[[], Sequence[int]] = tuple  # the ids of its workers that run


@dataclass(eq=False)
class Served:
    """A model that was named, and its workers while it is loaded."""

    find: Callable[[], Opened]  # may fetch it
    reference: str  # as it was named
    opened: Opened | None = None
    workers: Workers | None = None
    problem: str = ""  # why it could not be loaded
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_ready(self) -> bool:
        return self.workers is not None and self.workers.up > 0

    @property
    def name(self) -> str:
        return self.opened.name if self.opened else self.reference


@dataclass(frozen=True)
class Target:
    """A task of a loaded model, for a call."""

    served: Served
    name: str  # of the protocol's model
    version: int
    task_name: str
    task: Task
    workers: Workers

    async def run(self, inputs: Mapping[str, np.ndarray], watch: Watch | None = None) -> dict[str, np.ndarray]:
        """Its outputs; see `Workers.run`."""
        model = self.name.removesuffix(f".{self.task_name}")
        with telemetry.span("call", **{"zoo.model": f"{model}:{self.version}", "zoo.task": self.task_name}):
            return await self.workers.run(self.task_name, inputs, watch)


class Repository:
    """The models of a server.

    Args:
        models: references, and for each a function that finds the model.
    """

    def __init__(self, models: dict[str, Callable[[], Opened]], calls: Calls):
        self.served = [Served(find, reference) for reference, find in models.items()]
        self.calls = calls

    async def load(self, served: Served) -> None:
        """Finds a model and starts its workers; one that is loaded already is replaced when the new one runs.

        Raises:
            ZooError: it cannot be loaded; one that was loaded stays.
        """
        async with served.lock:
            try:
                opened = await asyncio.to_thread(served.find)
                for other in self.served:
                    one = other.opened if other.workers and other is not served else None
                    if one and (one.name, one.version) == (opened.name, opened.version):
                        both = f"{safe_text(other.reference)} and {safe_text(served.reference)}"
                        raise UsageError(f"{both} are both {one.name}:{one.version}; serve one of the two")
                workers = Workers(opened.tasks, opened.openers, opened.closers, self.calls)
                await workers.start()
            except ZooError as e:
                served.problem = str(e)
                raise
            before, served.opened, served.workers, served.problem = served.workers, opened, workers, ""
            if before:
                await before.stop()

    async def unload(self, served: Served) -> None:
        """Answers what waits, and ends the workers."""
        async with served.lock:
            before, served.workers, served.problem = served.workers, None, "it was unloaded"
            if before:
                await before.stop()

    def names(self) -> Iterator[tuple[str, Served, int, str]]:
        """The protocol's models: name, model, version and task of each; one that was never loaded has no task."""
        for served in self.served:
            if served.opened is None:
                yield served.reference, served, 0, ""
                continue
            for task in served.opened.tasks:
                yield f"{served.opened.name}.{task}", served, served.opened.version, task

    def index(self, ready: bool) -> list[dict[str, Any]]:
        """The protocol's models with their states.

        Args:
            ready: only those that can take calls.
        """
        rows = []
        for name, served, version, _ in self.names():
            row = {"name": name, "version": str(version or ""), "state": "READY" if served.is_ready else "UNAVAILABLE"}
            if not served.is_ready:
                row["reason"] = one_line(served.problem) or "its workers are being started again"
            if served.is_ready or not ready:
                rows.append(row)
        return rows

    def statistics(self, asked: str) -> list[dict[str, Any]]:
        """In the form of Triton's statistics extension; times are nanoseconds.

        Args:
            asked: one of the protocol's models; empty: all that are loaded.
        """
        rows = []
        for name, served, version, task in self.names():
            if not served.workers or (asked and name != asked):
                continue
            counts = served.workers.counts
            runs = {size: run for (of, size), run in sorted(counts.runs.items()) if of == task}
            answered, failed = counts.answered[task], counts.failed[task]
            waited, worked = int(1e9 * counts.waited.get(task, 0)), sum(int(1e9 * s) for _, s in runs.values())
            stats = {
                "success": {"count": answered, "ns": waited + worked}, "fail": {"count": failed, "ns": 0},
                "queue": {"count": answered + failed, "ns": waited},
                "compute_infer": {"count": answered + failed, "ns": worked},
            }  # fmt: skip
            batches = [
                {"batch_size": size, "compute_infer": {"count": count, "ns": int(1e9 * seconds)}}
                for size, (count, seconds) in runs.items()
            ]
            row = {"name": name, "version": str(version), "inference_count": answered}
            row["execution_count"] = sum(count for count, _ in runs.values())
            rows.append({**row, "inference_stats": stats, "batch_stats": batches})
        return rows

    def versions(self, name: str) -> list[int]:
        """The loaded versions of one of the protocol's models, in ascending order."""
        return sorted(version for other, served, version, _ in self.names() if other == name and served.workers)

    def find(self, name: str, version: str | None) -> Target:
        """One of the protocol's models by its name, `vqvae-fashion.encode`; without a version, the highest.

        Raises:
            NotFoundError: there is none.
            Unavailable: it is not loaded.
        """
        known = [entry for entry in self.names() if entry[0] == name]
        if not known:
            near = did_you_mean(name, [other for other, *_ in self.names()])
            raise NotFoundError(
                f"there is no model '{safe_text(name)[:100]}'" + (near or "; GET /v1/models lists them")
            )
        fitting = [entry for entry in known if version in (None, str(entry[2]))]
        if not fitting:
            there = ", ".join(str(entry[2]) for entry in known)
            raise NotFoundError(f"{name} has no version '{safe_text(version)[:40]}' here; it has {there}")
        loaded = [entry for entry in fitting if entry[1].workers]
        if not loaded:
            raise Unavailable(f"{safe_text(name)} is not loaded: {fitting[0][1].problem}", after=10.0)
        _, served, number, task = max(loaded, key=lambda entry: entry[2])
        assert served.opened and served.workers
        return Target(served, name, number, task, served.opened.tasks[task], served.workers)

    def of(self, name: str) -> list[Served]:
        """The models that a name of the repository means: `vqvae-fashion`, one of its tasks, or as it was named.

        Raises:
            NotFoundError: none.
        """
        found = [s for s in self.served if name in (s.reference, s.name)]
        found += [served for other, served, *_ in self.names() if other == name and served not in found]
        if not found:
            raise NotFoundError(
                f"'{safe_text(name)[:100]}' is none of the models that this server was started with:"
                f" {', '.join(safe_text(s.reference) for s in self.served)}"
            )
        return found
