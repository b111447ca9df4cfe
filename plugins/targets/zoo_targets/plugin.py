"""The targets: what each runtime supports, and which module runs it. Imports neither torch nor onnxruntime."""

from importlib import import_module
from typing import Any

from zoo.hookspecs import RunTargetRequest, Target, TargetRequest, WriteTargetRequest, hookimpl

ZOO_CONTRACT = 3

# npm's ONNX Runtime supports IR 13 and opset 26, but exports stay within IR 10 and opset 20, the defaults.
TARGETS = {
    "python": Target(
        name="python",
        summary="Python with only NumPy and ONNX Runtime",
        runtime="onnxruntime 1.23 or newer",
    ),
    "node": Target(
        name="node",
        summary="Node: an ES module and a command line, with types",
        runtime="onnxruntime-node 1.30.0",
        installed=("node_modules", "package-lock.json"),
    ),
    "web": Target(
        name="web",
        summary="A static page that computes in the browser",
        runtime="onnxruntime-web 1.30.0",
        half=True,  # on WebGPU
        initializers="outside",  # it cannot find external data of weights inside a loop's body
        parts=True,  # the page shows a sampler's steps
    ),
    "openvino": Target(
        name="openvino",
        summary="Python with NumPy and OpenVINO, on the CPU",
        runtime="openvino 2026.4.1",
        int64_bits=32,  # its CPU plugin computes int64 as int32, and float64 as float32, so graphs cannot draw noise
    ),
    "onnx": Target(
        name="onnx",
        summary="One ONNX file per task, weights inside, for any other stack",
        runtime="ONNX, opset 18 or 17",
        parts=True,  # for a loop outside, in NumPy or in the stack's own language
        single_files=True,
        installed=("__pycache__",),  # Python's, after a call of run.py, which has several modules
    ),
    "cpp": Target(
        name="cpp",
        summary="A C++ program in one file, with its CMake project",
        runtime="ONNX Runtime 1.17 or newer, C++ API",
        installed=("build",),
    ),
    "triton": Target(
        name="triton",
        summary="Model repositories for a Triton server, and a client",
        runtime="Triton 2.51 or newer, ONNX Runtime or Python backend",
    ),
    "cuda": Target(
        name="cuda",
        summary="Python with NumPy and ONNX Runtime on an NVIDIA GPU",
        runtime="onnxruntime-gpu 1.23 or newer; not run on a GPU yet",
        parts=True,  # not half: fp16 computes in float32 until half precision has been run on a GPU
    ),
}


@hookimpl
def describe_target(request: TargetRequest) -> Target:
    return TARGETS[request.target]


@hookimpl
def write_target(request: WriteTargetRequest) -> bool:
    _module(request.target).write(request)
    return True


@hookimpl
def run_target(request: RunTargetRequest) -> str:
    return _module(request.target).run(request)


def _module(target: str) -> Any:
    """`zoo_targets.python` and so on: each has `write(request)` and `run(request)`."""
    return import_module(f".{target}", __package__)
