"""Graphs on their own: one ONNX file per task, and a host that shows how to call them, with the loop in NumPy."""

import sys

from zoo.errors import NotFoundError
from zoo.hookspecs import RunTargetRequest, WriteTargetRequest

from .common import copy_host, copy_python_host, example, run_program, version_of, write_readme


def write(request: WriteTargetRequest) -> None:
    copy_host(request, ["run.py", "loop.py"])
    copy_python_host(request)
    commands = [
        ("pip install numpy onnx onnxruntime", "for run.py; the graphs need neither"),
        ("python run.py verify", "runs the golden cases; ONNX_STACK=reference runs them in onnx's own evaluator"),
        (_example(request), "a call"),
    ]
    write_readme(request, "any ONNX stack", commands, _NOTES + _graphs(request) + (_LOOP if _sampler(request) else ""))


_NOTES = """
Every task is one file, `<task>.onnx`, with its weights inside, in the plainest operators that ONNX has for it. `run.py`
is an example of a host: it draws a seed's noise if the graph takes noise (`seeds.py`, `noise.py`), calls a graph with a
fixed batch several times, and runs a sampler's loop (`loop.py`). `model/` is the same model as a bundle of zoo.

## The graphs
"""

_LOOP = """
## The loop

A sampler's graphs are `begin`, `step` and `end`. With numbers named as the ports are:

```text
x, previous_x0, plan = begin(seed or noise, steps)
for index, row in the rows of plan, up to the first that is all zeros:
    x, previous_x0 = step(x, previous_x0, row, and of seed, index, label, guidance, ... what the graph takes)
image = end(x)
```

`plan` has a row of numbers for each step, which a host passes on unchanged. The noise of a seed is Threefry-2x32 and
Box-Muller in float64, rounded once: `noise.py` is 40 lines, and the words of the generator are exact in every language.
"""


def _graphs(request: WriteTargetRequest) -> str:
    """A table of the files' inputs and outputs, as the files state them."""
    import onnx

    lines = ["| file | opset | inputs | outputs |", "|---|---|---|---|"]
    for task in request.manifest.tasks:
        model = onnx.load(request.folder / f"{task}.onnx")
        opset = max(entry.version for entry in model.opset_import)
        sides = [", ".join(map(_port, values)) for values in (model.graph.input, model.graph.output)]
        lines.append(f"| `{task}.onnx` | {opset} | {sides[0]} | {sides[1]} |")
    return "\n".join([*lines, ""])


def _port(value) -> str:
    from onnx import helper

    tensor = value.type.tensor_type
    dims = ", ".join(str(d.dim_value or d.dim_param) for d in tensor.shape.dim)
    return f"`{value.name}` {helper.tensor_dtype_to_np_dtype(tensor.elem_type)} [{dims}]"


def _sampler(request: WriteTargetRequest) -> str:
    """The task whose parts are there; empty if there is none."""
    return next((name.removesuffix("_begin") for name in request.manifest.tasks if name.endswith("_begin")), "")


def _example(request: WriteTargetRequest) -> str:
    """A call of the sampler if it has no graph of its own, else of the default task."""
    whole, tasks = _sampler(request), request.manifest.tasks
    if whole and whole not in tasks and f"{whole}_end" in tasks:
        return f"python run.py {whole} --seed 7 --out image.png"
    return example(request, "python run.py", draws=True)


def run(request: RunTargetRequest) -> str:
    """Runs the golden cases in ONNX Runtime, and those of graphs without a loop in onnx's evaluator too."""
    found = version_of("onnxruntime") or version_of("onnxruntime-gpu")
    if not found:
        raise NotFoundError("onnxruntime is not installed: pip install onnxruntime")
    command = [sys.executable, "-s", "run.py", "verify"]
    run_program(command, request.folder, "no Python")
    run_program([*command, "--out", str(request.out)], request.folder, "no Python", ONNX_STACK="either")
    return f"onnxruntime {found} and onnx {version_of('onnx')}'s ReferenceEvaluator"
