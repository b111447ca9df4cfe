"""Nothing phones home: no command and no exported host looks up a name, connects, or writes into the home folder.

Each runs in its own process with an empty, read-only home, as an ordinary user, under a library that records look-ups
and connections (tests/watched_calls.c).
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.plugins.targets.hosts import HOSTS, need
from tests.plugins.vqvae.test_importing import fresh
from tests.tiny_tasks import studio

from .commands import zoo
from .tree import leaves

pytestmark = pytest.mark.slow

CALLS = {
    "list": ["list", "--registry", "{registry}"],
    "info": ["info", "vqvae-fashion"],
    "diff": ["diff", "vqvae-fashion", "vqvae-fashion"],
    "run": ["run", "ddpm-fashion", "--steps", "2", "--seed", "1", "--out", "{work}/x.png"],
    "batch": ["batch", "{studio}", "reconstruct", "{work}/made.png", "--out", "{work}/batch"],
    "live": ["live", "ddpm-fashion-fast", "--out", "{work}/l.png"],
    "compare": ["compare", "ddpm-fashion", "ddpm-mnist", "-n", "1", "--set", "steps=2", "--out", "{work}/c.png"],
    "animate": ["animate", "ddpm-fashion", "--set", "steps=2", "--seed", "1", "--out", "{work}/a.gif"],
    "again": ["again", "{work}/made.png", "--out", "{work}/again.png"],
    "pull": ["pull", "tiny", "--registry", "{registry}"],
    "bundle": ["bundle", "pulled", "--out", "{work}/new.tar"],
    "add": ["add", "{work}/models.tar"],
    "lock": ["lock", "vqvae-fashion", "tiny", "--registry", "{registry}", "--file", "{work}/zoo.lock"],
    "verify": ["verify", "{studio}", "--replay"],
    "rm": ["rm", "pulled"],
    "prune": ["prune"],
    "registry add": ["registry", "add", "mine", "{registry}"],
    "registry list": ["registry", "list"],
    "registry remove": ["registry", "remove", "added"],
    "registry keygen": ["registry", "keygen", "--out", "{work}/new.key"],
    "registry sign": ["registry", "sign", "{registry}", "--key", "{key}", "--name", "lab"],
    "families": ["families"],
    "plugin list": ["plugin", "list"],
    "plugin check": ["plugin", "check", "judge"],
    "plugin api": ["plugin", "api"],
    "plugin new": ["plugin", "new", "sharpener", "--out", "{work}/new"],
    "train": ["train", "judge", "--data", "{data}", "--preset", "tiny", "--set", "num_classes=2", "--out", "{work}/t"],
    "build": ["build", "{judge}.training", "--out", "{work}/built"],
    "import": ["import", "vqvae", "{checkpoint}", "--tasks", "encode", "--out", "{work}/imported"],
    "eval": ["eval", "{codec}", "--data", "{data}", "--judge", "{judge}"],
    "export": ["export", "{studio}", "--target", "python", "-o", "{work}/exported"],
    "play": ["play", "{studio}", "--no-browser"],
    "serve": ["serve", "{studio}", "--port", "0"],
    "publish": ["publish", "{studio}", "--to", "{work}/published"],
    "doctor": ["doctor"],
    "completion": ["completion", "bash"],
}  # fmt: skip
"""A call of every command that succeeds. A command that is new needs one here."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "watched_calls.so"
    source = Path(__file__).parents[1] / "watched_calls.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def watched(shim, tmp_path):
    """A function that runs a command and returns its process, and what it did that it must not do."""

    def watch(command, *, cwd=None, until="", **environment) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        home, log = tmp_path / "home", tmp_path / "log"
        home.mkdir(exist_ok=True)
        home.chmod(0o555)
        settings = os.environ | {"HOME": str(home), "LD_PRELOAD": str(shim), "WATCHED_CALLS": str(log)}
        for name in ("ORT_DISABLE_TELEMETRY", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
            settings.pop(name, None)
        child = subprocess.Popen(
            list(map(str, command)), cwd=cwd, env=settings | environment, text=True, stdout=-1, stderr=-1
        )
        if until:
            line = child.stdout.readline()
            assert line.startswith(until), child.communicate()
            time.sleep(1)
            child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=300)
        did = log.read_text().splitlines() if log.exists() else []
        did += [f"wrote {path.relative_to(home)}" for path in sorted(home.rglob("*"))]
        return subprocess.CompletedProcess(command, child.returncode, out, err), did

    return watch


def test_the_watch_sees_a_look_up_a_connection_and_a_write(watched, tmp_path):
    code = """
import os, pathlib, socket
for call in (lambda: socket.getaddrinfo("telemetry.invalid", 443),
             lambda: socket.create_connection(("127.0.0.1", 1)),
             lambda: (os.chmod(pathlib.Path.home(), 0o755), (pathlib.Path.home() / "id").touch())):
    try:
        call()
    except OSError:
        pass
"""
    _, did = watched([sys.executable, "-c", code])
    assert did == ["getaddrinfo telemetry.invalid", "connect 127.0.0.1", "wrote id"]


@pytest.fixture(scope="module")
def places(workshop, tmp_path_factory) -> dict[str, Path]:
    """What the calls name, and a store with a registry that was added and a model that was pulled."""
    work = tmp_path_factory.mktemp("work")
    registry = tiny.registry(work / "registry", tiny.bundle(work / "tiny"), tiny.bundle(work / "two", "pulled"))
    torch.save(fresh(), work / "model.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(work / "store"))
        for words in (
            ["registry", "add", "added", registry],
            ["pull", "pulled"],
            ["bundle", "pulled", "--out", work / "models.tar"],
            ["run", "ddpm-fashion", "--steps", 2, "--seed", 1, "--out", work / "made.png"],
        ):
            assert (done := zoo(*words)).code == 0, done.err
    studio(work / "studio")
    assert zoo("registry", "keygen", "--out", work / "lab.key").code == 0
    return {
        "work": work, "registry": registry, "studio": work / "studio", "checkpoint": work / "model.ckpt",
        "key": work / "lab.key", "data": workshop.data, "codec": workshop.codec, "judge": workshop.judge,
    }  # fmt: skip


def test_every_command_has_a_call():
    assert CALLS.keys() == leaves().keys()


@pytest.mark.parametrize("name", CALLS)
def test_a_command_looks_nothing_up_and_leaves_the_home_folder_alone(watched, places, name):
    words = [word.format(**places) for word in CALLS[name]]
    command = [sys.executable, "-m", "zoo", *words]
    until = "http://" if name in ("play", "serve") else ""
    done, did = watched(command, until=until, ZOO_HOME=str(places["work"] / "store"))
    assert done.returncode == 0, done.stderr
    assert did == []


@pytest.mark.parametrize("target", ["python", "node", "cpp", "openvino", "onnx"])
def test_an_exported_host_looks_nothing_up_and_leaves_the_home_folder_alone(watched, places, tmp_path, target):
    host = HOSTS.get(target, HOSTS["python"])
    need(host.missing())
    folder = tmp_path / "out"
    assert (done := zoo("export", places["studio"], "--target", target, "-o", folder)).code == 0, done.err
    done, did = watched([*host.command(folder), "verify"], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert did == []
