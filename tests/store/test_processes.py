"""Many processes at once, killed ones, stopped ones, and file operations that fail."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.children import running
from tests.http_server import FaultServer, Ration
from tests.pullers import entry_at, hold_lock, processes, pulling
from tests.store.looks import assert_only_right_models_are_visible
from zoo.errors import NotFoundError, TransportError
from zoo.formats import registry
from zoo.formats.registry import Entry
from zoo.store import blobs
from zoo.store.store import Store

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.mark.parametrize("locks", ["real", "none", "missing"])
def test_processes_that_pull_at_once(store, server, locks):
    pulls = [pulling(server.url(behaviour="slow"), store.root, f"tiny:{1 + n % 2}", locks=locks) for n in range(8)]
    with running(*pulls):
        for process in pulls:
            process.join()
    assert [process.exitcode for process in pulls] == [0] * 8
    assert_only_right_models_are_visible(store)
    assert [i.version for i in store.installed()] == [1, 2]
    assert list(store.blobs.ingests.iterdir()) == []
    if locks == "real":
        sizes = {f.sha256: f.size for v in (1, 2) for f in entry_at(server.url(), f"tiny:{v}").files.values()}
        assert server.sent() - server.sent("registry.yaml") == sum(sizes.values())  # each blob once


def kill_after(sent: int, server: FaultServer, store: Store, how: int = signal.SIGKILL, *, stored: int = 0) -> None:
    """Starts a pull, and kills it when the server has sent it so many bytes, and sends no more.

    Args:
        stored: and when the store holds so many bytes more.
    """
    entry = entry_at(server.url())
    missing = store.missing(entry)
    server.ration = Ration(sent)
    process = pulling(server.url(behaviour="rationed"), store.root)
    with running(process):
        while process.is_alive() and not (server.ration.spent.is_set() and missing - store.missing(entry) >= stored):
            time.sleep(0.001)
        os.kill(process.pid, how)
        process.join()
    server.ration.over.set()
    assert process.exitcode not in (0, None), "the pull ended before the kill"


def kill_and_pull_again(store: Store, server: FaultServer, dice: random.Random, how: int) -> None:
    """Kills a pull somewhere in its transfer. Then everything must hold."""
    entry = entry_at(server.url())
    kill_after(dice.randrange(1, entry.size), server, store, how)
    assert_only_right_models_are_visible(store)
    missing, since = store.missing(entry), len(server.requests)
    assert store.verify(store.pull(entry)) == []
    assert server.sent(since=since) == missing  # not a byte twice
    assert list(store.blobs.ingests.iterdir()) == []


def test_killed_pulls_leave_nothing_wrong_and_go_on(tmp_path, server):
    dice = random.Random(1)
    for n in range(15):
        kill_and_pull_again(Store(tmp_path / f"{n}"), server, dice, signal.SIGKILL)


@pytest.mark.slow
def test_killed_pulls_many_times(tmp_path, server):
    dice = random.Random(2)
    ways = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    for n in range(100):
        kill_and_pull_again(Store(tmp_path / f"{n}"), server, dice, ways[n % 3])


def test_pull_that_is_killed_again_and_again_gets_on_and_keeps_one_partial(store, server, folder):
    entry = entry_at(server.url())
    missing, registry_size = [entry.size], (folder / "registry.yaml").stat().st_size
    for _ in range(3):
        kill_after(110_000, server, store, stored=110_000 - registry_size)
        missing.append(store.missing(entry))
        assert len(store.blobs._partials(entry.files["model.safetensors"].sha256)) <= 1
    assert [before - after for before, after in zip(missing, missing[1:])] == [110_000 - registry_size] * 3


def test_lock_of_a_killed_process_is_free_at_once(store, local):
    ready = processes.Event()
    sha256 = local.files["model.safetensors"].sha256
    with running(processes.Process(target=hold_lock, args=(store.root, sha256, ready))):
        assert ready.wait(60)
    assert store.verify(store.pull(local)) == []


def test_lock_of_a_stopped_process_is_told_and_not_waited_for(store, local, monkeypatch, caplog):
    monkeypatch.setattr(blobs, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(blobs, "PATIENCE_SECONDS", 0.3)
    # A library's logging set-up in another test disables loggers.
    monkeypatch.setattr(logging.getLogger("zoo"), "disabled", False)
    ready = processes.Event()
    holder = processes.Process(target=hold_lock, args=(store.root, local.files["model.safetensors"].sha256, ready))
    with running(holder):
        assert ready.wait(60)
        os.kill(holder.pid, signal.SIGSTOP)
        assert store.verify(store.pull(local)) == []
    assert "waiting for another process" in caplog.text and "continuing without it" in caplog.text


def test_missing_source_is_a_transport_error(store, local, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "r")
    (tmp_path / "r" / "models" / "tiny" / "2" / "README.md").unlink()
    entry = Entry(registry.read(tmp_path / "r", "lab"), "tiny", 2)
    with pytest.raises(TransportError, match=r"README\.md is missing"):
        store.pull(entry)
    with pytest.raises(NotFoundError):
        registry.read(tmp_path / "nowhere", "lab")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_file_operation_that_fails_once_or_for_ever(tmp_path, folder):
    if not shutil.which("gcc"):
        pytest.skip("gcc compiles what makes the calls fail")
    here = Path(__file__).parents[1]
    shim = tmp_path / "failing_calls.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, here / "failing_calls.c", "-ldl"], check=True)
    memory = Path("/dev/shm")  # where an fsync costs nothing
    with (
        FaultServer(folder) as server,
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as work,
    ):
        done = subprocess.run(
            [sys.executable, "-m", "tests.sweep", server.url(), work],
            env=os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": str(here.parent)},
            capture_output=True,
            text=True,
            cwd=here.parent,
        )
    *broken, count = done.stdout.splitlines()
    assert done.returncode == 0 and broken == []
    assert json.loads(count)["faults"] > 100, "the sweep hit too little"
