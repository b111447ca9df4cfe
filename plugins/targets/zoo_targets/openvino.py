"""OpenVINO: the host of the target `python` on another runtime."""

import importlib.util
import os
import sys

from zoo.errors import NotFoundError
from zoo.hookspecs import RunTargetRequest, WriteTargetRequest

from .common import copy_host, copy_python_host, example, run_program, write_readme


def write(request: WriteTargetRequest) -> None:
    copy_host(request, ["run.py"])
    copy_python_host(request)
    commands = [
        ("pip install numpy openvino", "installs the runtime"),
        ("python run.py verify", "runs the golden cases"),
        (example(request, "python run.py", draws=True), "calls the default task"),
    ]
    notes = """
From Python, next to `run.py`: `from run import run; outputs = run(TASK, port=value, ...)`, a dict of arrays with the
batch axis. On the command line, pictures are given as `.npy`, PGM or PPM.

OpenVINO's CPU plugin computes 64-bit integers in 32 bits and float64 as float32, so a graph would give different noise
for a seed. Here the graphs take the noise, and `run.py` draws it from `seed` (`seeds.py`, NumPy): the same seed gives
the same picture as elsewhere. Tasks that draw noise inside a loop are not in this folder. `run.py` turns off
OpenVINO's telemetry, which writes into `~/intel` and sends an event whenever OpenVINO is imported.
"""
    write_readme(request, "OpenVINO", commands, notes)


def run(request: RunTargetRequest) -> str:
    """Runs the host with this interpreter's OpenVINO, or with the interpreter in ZOO_OPENVINO_PYTHON."""
    python = os.environ.get("ZOO_OPENVINO_PYTHON") or sys.executable
    if python == sys.executable and not importlib.util.find_spec("openvino"):
        raise NotFoundError("openvino is not installed: pip install openvino")
    run_program(
        [python, "-s", "run.py", "verify", "--out", str(request.out)], request.folder, f"{python} does not exist"
    )
    code = "import sys; sys.modules['openvino_telemetry'] = None; import openvino; print(openvino.__version__)"
    return f"OpenVINO {run_program([python, '-c', code], request.folder, '').strip()}"
