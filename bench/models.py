"""Time of one picture of every model in the default registry, on one CPU thread: `milliseconds` of bench/models.json.

Run: .venv/bin/python bench/models.py [ROUNDS]; docs/models.md shows the results. The task is the model's default, with
the inputs of the first golden case with one picture, and ports with a default at their default. The models take turns,
so that a busy machine slows all of them equally; the fastest call of each counts, and `ratio` is relative to the
fastest model.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from zoo.formats import manifest as manifests
from zoo.formats import registry as registries
from zoo.formats.golden import read_cases
from zoo.names import GOLDEN, graph_file
from zoo.ports.image import Image
from zoo.ports.kinds import kind_of
from zoo.runtime import open_session

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).with_suffix(".json")


def call_of(folder: Path):
    """A function that makes one picture with the model's default task."""
    manifest = manifests.read(folder)
    name, task = manifest.task(None)
    case = next(c for c in read_cases(folder / GOLDEN, manifest)[name] if all(len(a) == 1 for a in _rowed(task, c)))
    inputs = {
        port: np.full(case.inputs[port].shape, declared.default, declared.dtype)
        if declared.default is not None
        else case.inputs[port]
        for port, declared in task.inputs.items()
    }
    images = [port for port, declared in task.inputs.items() if isinstance(kind_of(declared), Image)]
    if sized := [port for port in images if not _fixed(task.inputs[port])]:
        inputs |= {port: np.zeros((1, 28, 28, task.inputs[port].shape[-1]), np.uint8) for port in sized}
    session = open_session(folder / graph_file(name), "cpu", threads=1)
    return lambda: session.run(inputs)


def _rowed(task, case):
    return [case.inputs[port] for port, declared in task.inputs.items() if declared.shape[:1] == ("batch",)]


def _fixed(port):
    return all(isinstance(dim, int) for dim in port.shape[1:])


def main(rounds: int) -> None:
    models = registries.read(ROOT, "default").document.models
    calls = {name: call_of(ROOT / "models" / name / str(max(model.versions))) for name, model in models.items()}
    seconds = {name: [] for name in calls}
    for round_ in range(rounds + 1):  # the first fills the caches and does not count
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    best = {name: min(values) * 1000 for name, values in seconds.items()}
    fastest = min(best.values())
    rows = [{"model": n, "milliseconds": round(ms, 3), "ratio": round(ms / fastest, 1)} for n, ms in best.items()]
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    OUT.write_text(json.dumps({"rounds": rounds, "load_per_core": round(load, 2), "models": rows}, indent=2) + "\n")
    for row in rows:
        print(f"{row['model']:20} {row['milliseconds']:10.3f} ms {row['ratio']:8.1f}x")
    print(f"load per core {load:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
