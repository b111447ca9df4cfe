"""What one can see of a running server: metrics as Prometheus reads them, and a log with a line for each request."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from ...system.memory import taken

if TYPE_CHECKING:
    from .repository import Repository, Target

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""The upper bounds of the histograms' buckets: of latencies, and of the elements that ran as one."""


@dataclass(frozen=True)
class Answered:
    """A request that was answered."""

    client: str  # its address
    protocol: str  # http, grpc
    method: str
    path: str  # without the query
    status: int  # of HTTP, of gRPC the one that stands for the same; 499: the client went away
    seconds: float
    size: int  # bytes of the answer's body
    target: Target | None  # of a call


class Metrics:
    """Counts requests, and reads the rest from the models' workers when it is asked."""

    def __init__(self, repository: Repository):
        self._repository, self._registry = repository, CollectorRegistry()
        names = ("model", "version", "task", "status")
        self._requests = Counter("zoo_requests", "Requests that were answered", names, registry=self._registry)
        self._seconds = Histogram(
            "zoo_request_seconds", "From the headers to the end of the answer", names[:3],
            registry=self._registry, buckets=SECONDS,
        )  # fmt: skip
        self._registry.register(self)

    def answered(self, request: Answered) -> None:
        target = request.target
        of = (target.served.name, str(target.version), target.task_name) if target else ("", "", "")
        self._requests.labels(*of, str(request.status)).inc()
        if target:
            self._seconds.labels(*of).observe(request.seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The state of the models' workers; called by `text`."""
        names = ("model", "version")
        waiting = GaugeMetricFamily("zoo_queue_length", "Calls that wait", labels=names)
        running = GaugeMetricFamily("zoo_running", "Workers that run something", labels=names)
        up = GaugeMetricFamily("zoo_workers", "Workers that can take a call", labels=names)
        restarts = CounterMetricFamily(
            "zoo_worker_restarts", "Workers that ended, and were started again", labels=names
        )
        memory = GaugeMetricFamily("zoo_worker_memory_bytes", "Resident memory", labels=(*names, "worker"))
        sizes = HistogramMetricFamily("zoo_batch_size", "Elements that ran as one", labels=(*names, "task"))
        for served in self._repository.served:
            if not (workers := served.workers) or not served.opened:
                continue
            of = (served.name, str(served.opened.version))
            waiting.add_metric(of, workers.waiting)
            running.add_metric(of, workers.running)
            up.add_metric(of, workers.up)
            restarts.add_metric(of, workers.counts.restarts)
            for number, process in enumerate(served.opened.processes()):
                memory.add_metric((*of, str(number)), taken(process))
            for task in served.opened.tasks:
                ran = {size: run[0] for (name, size), run in workers.counts.runs.items() if name == task}
                buckets = [(str(most), sum(n for size, n in ran.items() if size <= most)) for most in SIZES]
                elements = sum(size * count for size, count in ran.items())
                sizes.add_metric((*of, task), [*buckets, ("+Inf", sum(ran.values()))], elements)
        return waiting, running, up, restarts, memory, sizes


class AccessLog:
    """Writes a line of JSON for each request: when, who, what, and how it went. No bodies, no headers, no queries."""

    def __init__(self, file: TextIO):
        self._file = file

    def answered(self, request: Answered) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        line = {
            "time": stamp, "client": request.client, "protocol": request.protocol, "method": request.method,
            "path": request.path[:1000], "status": request.status, "seconds": round(request.seconds, 6),
            "bytes": request.size,
        }  # fmt: skip
        if target := request.target:
            line |= {"model": f"{target.served.name}:{target.version}", "task": target.task_name}
        with suppress(OSError, ValueError):  # a full disk must not end the server
            self._file.write(msgspec.json.encode(line).decode() + "\n")
            self._file.flush()
