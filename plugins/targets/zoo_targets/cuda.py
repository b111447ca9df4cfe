"""CUDA: the host of the target `python` on ONNX Runtime's CUDA provider, without a fallback to the CPU."""

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
        ("pip install numpy 'onnxruntime-gpu[cuda,cudnn]'", "never together with onnxruntime"),
        ("python run.py verify", "runs the golden cases"),
        (example(request, "python run.py"), "calls the default task"),
    ]
    notes = """
From Python, next to `run.py`: `from run import run; outputs = run(TASK, port=value, ...)`, a dict of arrays with the
batch axis. On the command line, pictures are given as `.npy`, PGM or PPM. Without a working GPU there is an error, not
a slow picture. A sampler's `begin`, `step` and `end` graphs are in `model/` too, for a host that runs the loop itself
(I/O binding, CUDA Graph).
"""
    write_readme(request, "CUDA", commands, notes)


def run(request: RunTargetRequest) -> str:
    if obstacle := cuda_obstacle():
        raise NotFoundError(f"the golden cases of CUDA need a working GPU: {obstacle}")
    run_program([sys.executable, "-s", "run.py", "verify", "--out", str(request.out)], request.folder, "no Python")
    return f"onnxruntime-gpu {version_of('onnxruntime-gpu')} on CUDA"
