"""Graphs on their own, as `zoo export --target onnx` writes them, in other ONNX stacks: which gives the right results?

    python bench/stacks.py [--write] [--stack NAME ...] [MODEL ...]

Each stack gets a virtual environment of its own in .stacks/, which pip fills at the first run: gigabytes, so CI does
not run this. Every task's golden cases, and a picture drawn through the loop in NumPy, are computed by the export's own
host, `run.py`, with the stack put in place of ONNX Runtime; each task in a process of its own, since some stacks crash.
Graphs are tried as they are, then with fixed sizes, then in opset 17 as well: a cell says what it took. Each cell is
kept in .stacks/results/, by the versions of stack and model, so that a run that was interrupted goes on; remove that
folder to measure again. Prints a Markdown table; --write also writes it into docs/targets.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import write_between

import zoo
from zoo.formats import manifest as manifests
from zoo.formats.golden import read_cases
from zoo.names import GOLDEN
from zoo.run.comparison import compare_task
from zoo.run.replay import worst_outputs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "targets.md"
START = "<!-- made by bench/stacks.py -->\n"
ZOO = [sys.executable, "-m", "zoo"]
SECONDS = 300

STACKS = {
    "ReferenceEvaluator": ["onnx"],
    "tract": ["onnx", "tract"],
    "OpenCV": ["onnx", "opencv-python-headless"],
    "MNN": ["onnx", "MNN"],
    "TVM": ["onnx", "apache-tvm"],
    "IREE": ["onnx", "iree-base-compiler[onnx]", "iree-base-runtime"],
    "tinygrad": ["onnx", "ziglang", "tinygrad"],
    "onnx2torch": ["onnx", "torch", "onnx2torch"],
}
"""What pip installs for each; bench/stack_runner.py calls it."""

TOOLS = ["onnx", "onnxruntime", "sympy", "onnxsim", "onnxslim", "onnx-graphsurgeon", "polygraphy"]
"""Of bench/tools.py."""

MODELS = ["vqvae-fashion", "vqgan-fashion", "judge-fashion", "gan-fashion", "ddpm-fashion"]

WAYS = {
    "as it is": lambda sizes: [],
    "fixed sizes": lambda sizes: sizes,
    "fixed sizes, opset 17": lambda sizes: [*sizes, "--opset", "17"],
}

STEPS = 8
"""Of the picture drawn through the loop."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--stack", action="append", choices=list(STACKS), help="only this one")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    stacks = {name: environment(name) for name in given.stack or STACKS}
    titles = {name: f"{name} {version(name, python)}" for name, python in stacks.items()}
    with tempfile.TemporaryDirectory() as place:
        rows = []
        for model in given.models or MODELS:
            exports = {way: export(model, way, Path(place)) for way in WAYS}
            for task in tasks_of(exports["as it is"]):
                cells = [kept(titles[name], python, name, exports, task) for name, python in stacks.items()]
                rows.append([model, task, *cells])
                print(*rows[-1], sep=" | ", file=sys.stderr)
    head = ["model", "task", *titles.values()]
    lines = [" | ".join(["", *row, ""]).strip() for row in (head, ["---"] * len(head), *rows)]
    table = "\n".join(lines) + "\n"
    print(table)
    if given.write:
        write_between(PAGE, START, table)


def environment(name: str) -> str:
    """The interpreter of a stack's virtual environment, which is made if it is not there."""
    folder = ROOT / ".stacks" / name
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", *STACKS.get(name, TOOLS)], check=True)
        (folder / "done").touch()
    return str(python)


def version(name: str, python: str) -> str:
    package = re.split(r"[\[=<>]", STACKS[name][-1])[0]
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def export(model: str, way: str, place: Path) -> Path:
    out = place / f"{model}-{way.replace(' ', '-')}"
    options = WAYS[way](sizes_of(model))
    command = [*ZOO, "export", model, "--target", "onnx", "-o", out, "--no-loop", *options]
    subprocess.run(command, check=True, capture_output=True)
    return out


def sizes_of(model: str) -> list[str]:
    """The options that fix every size of a model whose pictures are 28x28."""
    tasks = list(zoo.load(model).manifest.tasks.values())
    inputs = {name for task in tasks for name in task.inputs}
    dimensions = {d for task in tasks for port in task.inputs.values() for d in port.shape}
    shape = ["batch=1", *(f"{side}=28" for side in ("height", "width") if side in dimensions)]
    constants = [f"{name}={value}" for name, value in (("size", "28x28"), ("steps", STEPS)) if name in inputs]
    return ["--shape", ",".join(shape), *(word for one in constants for word in ("--constant", one))]


def tasks_of(folder: Path) -> list[str]:
    """The tasks of an export, and those that its host draws through the loop."""
    tasks = list(manifests.read(folder / "model").tasks)
    return tasks + [name.removesuffix("_begin") for name in tasks if name.endswith("_begin")]


def kept(title: str, python: str, stack: str, exports: dict[str, Path], task: str) -> str:
    """A cell, from an earlier run if there is one."""
    manifest = manifests.read(exports["as it is"] / "model")
    file = ROOT / ".stacks" / "results" / f"{title} {manifest.name}-{manifest.version} {task}.txt"
    if not file.exists():
        text = cell(python, stack, exports, task)
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return file.read_text()


def cell(python: str, stack: str, exports: dict[str, Path], task: str) -> str:
    """What it took, and how far it is off; or why not."""
    why = ""
    for way, folder in exports.items():
        right, why = attempt(python, stack, folder, task)
        if right:
            return f"{way}: {why}"
    return f"no: {why}"


def attempt(python: str, stack: str, folder: Path, task: str) -> tuple[bool, str]:
    """Whether a stack computes a task as it should, and how far it is off; or the reason."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.npz"
        drawn = task not in manifests.read(folder / "model").tasks
        given = json.dumps({"seed": [7], "label": [3]} | ({"steps": STEPS} if takes_steps(folder, task) else {}))
        command = [python, ROOT / "bench" / "stack_runner.py", stack, folder, task, out, given if drawn else ""]
        quiet = os.environ | {"PYTHONWARNINGS": "ignore", "ORT_DISABLE_TELEMETRY": "1"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=quiet)
        except subprocess.TimeoutExpired:
            return False, f"over {SECONDS} s"
        if done.returncode or not out.exists():
            return False, reason(done)
        with np.load(out) as arrays:
            outputs = {name: arrays[name] for name in arrays.files}
    compared = compare_drawn(folder, task, outputs) if drawn else compare_cases(folder, task, outputs)
    worst = max(compared.values(), key=lambda c: (c.verdict == "differs", c.worst))
    text = "identical" if worst.verdict == "identical" else worst.text.split(" (case")[0]
    return worst.verdict != "differs", text


def takes_steps(folder: Path, whole: str) -> bool:
    begin = manifests.read(folder / "model").tasks.get(f"{whole}_begin")
    return begin is not None and "steps" in begin.inputs


def compare_cases(folder: Path, task: str, outputs: dict[str, np.ndarray]):
    manifest = manifests.read(folder / "model")
    ports, tolerance = manifest.tasks[task].outputs, next(iter(manifest.tolerances.values()))
    compared = []
    for number, case in enumerate(read_cases(folder / "model" / GOLDEN, manifest)[task]):
        actual = {name: outputs[f"{number}.{name}"] for name in ports}
        compared.append(compare_task(ports, case.outputs, actual, tolerance, case.margins))
    return worst_outputs(compared)


def compare_drawn(folder: Path, whole: str, outputs: dict[str, np.ndarray]):
    """Compares with the picture that the model's own graph draws, loop and noise inside, in ONNX Runtime."""
    manifest = manifests.read(folder / "model")
    model = zoo.load(f"{manifest.name}:{manifest.version}")
    expected = model.run(whole, seed=[7], label=[3], steps=STEPS)
    tolerance = next(iter(manifest.tolerances.values()))
    return compare_task(model.manifest.tasks[whole].outputs, expected, outputs, tolerance)


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a runner failed, in a few words."""
    if done.returncode < 0:
        return f"crashes (signal {-done.returncode})"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    said = next(
        (line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception|NotImplemented)\w*:", line)), lines[-1]
    )
    return re.sub(r"[|`\n]", " ", said)[:90]


if __name__ == "__main__":
    main()
