"""OpenVINO: the host of the target `python` on another runtime."""

import importlib.util
import os
import shutil
import sys

from zoo.errors import NotFoundError
from zoo.hookspecs import RunTargetRequest, WriteTargetRequest

from .common import HOSTS, copy_host, example, run_program, write_readme


def write(request: WriteTargetRequest) -> None:
    copy_host(request, ["run.py"])
    shutil.copyfile(HOSTS / "python" / "run.py", request.folder / "host.py")
    commands = [
        ("pip install numpy openvino", "the runtime"),
        ("python run.py verify", "the golden cases"),
        (example(request, "python run.py"), "a call"),
    ]
    notes = """
From Python, beside `run.py`: `from run import run; outputs = run(TASK, port=value, ...)`, a dict of arrays with the
batch axis. On the command line a picture goes in as `.npy`, PGM or PPM.

OpenVINO's CPU plugin computes 64-bit integers in 32 bits and float64 as float32. A seed's noise would come out as
another one, so tasks that draw from a seed are not in this folder; of a sampler, the `step` and `end` graphs are, for a
host that draws the noise itself. OpenVINO keeps a telemetry id in `~/intel`; `opt_in_out --opt_out` switches that off.
"""
    write_readme(request, "OpenVINO", commands, notes)


def run(request: RunTargetRequest) -> str:
    """With this interpreter's OpenVINO, or that of the interpreter that ZOO_OPENVINO_PYTHON names."""
    python = os.environ.get("ZOO_OPENVINO_PYTHON") or sys.executable
    if python == sys.executable and not importlib.util.find_spec("openvino"):
        raise NotFoundError("openvino is not installed: pip install openvino")
    run_program([python, "-s", "run.py", "verify", "--out", str(request.out)], request.folder, f"{python} is not there")
    code = "import openvino; print(openvino.__version__)"
    return f"OpenVINO {run_program([python, '-c', code], request.folder, '').strip()}"
