"""This folder's graphs in ONNX Runtime, or in onnx's own evaluator. From Python: run("generate", label=7, seed=7).

python run.py TASK --PORT VALUE ... --out FILE, python run.py verify: everything but the stack is in host.py. The
environment variable ONNX_STACK selects the stack: onnxruntime, the default; reference, onnx's ReferenceEvaluator, which
computes every operator in NumPy as the standard defines it; either. To try another stack, add a function to STACKS.
"""

import copy
import os
import sys

import host
import loop
import numpy as np
import seeds


def onnxruntime(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays), {i.name: i.shape for i in session.get_inputs()}


def reference(path):
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(path)
    types = dict(zip(evaluator.input_names, evaluator.input_types, strict=True))
    shapes = {name: [d.dim_value or d.dim_param for d in t.tensor_type.shape.dim] for name, t in types.items()}
    return lambda arrays: evaluator.run(None, arrays), shapes


def either(path):
    """The reference, but ONNX Runtime for graphs with a loop: the reference computes few of them."""
    import onnx

    loops = any(node.op_type in ("If", "Loop", "Scan") for node in onnx.load(path).graph.node)
    return (onnxruntime if loops else reference)(path)


STACKS = {"onnxruntime": onnxruntime, "reference": reference, "either": either}
"""A stack takes a graph's path, and returns a function from arrays by name to a list, and the inputs' shapes."""

TASKS = copy.deepcopy(host.MODEL["tasks"])  # those with a graph, as the graphs take them
SAMPLERS = {name: task for name, task in loop.samplers(TASKS).items() if name not in TASKS}
host.MODEL["tasks"] |= SAMPLERS
with_noise = seeds.take_seeds(host.MODEL["tasks"])


def load(graph):
    if graph.stem in SAMPLERS:
        return lambda arrays: list(sample(graph.stem, arrays).values())
    compute, shapes = STACKS[os.environ.get("ONNX_STACK") or "onnxruntime"](str(host.HERE / graph.name))
    return lambda arrays: in_batches(compute, shapes, TASKS[graph.stem], with_noise(graph.stem, arrays))


def sample(task, arrays):
    return loop.sample(TASKS, host.call, task, with_noise(task, arrays))


def in_batches(compute, shapes, task, arrays):
    """Calls a graph; several times if its batch is fixed, with the last part filled up."""
    batched = [name for name, port in task["inputs"].items() if port["shape"][:1] == ["batch"] and name in shapes]
    size = next((shapes[name][0] for name in batched if isinstance(shapes[name][0], int)), 0)
    if not size:
        return compute(arrays)
    count = len(arrays[batched[0]])
    parts = []
    for start in range(0, count, size):
        places = np.arange(start, start + size) % count
        parts.append(compute({n: a[places] if n in batched else a for n, a in arrays.items()}))
    ends = [port["shape"][:1] == ["batch"] for port in task["outputs"].values()]
    return [
        np.concatenate(o)[:count] if whole else o[0] for whole, o in zip(ends, zip(*parts, strict=True), strict=True)
    ]


host.load = load
run, verify = host.run, host.verify

if __name__ == "__main__":
    try:
        host.main(*sys.argv[1:])
    except (ValueError, TypeError, OSError, RuntimeError) as e:
        sys.exit(f"Error: {str(e).splitlines()[0]}")
