"""Python with NumPy and ONNX Runtime: one file."""

import sys

from zoo.hookspecs import RunTargetRequest, WriteTargetRequest
from zoo.runtime import require_runtime

from .common import copy_host, example, run_program, version_of, write_readme


def write(request: WriteTargetRequest) -> None:
    copy_host(request, ["run.py"])
    commands = [
        ("pip install numpy onnxruntime", "or onnxruntime-gpu, never both"),
        ("python run.py verify", "runs the golden cases"),
        (example(request, "python run.py"), "calls the default task"),
    ]
    notes = """
From Python, next to `run.py`: `from run import run; outputs = run(TASK, port=value, ...)`, a dict of arrays with the
batch axis. A picture is uint8 [batch, height, width, channels]; on the command line PNG (8 bits per channel, not
interlaced, without transparency), PGM, PPM or `.npy`. `python run.py --help` lists the tasks and what they take.
"""
    write_readme(request, "Python", commands, notes)


def run(request: RunTargetRequest) -> str:
    require_runtime()
    found = version_of("onnxruntime") or version_of("onnxruntime-gpu") or "of an unknown version"
    # The program's own folder is on its path: `zoo verify` has checked the files there.
    run_program([sys.executable, "-s", "run.py", "verify", "--out", str(request.out)], request.folder, "no Python")
    return f"onnxruntime {found}"
