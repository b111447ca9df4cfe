"""Every target compared with Python: size of the folder, cold start, and pictures per second.

    python bench/deploy.py [--write] [--task TASK] [--batch N] [--seconds S] [--rounds N] MODEL ...    make deploy

Exports each model to every target and measures the following, each as the median of ROUNDS rounds in which the stacks
take turns, so that other work on the machine affects all of them:

- cold start: the time from starting the host's command line to the first picture's file. For Triton, from starting the
  server to its first answer. For the page, from opening its address in a headless Chromium with an empty cache to the
  first picture on the screen.
- pictures/s: calls with BATCH pictures each, repeated for S seconds in total, in a warm process, through the host's
  `run` as an application calls it. Triton is called over gRPC; the page's worker is called by the page.
- processors busy: how many processors the stack's processes kept busy meanwhile; on an idle machine this is the number
  of threads of the runtime, which each stack chooses itself.

Prints a Markdown table; --write also writes it into docs/targets.md. A stack that is not installed, or a target that
leaves the task out, gets a row that says so.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import example, write_between
from zoo_targets import cpp, triton, web
from zoo_targets.common import run_program
from zoo_targets.plugin import TARGETS

from zoo.errors import NotFoundError, ZooError
from zoo.runtime import cuda_obstacle, physical_cores
from zoo.site import Site
from zoo.store.locate import locate

PAGE = Path(__file__).parents[1] / "docs" / "targets.md"
START = "<!-- made by bench/deploy.py: run `make deploy` -->\n"
COLUMNS = ("model and task", "target", "folder, MB", "cold start, s", "processors busy", "pictures/s", "vs Python")
ZOO = [sys.executable, "-m", "zoo"]

# The loops: each gets task, batch and seconds, reads its inputs from bench/, and prints pictures per second.

PYTHON_LOOP = """
import json, sys, time
import numpy as np
from run import run
task, batch, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with open("bench/inputs.json") as file:
    inputs = {n: np.fromfile(a["file"], a["dtype"]).reshape(a["shape"]) for n, a in json.load(file).items()}
run(task, **inputs)
done, start = 0, time.perf_counter()
while not done or time.perf_counter() < start + seconds:
    run(task, **inputs)
    done += batch
print(done / (time.perf_counter() - start))
"""

NODE_LOOP = """
import { readFile } from "node:fs/promises";
import { run } from "./run.mjs";
import { fromBytes } from "./ports.mjs";
const [task, batch, seconds] = process.argv.slice(1), inputs = {};
for (const [name, { dtype, shape, file }] of Object.entries(JSON.parse(await readFile("bench/inputs.json"))))
  inputs[name] = fromBytes(dtype, shape, await readFile(file));
await run(task, inputs);
let done = 0;
const start = performance.now();
while (!done || performance.now() < start + 1000 * seconds) { await run(task, inputs); done += Number(batch); }
console.log(done / ((performance.now() - start) / 1000));
"""

CPP_LOOP = """
#define main host_main
#include "host.cpp"
#undef main
#include <chrono>

int main(int, char** words) {
  open_runtime();
  Model model(".");
  Arrays inputs;
  for (auto& [name, raw] : JsonReader::read("bench/inputs.json").fields) {
    Shape shape;
    for (auto& length : raw.at("shape").items) shape.push_back(int64_t(length.value));
    auto& file = raw.at("file").string;
    inputs[name] = from_bytes(raw.at("dtype").string, shape, slurp(file), file);
  }
  model.run(words[1], {}, inputs);
  auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  double done = 0, start = now();
  while (!done || now() < start + std::atof(words[3])) { model.run(words[1], {}, inputs); done += std::atof(words[2]); }
  std::cout << done / (now() - start) << std::endl;
}
"""

PAGE_LOOP = """
async ([task, batch, seconds]) => {
  const place = (path) => new URL(path, location.href).href;
  const { fromBytes } = await import(place("ports.mjs"));
  const inputs = {};
  for (const [name, { dtype, shape, file }] of Object.entries(await (await fetch("bench/inputs.json")).json()))
    inputs[name] = fromBytes(dtype, shape, new Uint8Array(await (await fetch(file)).arrayBuffer()));
  const worker = new Worker(place("worker.mjs?device=wasm"), { type: "module" });
  const ask = (what, details) => new Promise((resolve, reject) => {
    worker.onmessage = ({ data: { result, error } }) => { // news of what was loaded has neither
      if (error) reject(new Error(error.message));
      else if (result) resolve(result);
    };
    worker.postMessage({ id: 0, what, ...details });
  });
  await ask("open");
  await ask("run", { task, ports: inputs });
  let done = 0;
  const start = performance.now();
  while (!done || performance.now() < start + 1000 * seconds) {
    await ask("run", { task, ports: inputs });
    done += batch;
  }
  const rate = done / ((performance.now() - start) / 1000);
  worker.terminate();
  return rate;
}
"""

Rate = Callable[[float], float]
"""Draws for a number of seconds; returns pictures per second."""


@dataclass(frozen=True)
class Call:
    """What is drawn: `bench/` in the export's folder has the inputs, of a batch, and of one picture as .npy files."""

    task: str
    batch: int
    ports: tuple[str, ...]

    def words(self) -> list[str]:
        """One picture on a host's command line."""
        return [
            self.task,
            *(word for port in self.ports for word in (f"--{port}", f"bench/{port}.npy")),
            "--out",
            "bench/out.npy",
        ]


@dataclass
class Program:
    """A host that is a program of a command line.

    Attributes:
        command: its words before those of a call.
        loop: the words before task, batch and seconds.
    """

    folder: Path
    call: Call
    command: list[str]
    loop: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def cold(self) -> float:
        start = time.perf_counter()
        self.run([*self.command, *self.call.words()])
        return time.perf_counter() - start

    @contextmanager
    def warm(self) -> Iterator[Rate]:
        words = [*self.loop, self.call.task, str(self.call.batch)]
        yield lambda seconds: float(self.run([*words, str(seconds)]))

    def run(self, words: list[str]) -> str:
        return run_program(words, self.folder, f"{words[0]} is not installed", **self.environment)


@dataclass
class Server:
    """A Triton server with the Python backend, which its client asks over gRPC."""

    folder: Path
    call: Call
    python: str

    @contextmanager
    def client(self) -> Iterator[Program]:
        with triton.serving(self.folder / "python", self.python) as (_, grpc, _):
            environment = {"TRITON_PROTOCOL": "grpc", "TRITON_URL": f"127.0.0.1:{grpc}"}
            yield python_program(self.folder, self.call, self.python, environment)

    def cold(self) -> float:
        start = time.perf_counter()
        with self.client() as client:
            client.cold()
            return time.perf_counter() - start

    @contextmanager
    def warm(self) -> Iterator[Rate]:
        with self.client() as client, client.warm() as rate:
            yield rate


@dataclass
class WebPage:
    """The page in headless Chromium."""

    folder: Path
    call: Call
    playwright: Any
    ready: list[float] = field(default_factory=list)  # seconds until the page can be used, of each cold start
    loads: int = 0  # bytes that the browser requested in the last cold start

    @contextmanager
    def opened(self) -> Iterator[Any]:
        with Site(self.folder) as site:
            threading.Thread(target=site.serve_forever, daemon=True).start()
            browser = self.playwright.chromium.launch(executable_path=web.browser(), args=web.flags())
            try:
                page = browser.new_page()
                page.set_default_timeout(600_000)
                self.loaded = 0
                page.on("response", self._count)
                self.start = time.perf_counter()
                page.goto(f"{site.url}?device=wasm")
                page.wait_for_selector("html[data-ready]")
                yield page
            finally:
                browser.close()
                site.shutdown()

    def _count(self, response: Any) -> None:
        self.loaded += int(response.headers.get("content-length", 0))

    def cold(self) -> float:
        with self.opened() as page:
            self.ready.append(time.perf_counter() - self.start)
            page.click(f"#task-{self.call.task}")
            example = page.get_by_role("button", name="Use the example")
            if example.count():
                example.first.click()
                page.wait_for_selector(".drop canvas:visible, .drop pre:visible")
            page.click("#go")
            page.wait_for_selector("html[data-drawn]")
            self.loads = self.loaded
            return time.perf_counter() - self.start

    @contextmanager
    def warm(self) -> Iterator[Rate]:
        with self.opened() as page:
            yield lambda seconds: page.evaluate(PAGE_LOOP, [self.call.task, self.call.batch, seconds])


class Busy:
    """How many processors the processes that this one started keep busy, seen five times a second: `shares`."""

    def __enter__(self) -> "Busy":
        self.shares: list[float] = []
        self.ended = threading.Event()
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.watcher.join()

    def _watch(self) -> None:
        before, then = self._seconds(), time.perf_counter()
        while not self.ended.wait(0.2):
            after, now = self._seconds(), time.perf_counter()
            self.shares.append(sum(after[p] - before[p] for p in after.keys() & before.keys()) / (now - then))
            before, then = after, now

    @staticmethod
    def _seconds() -> dict[int, float]:
        """Seconds of processor of each descendant so far (Linux)."""
        parents, seconds = {}, {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                pid, _, fields = stat.read_text().partition(" ")
                _, parent, *rest = fields.rpartition(") ")[2].split()
                parents[int(pid)] = int(parent)
                seconds[int(pid)] = (int(rest[9]) + int(rest[10])) / os.sysconf("SC_CLK_TCK")
        ours = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        return {pid: seconds[pid] for pid in ours if pid in seconds and pid != os.getpid()}


Host = Program | Server | WebPage


def python_program(folder: Path, call: Call, python: str, environment: dict[str, str] | None = None) -> Program:
    return Program(folder, call, [python, "-s", "run.py"], [python, "-s", "-c", PYTHON_LOOP], environment or {})


@contextmanager
def host_of(target: str, folder: Path, call: Call) -> Iterator[Host]:
    """What runs an export here.

    Raises:
        NotFoundError: its stack is not installed.
    """
    if target == "node":
        node = ["node", "--input-type=module", "-e", NODE_LOOP]
        require = "require('node:module').createRequire(process.cwd() + '/run.mjs').resolve('onnxruntime-node')"
        if not shutil.which("node") or subprocess.run(["node", "-e", require], capture_output=True).returncode:
            raise NotFoundError("node or onnxruntime-node is not installed")
        yield Program(folder, call, ["node", "run.mjs"], node)
    elif target == "cpp":
        if lacks := cpp.missing():
            raise NotFoundError(f"{lacks} is not installed")
        with tempfile.TemporaryDirectory() as place:
            loop = Path(place, "loop")
            loop.mkdir()
            shutil.copyfile(folder / "CMakeLists.txt", loop / "CMakeLists.txt")
            shutil.copyfile(folder / "main.cpp", loop / "host.cpp")
            (loop / "main.cpp").write_text(CPP_LOOP)
            built = [str(cpp.build(source, Path(place, f"build-{source.name}"))) for source in (folder, loop)]
            yield Program(folder, call, built[:1], built[1:])
    elif target == "triton":
        if not triton.server_python():
            raise NotFoundError("ZOO_TRITON_PYTHON names no Triton server")
        yield Server(folder, call, triton.server_python())
    elif target == "web":
        if not web.browser():
            raise NotFoundError("no Chromium is installed")
        if not importlib.util.find_spec("playwright"):
            raise NotFoundError("playwright is not installed")
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            yield WebPage(folder, call, playwright)
    elif target == "openvino":
        python = os.environ.get("ZOO_OPENVINO_PYTHON") or sys.executable
        if python == sys.executable and not importlib.util.find_spec("openvino"):
            raise NotFoundError("openvino is not installed")
        yield python_program(folder, call, python)
    elif target == "cuda":
        if obstacle := cuda_obstacle():
            raise NotFoundError(obstacle)
        yield python_program(folder, call, sys.executable)
    else:
        yield python_program(folder, call, sys.executable)


def export(model: str, target: str, folder: Path) -> None:
    command = [*ZOO, "export", model, "--target", target, "-o", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotFoundError(done.stderr.strip().removeprefix("Error: "))


def write_inputs(folder: Path, inputs: dict[str, np.ndarray], one: dict[str, np.ndarray]) -> None:
    (folder / "bench").mkdir()
    listed = {}
    for name, array in inputs.items():
        listed[name] = {"dtype": str(array.dtype), "shape": array.shape, "file": f"bench/{name}.bin"}
        array.tofile(folder / "bench" / f"{name}.bin")
        np.save(folder / "bench" / f"{name}.npy", one[name])
    (folder / "bench" / "inputs.json").write_text(json.dumps(listed))


def figure(number: float) -> str:
    """Three digits that count."""
    return f"{float(f'{number:.3g}'):g}"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rows_of(model: str, given: argparse.Namespace) -> tuple[list[list[str]], list[str]]:
    """The table's rows of a model, and what failed."""
    bundle = locate(model)
    task, declared = bundle.manifest.task(given.task)
    call = Call(task, given.batch, tuple(declared.inputs))
    inputs, one = (example(bundle, task, batch) for batch in (given.batch, 1))
    cells: dict[str, dict[str, str]] = {target: {} for target in TARGETS}
    hosts: dict[str, Host] = {}
    failed: list[str] = []

    def attempt(target: str, do: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `do`. If it fails, the target is skipped from then on, with the reason in its row."""
        try:
            return do(*arguments)
        except ZooError as e:
            hosts.pop(target, None)
            cells[target]["cold start, s"] = f"not measured: {e}"
            if not isinstance(e, NotFoundError):
                failed.append(f"{bundle.manifest.name} on {target}")

    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def prepare(target: str) -> None:
            folder = place / target
            export(model, target, folder)
            cells[target]["folder, MB"] = figure(size(folder) / 1e6)
            if task not in json.loads((folder / "model.json").read_bytes())["tasks"]:
                raise NotFoundError(f"this target does not include the task `{task}`")
            write_inputs(folder, inputs, one)
            hosts[target] = stack.enter_context(host_of(target, folder, call))

        for target in TARGETS:
            attempt(target, prepare, target)
        seconds: dict[str, list[float]] = {target: [] for target in hosts}
        rates: dict[str, list[float]] = {target: [] for target in hosts}
        busy: dict[str, list[float]] = {target: [] for target in hosts}
        for _ in range(given.rounds):
            for target, host in list(hosts.items()):
                if cold := attempt(target, host.cold):
                    seconds[target].append(cold)
        drawing = {target: attempt(target, stack.enter_context, host.warm()) for target, host in list(hosts.items())}
        for _ in range(given.rounds):
            for target in list(hosts):
                with Busy() as processors:
                    rate = attempt(target, drawing[target], given.seconds / given.rounds)
                if rate:
                    rates[target].append(rate)
                    busy[target] += processors.shares
        for target, host in hosts.items():
            row, rate = cells[target], statistics.median(rates[target])
            row["cold start, s"] = figure(statistics.median(seconds[target]))
            row["processors busy"] = f"{statistics.median(busy[target]):.1f}" if busy[target] else ""
            row["pictures/s"] = figure(rate)
            if "python" in hosts:
                row["vs Python"] = f"{rate / statistics.median(rates['python']):.2f}"
            if isinstance(host, WebPage):
                row["folder, MB"] += f", of which a browser loads {figure(host.loads / 1e6)}"
                row["cold start, s"] += f"; the page is ready after {figure(statistics.median(host.ready))}"
    name = f"{bundle.manifest.name} {task}"
    return [[name, target, *(row.get(column, "") for column in COLUMNS[2:])] for target, row in cells.items()], failed


def machine() -> str:
    """The processor's name and what zoo's own runtime would use of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} processors, on which zoo's own runtime uses {physical_cores()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["ddpm-fashion", "vqvae-fashion"], metavar="MODEL")
    parser.add_argument("--task", help="default: each model's own")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    rows, failed = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)], []
    for model in given.models:
        found, off = rows_of(model, given)
        rows += ["| " + " | ".join(row) + " |" for row in found]
        failed += off
    text = (
        f"{given.batch} pictures per call, {given.rounds} rounds of {given.seconds / given.rounds:g} s; {machine()};"
        f" load at the start {load:.1f}.\n\n" + "\n".join(rows) + "\n"
    )
    print(text)
    if failed:
        sys.exit(f"Error: failed: {', '.join(failed)}")
    if given.write:
        write_between(PAGE, START, text)


if __name__ == "__main__":
    main()
