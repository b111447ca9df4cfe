"""The target cuda where there is no GPU: it says so, in one line, and gives no slow picture instead."""

import subprocess
import sys

import pytest

from tests.cli.commands import zoo
from tests.tiny_tasks import studio
from zoo.runtime import nvidia_gpus

from .test_export import sampler

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nvidia_gpus() > 0, reason="there is a GPU: docs/gpu.md has commands"),
]


def test_a_sampler_s_parts_are_shipped_for_hosts_that_keep_the_loop(tmp_path):
    done = zoo("export", sampler(tmp_path / "sampler"), "--target", "cuda", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert {"generate.onnx", "generate_step.onnx"} <= {p.name for p in (tmp_path / "out" / "model").iterdir()}


def test_without_a_gpu_it_is_an_error_and_no_picture(tmp_path):
    done = zoo("export", studio(tmp_path / "studio"), "--target", "cuda", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    done = zoo("verify", tmp_path / "out", "--run-host")
    assert done.code == 3 and "need a working GPU" in done.err
    words = [sys.executable, "run.py", "generate", "--seed", "1", "--out", "a.png"]
    ran = subprocess.run(words, cwd=tmp_path / "out", capture_output=True, text=True)
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and last.startswith("Error: ") and "CUDA" in last
    assert not (tmp_path / "out" / "a.png").exists()
