"""The Triton repositories on a real server (nvidia-pytriton's), asked by a real tritonclient in its environment."""

import json
import os
import re
import subprocess

import numpy as np
import onnxruntime
import pytest
from zoo_targets import triton

from tests.cli.commands import zoo
from tests.tiny_tasks import studio
from zoo.formats import manifest as manifests
from zoo.hookspecs import Port, Task
from zoo.media import tensors

from .hosts import HOSTILE, NODE_MODULES, hostile, need

pytestmark = pytest.mark.slow
PYTHON = NODE_MODULES.parents[1] / "triton" / "bin" / "python"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("triton")
    done = zoo("export", studio(place / "studio"), "--target", "triton", "-o", place / "out")
    assert done.code == 0, done.err
    return place / "out"


@pytest.fixture(scope="module")
def python():
    found = triton.server_python() or (str(PYTHON) if PYTHON.exists() else "")
    need("" if found else "nvidia-pytriton")
    return found


@pytest.fixture(scope="module")
def server(folder, python):
    with triton.serving(folder / "python", python) as (http, grpc, _):
        yield {"http": http, "json": http, "grpc": grpc}


def call(folder, python, server, protocol, *words):
    environment = {"TRITON_PROTOCOL": protocol, "TRITON_URL": f"127.0.0.1:{server[protocol]}"}
    command = [python, "-s", "run.py", *map(str, words)]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | environment, timeout=300
    )


def test_a_real_server_gives_the_golden_outputs(folder, python, monkeypatch):
    monkeypatch.setenv("ZOO_TRITON_PYTHON", python)
    done = zoo("verify", folder, "--run-host", "--json")
    assert done.code == 0, done.err
    (report,) = json.loads(done.out)
    assert [row["task"] for row in report["host"]] == ["reconstruct", "encode", "decode", "generate", "classify"]
    assert "Triton of nvidia-pytriton" in report["ran_by"]


@pytest.mark.parametrize("protocol", ["http", "json", "grpc"])
def test_http_json_and_grpc_give_the_golden_outputs(folder, python, server, protocol):
    done = call(folder, python, server, protocol, "verify")
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if "equal" in line]) == 7


BAD = {
    "a label too high": ({"label": [3], "seed": [1]}, r"label is 3 \.\. 3; it must be -1 \.\. 2"),
    "a seed below zero": ({"label": [0], "seed": [-1]}, "seed is -1"),
    "two batches": ({"label": [0, 1], "seed": [1]}, "shape|dimension"),
}


@pytest.mark.parametrize("ports, says", BAD.values(), ids=BAD)
def test_the_server_refuses_bad_input(folder, python, server, ports, says):
    """Past the client's own checks: another client has none."""
    code = f"""
import sys, numpy as np, tritonclient.http as client
server = client.InferenceServerClient("127.0.0.1:{server["http"]}")
ports = dict({ports}, steps=[20])
inputs = [client.InferInput(n, [len(v)], "INT64") for n, v in ports.items()]
for i, v in zip(inputs, ports.values()): i.set_data_from_numpy(np.array(v, np.int64))
inputs.append(client.InferInput("guidance", [len(ports["label"])], "FP32"))
inputs[-1].set_data_from_numpy(np.zeros(len(ports["label"]), np.float32))
try: server.infer("studio_generate", inputs)
except client.InferenceServerException as e: sys.exit(str(e))
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and re.search(says, done.stderr), done.stderr
    # And it goes on.
    done = call(folder, python, server, "http", "generate", "--seed", "1")
    assert done.returncode == 0, done.stderr


def test_the_onnxruntime_repository_is_one_for_triton(folder, python):
    """This server has no ONNX Runtime backend: it reads every config, and that is all that it finds wanting."""
    with triton.serving(folder / "onnxruntime", python) as (_, _, log):
        failures = re.findall(r"failed to load '(\w+)' version 1: ([^\"]*)", log())
    assert {model for model, _ in failures} == {p.name for p in (folder / "onnxruntime").iterdir()}
    assert all("unable to find backend library for backend 'onnxruntime'" in reason for _, reason in failures)


def test_its_graphs_give_the_golden_outputs(folder):
    """Numbers are lists of one there, since Triton has no scalars."""
    golden = tensors.load(folder / "model" / "golden.safetensors")
    for name, task in manifests.read(folder / "model").tasks.items():
        session = onnxruntime.InferenceSession(folder / "onnxruntime" / f"studio_{name}" / "1" / "model.onnx")
        inputs = {port: np.atleast_1d(golden[f"{name}/0/inputs/{port}"]) for port in task.inputs}
        for port, array in zip(task.outputs, session.run(None, inputs), strict=True):
            np.testing.assert_allclose(array, golden[f"{name}/0/outputs/{port}"], rtol=1e-6)


def test_configs_are_made_from_the_ports(folder):
    assert (folder / "python" / "studio_classify" / "config.pbtxt").read_text() == (
        'name: "studio_classify"\n'
        'backend: "python"\n'
        "max_batch_size: 16\n"
        "version_policy: { latest { num_versions: 1 } }\n"
        'input [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 1 ] } ]\n'
        'output [ { name: "label" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } } ]\n'
        'output [ { name: "probabilities" data_type: TYPE_FP32 dims: [ 3 ] } ]\n'
        "dynamic_batching { }\n"
        'parameters: { key: "task" value: { string_value: "classify" } }\n'
    )
    # `size` and `steps` have no batch axis: those tasks can't be batched.
    for task in ("encode", "decode", "generate"):
        assert "max_batch_size: 0\n" in (folder / "onnxruntime" / f"studio_{task}" / "config.pbtxt").read_text()


def test_a_task_is_batched_only_where_every_port_is():
    label = Port(kind="label", dtype="int64", shape=("batch",))
    count = Port(kind="count", dtype="int64", shape=())
    assert triton.is_batched(Task(summary="x", inputs={"a": label}, outputs={"b": label}))
    assert not triton.is_batched(Task(summary="x", inputs={"a": label, "c": count}, outputs={"b": label}))


def test_hostile_names_are_in_no_config(tmp_path):
    done = zoo("export", hostile(tmp_path / "hostile"), "--target", "triton", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    for path in [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".pbtxt", ".py") or p.name == "README.md"]:
        foreign = path.parent.name == "model"
        assert foreign or not any(name[:12] in path.read_text() for name in HOSTILE), path
