"""Runs one task of an export in another stack: the export's own host, with the stack put in place of ONNX Runtime.

bench/stacks.py starts it with the interpreter of the stack's environment:

    python stack_runner.py STACK FOLDER TASK OUT.npz [INPUTS AS JSON]

With inputs, it is one call of the host; without, the task's golden cases.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def graph_of(path):
    """The graph, its inputs' names in order, and the inputs' shapes."""
    import onnx

    model = onnx.load(path)
    shapes = {i.name: [d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return model, list(shapes), shapes


def stated(model, arrays):
    """The outputs in the integer types that the graph states: some stacks only have narrower or signed ones."""
    import onnx

    types = [onnx.helper.tensor_dtype_to_np_dtype(out.type.tensor_type.elem_type) for out in model.graph.output]
    return [
        np.asarray(array).astype(type_) if type_.kind in "iu" and np.asarray(array).dtype.kind in "iu" else array
        for array, type_ in zip(arrays, types, strict=True)
    ]


def reference(path):
    import run

    return run.reference(path)


def tract(path):
    import tract

    _, names, shapes = graph_of(path)
    model = tract.onnx().load(path) if hasattr(tract.onnx(), "load") else tract.onnx().model_for_path(path)
    compiled = (
        model.into_model().into_runnable() if hasattr(model, "into_model") else model.into_optimized().into_runnable()
    )
    return lambda arrays: [out.to_numpy() for out in compiled.run([arrays[name] for name in names])], shapes


def opencv(path):
    import cv2

    model, names, shapes = graph_of(path)
    net = cv2.dnn.readNetFromONNX(path)
    outputs = [output.name for output in model.graph.output]

    def compute(arrays):
        for name in names:
            net.setInput(np.ascontiguousarray(arrays[name]), name)
        return list(net.forward(outputs))

    return compute, shapes


def mnn(path):
    import MNN

    model, names, shapes = graph_of(path)
    converted = Path(tempfile.mkdtemp()) / "graph.mnn"
    command = ["-f", "ONNX", "--modelFile", path, "--MNNModel", str(converted), "--bizCode", "zoo"]
    tool = Path(sys.executable).parent / "mnnconvert"
    done = subprocess.run([tool, *command], capture_output=True, text=True)
    if not converted.exists():
        raise RuntimeError(f"ConvertError: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    outputs = [output.name for output in model.graph.output]
    module = MNN.nn.load_module_from_file(str(converted), names, outputs)

    def compute(arrays):
        given = []
        for array in map(arrays.get, names):
            array = array.astype(np.int32) if array.dtype == np.int64 else array
            type_ = getattr(MNN.expr, MNN_TYPES[str(array.dtype)])
            given.append(MNN.expr.const(array, list(array.shape), data_format=MNN.expr.NCHW, dtype=type_))
        found = module.forward(given)
        found = found if isinstance(found, (list, tuple)) else [found]
        return stated(model, [np.array(MNN.expr.convert(one, MNN.expr.NCHW).read()) for one in found])

    return compute, shapes


MNN_TYPES = {"float32": "float", "uint8": "uint8", "int32": "int"}
"""MNN's names; it computes 64-bit integers in 32."""


def tvm(path):
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    model, names, shapes = graph_of(path)
    module = from_onnx(model, keep_params_in_input=False)
    executable = tvm.compile(module, target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())

    def compute(arrays):
        found = machine["main"](*(tvm.runtime.tensor(arrays[name]) for name in names))
        return [
            one.numpy() for one in (found if hasattr(found, "__len__") and not hasattr(found, "numpy") else [found])
        ]

    return compute, shapes


def iree(path):
    from iree import runtime

    model, names, shapes = graph_of(path)
    place, tools = Path(tempfile.mkdtemp()), Path(sys.executable).parent
    code, binary = place / "graph.mlir", place / "graph.vmfb"
    compiled = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
    compiled += ["--iree-llvmcpu-target-cpu=host"]
    for command in (
        [tools / "iree-import-onnx", path, "-o", code],
        [tools / "iree-compile", code, "-o", binary, *compiled],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            raise RuntimeError(f"CompileError: {(errors or [done.stderr.strip() or 'failed'])[0].split('error:')[-1]}")
    module = runtime.load_vm_flatbuffer_file(str(binary), driver="local-task")
    names_there = [name for name in module.vm_module.function_names if not name.startswith("__") and "$" not in name]
    entry = module[names_there[0]]

    def compute(arrays):
        found = entry(*(arrays[name] for name in names))
        return stated(model, [one.to_host() for one in (found if isinstance(found, (list, tuple)) else [found])])

    return compute, shapes


def tinygrad(path):
    os.environ |= {"DEV": "CPU", "CC": clang(), "CACHELEVEL": "0"}
    from tinygrad import Tensor
    from tinygrad.nn.onnx import OnnxRunner

    _, _, shapes = graph_of(path)
    runner = OnnxRunner(path)
    return lambda arrays: [
        one.numpy() for one in runner({name: Tensor(array) for name, array in arrays.items()}).values()
    ], shapes


def clang():
    """tinygrad calls clang for every kernel; without one, that of the package ziglang is called in its place."""
    if shutil.which("clang"):
        return "clang"
    script = Path(tempfile.mkdtemp()) / "clang"
    script.write_text(
        f"#!{sys.executable}\nimport platform, subprocess, sys\n"
        "target = f'--target={platform.machine()}-freestanding-none'  # zig's name for it\n"
        "given = [target if word.startswith('--target=') else word for word in sys.argv[1:]]\n"
        "zig = [sys.executable, '-m', 'ziglang', 'cc', *given, '-g0', '-fno-sanitize=all', '-fPIC']\n"
        "sys.exit(subprocess.run(zig).returncode)\n"
    )
    script.chmod(0o755)
    return str(script)


def onnx2torch(path):
    import torch
    from onnx2torch import convert

    _, names, shapes = graph_of(path)
    module = convert(path).eval()

    def compute(arrays):
        with torch.no_grad():
            found = module(*(torch.from_numpy(np.array(arrays[name])) for name in names))
        return [one.numpy() for one in (found if isinstance(found, (list, tuple)) else [found])]

    return compute, shapes


FUNCTIONS = {
    "ReferenceEvaluator": reference, "tract": tract, "OpenCV": opencv, "MNN": mnn, "TVM": tvm, "IREE": iree,
    "tinygrad": tinygrad, "onnx2torch": onnx2torch,
}  # fmt: skip


def main(stack, folder, task, out, given=""):
    sys.path.insert(0, folder)
    import run

    run.STACKS[stack], os.environ["ONNX_STACK"] = FUNCTIONS[stack], stack
    if given:
        ports = run.host.MODEL["tasks"][task]["inputs"]
        outputs = run.run(task, **{name: value for name, value in json.loads(given).items() if name in ports})
        return np.savez(out, **outputs)
    results = {}
    for case in (case for case in run.host.cases() if case["task"] == task):
        inputs = {name: run.host.read_raw(array) for name, array in case["inputs"].items()}
        results |= {f"{case['case']}.{name}": array for name, array in run.host.call(task, inputs).items()}
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
