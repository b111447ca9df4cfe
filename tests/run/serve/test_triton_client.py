"""Stock clients of the protocol, in an environment of their own (`make triton`)."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from zoo_targets import triton

from tests.plugins.targets.hosts import need
from tests.plugins.targets.test_triton import PYTHON
from tests.tiny_tasks import studio
from zoo.media import tensors
from zoo.run.serve.messages import messages

from .server import serving

pytestmark = pytest.mark.slow


def test_tritonclient_works_unchanged(tmp_path):
    python = triton.server_python() or (str(PYTHON) if PYTHON.exists() else "")
    need("" if python else "nvidia-pytriton")
    studio(tmp_path / "studio")
    golden = tensors.load(tmp_path / "studio" / "golden.safetensors")
    np.savez(tmp_path / "case.npz", **{k.replace("/0/", "/"): a for k, a in golden.items() if "/0/" in k})
    table = {
        name: [[field.number, field.name, field.type, field.is_repeated] for field in kind.DESCRIPTOR.fields]
        for name, kind in messages().items()
    }
    (tmp_path / "messages.json").write_text(json.dumps(table))
    with serving(tmp_path, tmp_path / "studio", "--queue", 200, "--grpc-port", 0) as server:
        client = Path(__file__).with_name("triton_client.py")
        url = server.url.removeprefix("http://")
        command = [python, "-s", client, url, server.grpc, tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["messages"] == len(table) > 30
    tasks = [f"studio.{task}" for task in ("reconstruct", "encode", "decode", "generate", "classify")]
    http, grpc = found["http"], found["grpc"]
    assert http.pop("index") == grpc.pop("index") == tasks
    assert {name: status for name, (status, _) in http.items()} == {
        "unknown": "404", "missing": "400", "output": "400", "shared memory": "400", "cuda shared memory": "400",
        "trace": "400", "model trace": "400", "log": "400",
    }  # fmt: skip
    assert {name: status.removeprefix("StatusCode.") for name, (status, _) in grpc.items()} == {
        "unloaded": "UNAVAILABLE", "unknown": "NOT_FOUND", "missing": "INVALID_ARGUMENT",
        "shared memory": "UNIMPLEMENTED", "trace": "UNIMPLEMENTED", "log": "UNIMPLEMENTED",
    }  # fmt: skip
    assert http["missing"][1].startswith("encode needs image") and grpc["missing"][1] == http["missing"][1]
    assert http["shared memory"][1].startswith("this server has no systemsharedmemory; its extensions are binary")
    assert grpc["shared memory"][1].startswith("this server has no SystemSharedMemoryStatus; it has ServerLive")
