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

from .server import serving

pytestmark = pytest.mark.slow


def test_tritonclient_works_unchanged(tmp_path):
    python = triton.server_python() or (str(PYTHON) if PYTHON.exists() else "")
    need("" if python else "nvidia-pytriton")
    studio(tmp_path / "studio")
    golden = tensors.load(tmp_path / "studio" / "golden.safetensors")
    np.savez(tmp_path / "case.npz", **{k.replace("/0/", "/"): a for k, a in golden.items() if "/0/" in k})
    with serving(tmp_path, tmp_path / "studio", "--queue", 200) as server:
        client = Path(__file__).with_name("triton_client.py")
        url = server.url.removeprefix("http://")
        command = [python, "-s", client, url, tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("index") == [
        f"studio.{task}" for task in ("reconstruct", "encode", "decode", "generate", "classify")
    ]
    assert {name: status for name, (status, _) in found.items()} == {
        "unknown": "404", "missing": "400", "output": "400", "shared memory": "400", "cuda shared memory": "400",
        "trace": "400", "model trace": "400", "log": "400",
    }  # fmt: skip
    assert found["missing"][1].startswith("encode needs image")
    assert found["shared memory"][1].startswith("this server has no systemsharedmemory; its extensions are binary")
