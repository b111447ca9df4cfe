"""What serving costs: `zoo serve` compared with the same sessions called in a loop.

Run: .venv/bin/python bench/serve.py [SECONDS] [PART…]. Parts: `overhead`, `throughput`, `full`, `faults`. Clients run
in a process of their own, in the protocol's binary form over connections that stay open, and check every answer; they
share the cores with the server, so that what each takes of them is printed. Goals: p50 of one 28x28 picture at most
3 ms over the local call; with calls of 50 ms and more, 0.9 of the throughput of the same worker called in a loop; a
full queue refuses within 15 ms at the median and 100 ms at p99; with a worker killed every 5 s, no wrong answer and
none missing.
"""

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.run.serve.server import Server, serving  # noqa: E402

FOLDER = ROOT / "models" / "vqvae-fashion" / "2"
GOAL_OVERHEAD, GOAL_SHARE, GOAL_REFUSAL, GOAL_REFUSAL_P99 = 0.003, 0.9, 0.015, 0.100
PATIENCE = 300  # seconds until a request counts as unanswered
DIFFERENT = 8  # pictures that differ, and so do their answers
LARGE = 208  # pixels of the side of a picture whose call takes about 50 ms


def pictures(side: int) -> np.ndarray:
    from zoo.formats.golden import read_cases
    from zoo.formats.manifest import read

    case = read_cases(FOLDER / "golden.safetensors", read(FOLDER))["reconstruct"][0]
    first = np.resize(case.inputs["image"][:1], (1, side, side, 1))
    return np.stack([np.roll(first, 3 * number, axis=2) for number in range(DIFFERENT)])


# --- The clients, in a process of their own ---


def request(url: str, image: np.ndarray) -> bytes:
    host = url.removeprefix("http://")
    tensor = {"name": "image", "shape": list(image.shape), "datatype": "UINT8",
              "parameters": {"binary_data_size": image.nbytes}}  # fmt: skip
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        f"POST /v2/models/vqvae-fashion.reconstruct/infer HTTP/1.1\r\nHost: {host}\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\nContent-Length: {len(text) + image.nbytes}\r\n\r\n"
    )
    return head.encode() + text + image.tobytes()


async def clients(url: str, side: int, number: int, seconds: float, repeats: bool, arrays: Path) -> dict[str, object]:
    """What `number` clients see that ask one after the other.

    Args:
        repeats: what is answered 503 is asked again soon, until it is answered 200; else a client does what
            `Retry-After` says.
    """
    expected, spread = np.load(arrays), number > 64  # or all of them would ask, and be refused, in the same moment
    asked = [request(url, image) for image in pictures(side)]
    host, port = url.removeprefix("http://").split(":")
    times: dict[int, list[float]] = {}
    begun = time.monotonic()
    wrong, unanswered, end = 0, 0, begun + seconds

    async def one(which: int) -> None:
        nonlocal wrong, unanswered
        reader, writer = await asyncio.open_connection(host, int(port))
        if spread:
            await asyncio.sleep(random.random())
        while time.monotonic() < end:
            start = time.perf_counter()
            while True:
                begin = time.perf_counter()
                writer.write(asked[which])
                try:
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                    length = int(head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
                    body = await asyncio.wait_for(reader.readexactly(length), PATIENCE)
                except (OSError, EOFError, TimeoutError):
                    unanswered += 1
                    return
                status = int(head[9:12])
                times.setdefault(status, []).append(time.perf_counter() - (begin if status != 200 else start))
                if status == 200:
                    wrong += body[-expected[which].nbytes :] != expected[which].tobytes()
                elif repeats:
                    await asyncio.sleep(0.05)
                    continue
                else:
                    await asyncio.sleep(int(head.lower().partition(b"\r\nretry-after: ")[2].partition(b"\r\n")[0]))
                break
        writer.close()

    await asyncio.gather(*(one(number % DIFFERENT) for number in range(number)))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "times": times, "wrong": wrong, "unanswered": unanswered, "seconds": time.monotonic() - begun,
        "cpu": used.ru_utime + used.ru_stime,
    }  # fmt: skip


class Seen:
    """What the clients of one run saw."""

    def __init__(self, found: dict, server_cpu: tuple[float, float] = (0, 0)):
        self.front, self.workers = server_cpu
        self.times = {int(status): np.sort(times) for status, times in found["times"].items()}
        self.wrong, self.unanswered, self.cpu = found["wrong"], found["unanswered"], found["cpu"]
        self.seconds = found["seconds"]
        self.rate = len(self.times.get(200, ())) / self.seconds

    def at(self, share: float, status: int = 200) -> float:
        return float(np.quantile(self.times.get(status, [np.nan]), share))

    def __str__(self) -> str:
        others = "".join(f", {len(times)} x {status}" for status, times in self.times.items() if status != 200)
        calls = max(1, sum(map(len, self.times.values())))
        odd = f", {self.wrong} WRONG, {self.unanswered} UNANSWERED" if self.wrong or self.unanswered else ""
        return (
            f"{self.rate:7.1f}/s, p50 {self.at(0.5) * 1e3:7.1f} ms, p99 {self.at(0.99) * 1e3:7.1f} ms,"
            f" CPU of a call {self.front / calls * 1e3:.1f} ms in front, {self.workers / calls * 1e3:.1f} in workers,"
            f" {self.cpu / calls * 1e3:.1f} in clients{others}{odd}"
        )


def ask(server: Server, arrays: Path, number: int, seconds: float, side: int = 28, repeats: bool = False) -> Seen:
    words = [server.url, side, number, seconds, int(repeats), arrays]
    before = cpu(server)
    done = subprocess.run([sys.executable, __file__, "--clients", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Seen(json.loads(done.stdout), tuple(np.subtract(cpu(server), before)))


def cpu(server: Server) -> tuple[float, float]:
    """Seconds of CPU that the server's own process and its workers have taken so far."""
    taken = [
        sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        for pid in (server.process.pid, *server.workers())
    ]
    return taken[0] / os.sysconf("SC_CLK_TCK"), sum(taken[1:]) / os.sysconf("SC_CLK_TCK")


# --- What is measured ---


class Alone:
    """The same worker called from this process; writes what it gives to each picture, for the clients."""

    def __init__(self, here: Path, side: int):
        import zoo

        self.images = pictures(side)
        model = zoo.load(str(FOLDER), "cpu", isolated=True)
        self.session, self.expected = model.session("reconstruct"), here / f"{side}.npy"
        np.save(self.expected, np.stack([self.session.run({"image": one})["reconstruction"] for one in self.images]))

    def seconds(self, seconds: float) -> float:
        """The mean of a call, one after the other."""
        times, end = [], time.monotonic() + seconds
        while time.monotonic() < end or len(times) < 5:
            start = time.perf_counter()
            self.session.run({"image": self.images[len(times) % DIFFERENT]})
            times.append(time.perf_counter() - start)
        return float(np.mean(times))


def overhead(here: Path, seconds: float) -> bool:
    alone, rounds = Alone(here, 28), []
    with serving(here, FOLDER) as server:
        for _ in range(5):
            rounds.append((ask(server, alone.expected, 1, seconds / 5).at(0.5), alone.seconds(seconds / 5)))
    served, called = np.median(rounds, axis=0)
    print(
        f"one 28x28 picture: {called * 1e3:.2f} ms in a worker, {served * 1e3:.2f} ms over HTTP:"
        f" +{(served - called) * 1e3:.2f} ms (goal {GOAL_OVERHEAD * 1e3:g})"
    )
    return served - called <= GOAL_OVERHEAD


def throughput(here: Path, seconds: float) -> bool:
    good = True
    for side in (28, LARGE):
        alone = Alone(here, side)
        for options in (("--max-batch", 1), ()):
            print(f"{side}x{side}, {' '.join(map(str, options)) or 'calls that wait run as one'}")
            with serving(here, FOLDER, *options, "--queue", 1000) as server:
                for number in (1, 8, 64, 256):
                    before = alone.seconds(seconds / 2)
                    seen = ask(server, alone.expected, number, seconds, side)
                    call = (before + alone.seconds(seconds / 2)) / 2  # on a machine that is never equally busy
                    share = seen.rate * call
                    print(f"  {number:3} clients  {seen}: {share:.2f} of {1 / call:.1f}/s in a loop", flush=True)
                    good &= not seen.wrong and not seen.unanswered
                    good &= call < 0.05 or number == 1 or share >= GOAL_SHARE
    return good


def full(here: Path, seconds: float) -> bool:
    expected = Alone(here, LARGE).expected
    with serving(here, FOLDER, "--queue", 16) as server:
        seen = ask(server, expected, 256, seconds, LARGE)
    p50, p99 = seen.at(0.5, 503), seen.at(0.99, 503)
    print(
        f"a queue of 16, 256 clients: refused in {p50 * 1e3:.1f} ms at the median (goal {GOAL_REFUSAL * 1e3:g}),"
        f" {p99 * 1e3:.1f} ms at p99 (goal {GOAL_REFUSAL_P99 * 1e3:g}); {seen}"
    )
    return p50 <= GOAL_REFUSAL and p99 <= GOAL_REFUSAL_P99 and not seen.wrong and not seen.unanswered


def faults(here: Path, seconds: float) -> bool:
    """64 clients that repeat what is answered 503, while a worker is killed every 5 s."""
    expected = Alone(here, 28).expected
    with serving(here, FOLDER, "--workers", 2) as server:
        words = [server.url, 28, 64, max(seconds, 10), 1, expected]
        asking = subprocess.Popen([sys.executable, __file__, "--clients", *map(str, words)], stdout=-1, text=True)
        killed = 0
        while True:
            try:
                found, _ = asking.communicate(timeout=5)
                break
            except subprocess.TimeoutExpired:
                if workers := server.workers():
                    os.kill(workers[killed % len(workers)], signal.SIGKILL)
                    killed += 1
        seen = Seen(json.loads(found))
    print(f"64 clients, {killed} workers killed: {seen}, worst {seen.at(1):.2f} s")
    return bool(killed) and not seen.wrong and not seen.unanswered and set(seen.times) <= {200, 503}


PARTS = {"overhead": overhead, "throughput": throughput, "full": full, "faults": faults}


def main(seconds: float, parts: list[str]) -> int:
    good = True
    with tempfile.TemporaryDirectory() as name:
        os.environ["ZOO_HOME"] = f"{name}/home"
        for part in parts or PARTS:
            good &= PARTS[part](Path(name), seconds)
    print("reached" if good else "MISSED")
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--clients"]:
        url, side, number, seconds, repeats, arrays = sys.argv[2:]
        print(json.dumps(asyncio.run(
            clients(url, int(side), int(number), float(seconds), repeats == "1", Path(arrays))
        )))  # fmt: skip
    else:
        sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10, sys.argv[2:]))
