"""CUDA: the host of the target `python` on ONNX Runtime's CUDA provider, on a GPU or not at all."""

import shutil
import sys

from zoo.errors import NotFoundError
from zoo.hookspecs import RunTargetRequest, WriteTargetRequest
from zoo.runtime import cuda_obstacle

from .common import HOSTS, copy_host, example, run_program, version_of, write_readme


def write(request: WriteTargetRequest) -> None:
    copy_host(request, ["run.py"])
    shutil.copyfile(HOSTS / "python" / "run.py", request.folder / "host.py")
    commands = [
        ("pip install numpy 'onnxruntime-gpu[cuda,cudnn]'", "never beside onnxruntime"),
        ("python run.py verify", "the golden cases"),
        (example(request, "python run.py"), "a call"),
    ]
    notes = """
From Python, beside `run.py`: `from run import run; outputs = run(TASK, port=value, ...)`, a dict of arrays with the
batch axis. On the command line a picture goes in as `.npy`, PGM or PPM. Without a GPU that works it is an error, never
a slow picture. A sampler's `begin`, `step` and `end` graphs are in `model/` too, for a host that keeps the loop (I/O
binding, CUDA Graph).
"""
    write_readme(request, "CUDA", commands, notes)


def run(request: RunTargetRequest) -> str:
    if obstacle := cuda_obstacle():
        raise NotFoundError(f"the golden cases of CUDA need a GPU that works: {obstacle}")
    run_program([sys.executable, "-s", "run.py", "verify", "--out", str(request.out)], request.folder, "no Python")
    return f"onnxruntime-gpu {version_of('onnxruntime-gpu')} on CUDA"
