"""`zoo train` in processes of its own: Ctrl-C, SIGTERM, SIGKILL, and several processes of torchrun."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.children import started
from zoo.build import checkpoint as checkpoints
from zoo.formats import manifest as manifests


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def training(*words: object, processes: int = 1) -> AbstractContextManager[subprocess.Popen]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "zoo", "train", *words]
    return started(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_line(log: Path, child: subprocess.Popen, number: int = 1) -> None:
    while not log.exists() or len(log.read_text().splitlines()) < number:
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.05)


ENDLESS = ["--preset", "tiny", "--out", "m", "--threads", 1, "--steps", 1_000_000, "--checkpoint-every", 1_000_000]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_a_checkpoint_and_resume_goes_on(drawn, here, number):
    folder = here / "m.training"
    steps = []
    for resume in ([], ["--resume"]):
        with training("vqvae", "--data", drawn, *ENDLESS, *resume) as child:
            wait_for_line(folder / "log.jsonl", child, number=1 + 3 * len(steps))
            child.send_signal(number)
            out, err = child.communicate()
        step = checkpoints.load(folder).step
        assert child.returncode == 130 and out == ""
        assert err.splitlines()[-1] == (
            f"Error: stopped after step {step} of 1000000; continue with the same command and --resume,"
            " or: zoo train --resume --out m"
        )
        assert {p.name for p in folder.glob("[!s]*")} == {"checkpoint.safetensors", "log.jsonl"}
        assert not (here / "m").exists()
        logged = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
        assert logged == sorted(set(logged)) and logged[-1] == step
        steps.append(step)
    assert steps[1] > steps[0]


@pytest.mark.slow
def test_a_killed_training_leaves_its_last_checkpoint(drawn, here):
    with training("vqvae", "--data", drawn, *ENDLESS[:-1], 3) as child:
        wait_for_line(here / "m.training/log.jsonl", child, number=20)
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    saved = checkpoints.load(here / "m.training")
    assert saved.step % 3 == 0 and saved.step >= 15


@pytest.mark.slow
def test_torchrun_ends_with_one_bundle(drawn, here):
    with training("vqvae", "--data", drawn, "--preset", "tiny", "--out", "m", "--threads", 1, processes=2) as child:
        out, err = child.communicate()
    assert child.returncode == 0, err
    assert out == "m\n" and err.count("trained 20 steps") == 1
    manifest = manifests.read(here / "m")
    assert manifests.check_files(here / "m", manifest) == [] and manifest.training.images_seen == 160
    assert manifest.training.command.startswith("zoo train vqvae --data ")
    assert {p.name for p in here.iterdir()} <= {"m", "m.training", "home"}


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_of_torchrun_with_one_checkpoint(drawn, here):
    words = ["vqvae", "--data", drawn, *ENDLESS]
    with training(*words, processes=2) as child:
        wait_for_line(here / "m.training/log.jsonl", child)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does it
        err = child.communicate()[1]
    saved = checkpoints.load(here / "m.training")
    assert f"stopped after step {saved.step} of 1000000" in err
    assert {p.name for p in (here / "m.training").glob("[!s]*")} == {"checkpoint.safetensors", "log.jsonl"}
    before = len((here / "m.training/log.jsonl").read_text().splitlines())
    with training(*words, "--resume", processes=2) as child:
        wait_for_line(here / "m.training/log.jsonl", child, number=before + 1)
        os.killpg(child.pid, signal.SIGINT)
        child.communicate()
    assert checkpoints.load(here / "m.training").step > saved.step
    shutil.rmtree(here / "m.training")
