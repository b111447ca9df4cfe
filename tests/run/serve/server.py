"""Starts `zoo serve` as people do, in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests

from tests.ports.bundles import bundle
from zoo.hookspecs import Port, Task

SECONDS = 60  # until it answers, or ends, on a busy machine


@dataclass
class Server:
    process: subprocess.Popen
    url: str
    log: Path
    grpc: str = ""  # host:port

    def workers(self) -> list[int]:
        """The ids of its worker processes."""
        found = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sorted(int(pid) for children in found for pid in children.read_text().split())

    def wait_for(self, what, says: str) -> None:
        end = time.monotonic() + SECONDS
        while not what():
            assert time.monotonic() < end, (says, self.log.read_text())
            time.sleep(0.02)

    def post(self, path: str, timeout: float = SECONDS, **how) -> requests.Response:
        return requests.post(self.url + path, timeout=timeout, **how)

    def get(self, path: str, timeout: float = SECONDS, **how) -> requests.Response:
        return requests.get(self.url + path, timeout=timeout, **how)


@contextmanager
def serving(folder: Path, *words: object, **environment: str) -> Iterator[Server]:
    """A server for `words`, the arguments of `zoo serve`, that answers; killed at the end if it still runs."""
    log = folder / "log"
    command = [sys.executable, "-m", "zoo", "serve", *map(str, words), "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=file
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), log.read_text()
        grpc = ""
        if "--grpc-port" in words:
            grpc = process.stdout.readline().strip().removeprefix("grpc://")
        yield Server(process, line.strip().rstrip("/"), log, grpc)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def slow(folder: Path) -> Path:
    """A bundle whose task `play` takes a millisecond or so for each of its steps, and gives the picture again."""
    picture = Port(kind="image", dtype="uint8", shape=("batch", 8, 8, 1))
    steps = Port(kind="count", dtype="int64", shape=(), minimum=1, maximum=10**9)
    task = Task(summary="Takes its time", inputs={"image": picture, "steps": steps}, outputs={"same": picture})
    graph = """(uint8[batch,8,8,1] image, int64 steps) => (uint8[batch,8,8,1] same)
      <bool go = {1}, int64[2] shape = {160, 160}, float zero = {0.0}> {
        start = Expand(zero, shape)
        end = Loop(steps, go, start) <body = step (int64 i, bool keep, float[160,160] a)
          => (bool more, float[160,160] b) { more = Identity(keep)  b = MatMul(a, a) }>
        sum = ReduceSum<keepdims = 0>(end)
        level = Cast<to = 2>(sum)
        same = Add(image, level)
      }"""
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    return bundle(folder, "slow", task, graph, image=pixels, steps=np.array(1), same=pixels)
