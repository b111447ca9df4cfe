"""Triton: two model repositories, for its ONNX Runtime backend and its Python backend, and a client."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo.errors import ExportError, NotFoundError
from zoo.hookspecs import Port, RunTargetRequest, Task, WriteTargetRequest

from .common import HOSTS, copy_host, example, run_program, started, write_readme

MAX_BATCH = 16
TYPES = {"uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}
READY_SECONDS = 120


def write(request: WriteTargetRequest) -> None:
    copy_host(request, ["run.py"])
    shutil.copyfile(HOSTS / "python" / "run.py", request.folder / "host.py")
    for name, task in request.manifest.tasks.items():
        for backend in ("onnxruntime", "python"):
            model = request.folder / backend / f"{request.manifest.name}_{name}"
            (model / "1").mkdir(parents=True)
            (model / "config.pbtxt").write_text(config(request.manifest.name, name, task, backend))
        _copy_graph(request.folder, f"{request.manifest.name}_{name}", name)
        shutil.copyfile(HOSTS / "triton" / "model.py", model / "1" / "model.py")
    commands = [
        ("ORT_DISABLE_TELEMETRY=1 tritonserver --model-repository onnxruntime", "or: --model-repository python"),
        ("pip install numpy tritonclient[all] && python run.py verify", "runs the golden cases, from a client"),
        (example(request, "python run.py"), "calls the default task"),
    ]
    notes = """
`onnxruntime/` is a model repository for Triton's ONNX Runtime backend: it returns what the graph gives, and only checks
types and shapes. `python/` is one for the Python backend, which needs NumPy and ONNX Runtime; it checks inputs like
every host, so a label or seed out of range is an error instead of a picture. Serve one of the two, and remove the
other.

A task whose ports all have the batch axis is batched dynamically (`max_batch_size`); the others have 0 there. In
Triton, a tensor has at least one axis: a number is [1], and one number per picture is [batch, 1] if a task is batched.
`onnxruntime/` contains the weights once per task, because a model in Triton can only read its own folder.
"""
    write_readme(request, "Triton", commands, notes)


def _copy_graph(folder: Path, model_name: str, task: str) -> None:
    """Writes model.onnx, and next to it its weights: Triton does not read files outside a version's folder."""
    import onnx

    from zoo.graph.walk import weight_files

    version = folder / "onnxruntime" / model_name / "1"
    model = onnx.load(folder / "model" / f"{task}.onnx", load_external_data=False)
    for name in sorted(weight_files(model.graph)):
        # A copy: ONNX Runtime refuses a loop's weights in a file with several hard links.
        shutil.copyfile(folder / "model" / name, version / name)
    _numbers_to_lists(model.graph)
    (version / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


def _numbers_to_lists(graph: Any) -> None:
    """Gives inputs without an axis an axis of length 1: Triton has no scalars."""
    from onnx import helper

    for value in graph.input:
        shape = value.type.tensor_type.shape
        if len(shape.dim) == 0:
            shape.dim.add(dim_value=1)
            _rename(graph, value.name, f"{value.name}_number")
            graph.node.insert(0, helper.make_node("Squeeze", [value.name], [f"{value.name}_number"]))


def _rename(graph: Any, before: str, after: str) -> None:
    """Renames a value wherever nodes read it, including the bodies of loops."""
    from zoo.graph.walk import graphs_of

    for inner in graphs_of(graph):
        for node in inner.node:
            node.input[:] = [after if name == before else name for name in node.input]
        for output in inner.output:
            output.name = after if output.name == before else output.name


def config(name: str, task_name: str, task: Task, backend: str) -> str:
    """config.pbtxt, from the ports. Only names are pasted, and they match [a-z0-9._-]*."""
    batched = is_batched(task)
    lines = [
        f'name: "{name}_{task_name}"',
        f'backend: "{backend}"',
        f"max_batch_size: {MAX_BATCH if batched else 0}",
        "version_policy: { latest { num_versions: 1 } }",
    ]
    for side, ports in (("input", task.inputs), ("output", task.outputs)):
        for port_name, port in ports.items():
            dims, reshape = _dims(port, batched)
            lines.append(
                f'{side} [ {{ name: "{port_name}" data_type: {TYPES[port.dtype]} dims: [ {dims} ]{reshape} }} ]'
            )
    if batched:
        lines.append("dynamic_batching { }")
    if backend == "python":
        lines.append(f'parameters: {{ key: "task" value: {{ string_value: "{task_name}" }} }}')
    return "\n".join(lines) + "\n"


def is_batched(task: Task) -> bool:
    """Whether every port has the batch axis, so that Triton may merge requests."""
    return all(port.shape[:1] == ("batch",) for port in (*task.inputs.values(), *task.outputs.values()))


def _dims(port: Port, batched: bool) -> tuple[str, str]:
    """Triton's dims of a port, without the batch axis of a batched task, and its reshape if no axis is left."""
    shape = port.shape[1:] if batched else port.shape
    if not shape:
        return "1", " reshape: { shape: [ ] }" if batched else ""
    return ", ".join(str(length) if isinstance(length, int) else "-1" for length in shape), ""


# --- A real server ----------------------------------------------------------------------------------------------------


def server_python() -> str:
    """The interpreter in ZOO_TRITON_PYTHON, of an environment with nvidia-pytriton and onnxruntime."""
    return os.environ.get("ZOO_TRITON_PYTHON", "")


@contextmanager
def serving(repository: Path, python: str):
    """Starts the tritonserver of an environment's nvidia-pytriton, on free ports of 127.0.0.1.

    Yields (http port, grpc port, what it printed so far). Its wheel only has the Python backend.
    """
    code = "import pytriton; print(pytriton.__path__[0])"
    package = Path(run_program([python, "-c", code], repository, f"{python} does not exist").strip()) / "tritonserver"
    version = run_program([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], repository, "").strip()
    with TemporaryDirectory(prefix="zoo-triton-") as place:
        backends = Path(place) / "backends"
        shutil.copytree(package / "backends", backends)
        stub = backends / "python" / "triton_python_backend_stub"
        shutil.copyfile(package / "python_backend_stubs" / version / stub.name, stub)
        stub.chmod(0o755)
        http, grpc = _free_port(), _free_port()
        command = [str(package / "bin" / "tritonserver"), f"--model-repository={repository}"]
        command += [f"--backend-directory={backends}", "--exit-on-error=false", "--allow-metrics=false"]
        command += [
            "--http-address=127.0.0.1",
            f"--http-port={http}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={grpc}",
        ]
        # The backend's Python finds its packages through the first python3 in PATH.
        path = f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = os.environ | {"PATH": path, "LD_LIBRARY_PATH": str(package.parents[1] / "nvidia_pytriton.libs")}
        log = Path(place) / "log"
        with log.open("wb") as out, started(command, stdout=out, stderr=out, env=environment) as process:
            _wait(process, http, log)
            yield http, grpc, log.read_text


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/live", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise ExportError(f"tritonserver did not start: {log.read_text(errors='replace').strip()[-300:]}")


def run(request: RunTargetRequest) -> str:
    python = server_python()
    if not python:
        raise NotFoundError(
            "no Triton server is set: point ZOO_TRITON_PYTHON to the python of an environment with nvidia-pytriton,"
            " tritonclient[all], numpy<2 and onnxruntime"
        )
    with serving(request.folder / "python", python) as (http, _, _):
        environment = {"TRITON_URL": f"127.0.0.1:{http}", "TRITON_PROTOCOL": "http", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [python, "-s", "run.py", "verify", "--out", str(request.out)]
        run_program(command, request.folder, f"{python} does not exist", **environment)
    code = "from importlib.metadata import version; print(version('nvidia-pytriton'))"
    return f"Triton of nvidia-pytriton {run_program([python, '-c', code], request.folder, '').strip()}, Python backend"
