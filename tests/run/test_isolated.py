"""Models in a worker process: with real processes that crash, hang, fill memory and are killed."""

import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest

import zoo
from tests import hostile, tiny
from tests.children import started
from tests.tiny_tasks import studio
from zoo.errors import InvalidFileError, UsageError
from zoo.formats import manifest as manifests
from zoo.run.isolated import IsolatedSession, read_arrays, write_arrays
from zoo.runtime import open_session
from zoo.store.check_apart import check_in
from zoo.system.worker import Limits, Worker, WorkerEnded

PICTURE = np.full((1, 4, 5, 1), 7, np.uint8)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ZOO_ISOLATE")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> zoo.Model:
    """One worker for the tests that do not kill it."""
    return zoo.load(str(tiny.bundle(tmp_path_factory.mktemp("tiny") / "tiny")), "cpu", isolated=True)


def worker_of(model: zoo.Model) -> int:
    """The process of a model's worker, which must run."""
    worker = model._bundle.worker
    assert worker is not None and worker._process is not None
    return worker._process._popen.pid


def wait_until_gone(pid: int) -> float:
    """Seconds until a process is gone, or a zombie that nobody waits for."""
    start = time.monotonic()
    while time.monotonic() - start < 30:
        with suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return time.monotonic() - start
    raise AssertionError(f"process {pid} still runs")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- What a worker gives is what a session here gives -----------------------------------------------------------------


def test_every_task_gives_the_same_in_a_worker(tmp_path: Path):
    folder = str(studio(tmp_path / "studio"))
    here, apart = zoo.load(folder, "cpu", isolated=False), zoo.load(folder, "cpu", isolated=True)
    assert (here.isolated, apart.isolated) == (False, True)
    calls = {
        "encode": {"image": np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)},
        "decode": {"tokens": np.ones((1, 2, 2), np.int64), "size": np.array([8, 8])},
        "generate": {"label": "Sneaker", "seed": [4, 5], "steps": 3, "guidance": 0.1},
    }
    for task, inputs in calls.items():
        expected, actual = here.run(task, **inputs), apart.run(task, **inputs)
        for name, array in expected.items():
            assert actual[name].dtype == array.dtype and np.array_equal(actual[name], array)
        one, two = here.session(task), apart.session(task)
        assert (one.inputs, one.outputs, str(one)) == (two.inputs, two.outputs, str(two))
        assert one.runtime_version == two.runtime_version


def test_arrays_of_any_shape_cross(tmp_path: Path):
    arrays = {
        "scalar": np.array(3), "bool": np.array([True, False]), "empty": np.zeros((0, 3), np.float32),
        "half": np.ones((2, 3), np.float16), "strided": np.arange(12).reshape(3, 4).T[::2],
    }  # fmt: skip
    with (tmp_path / "shared").open("w+b", buffering=0) as shared:
        read = read_arrays(shared, write_arrays(shared, arrays))
        for name, array in arrays.items():
            assert read[name].dtype == array.dtype and read[name].shape == array.shape and (read[name] == array).all()
        with pytest.raises(InvalidFileError, match="text is not an array of numbers"):
            write_arrays(shared, {"text": np.array(["a"])})


@pytest.mark.parametrize(
    "described",
    [["x", "uint8", [10**6]], ["x", "uint8", [-1]], ["x", "object", [1]], ["x", "float64", [10**12]]],
    ids=str,
)
def test_impossible_arrays_are_refused_before_they_are_made(tmp_path: Path, described):
    with (tmp_path / "shared").open("w+b", buffering=0) as shared:
        shared.write(b"1234")
        with pytest.raises(InvalidFileError, match="a worker gave (x an impossible type|less of x)"):
            read_arrays(shared, [described], 10**7)


def test_threads_share_a_worker(model: zoo.Model):
    results: dict[int, bool] = {}

    def work(level: int) -> None:
        results[level] = bool(
            (model.double(image=np.full((1, 4, 5, 1), level, np.uint8))["doubled"] == 2 * level).all()
        )

    threads = [threading.Thread(target=work, args=(level,)) for level in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all(results.values())


def test_a_worker_outlives_the_thread_that_started_it(tmp_path: Path):
    """PR_SET_PDEATHSIG would kill it: its parent, for the system, is that thread."""
    loaded: list[zoo.Model] = []
    folder = str(tiny.bundle(tmp_path / "tiny"))
    thread = threading.Thread(target=lambda: loaded.append(zoo.load(folder, "cpu", isolated=True)))
    thread.start()
    thread.join()
    pid = worker_of(loaded[0])
    assert loaded[0].double(image=PICTURE)["doubled"].max() == 14 and worker_of(loaded[0]) == pid


def test_sessions_that_nobody_uses_are_closed(tmp_path: Path):
    worker, graph = Worker("tiny"), tiny.bundle(tmp_path / "tiny") / "double.onnx"
    first = IsolatedSession(worker, graph, "cpu")
    number = first._number
    del first
    second = IsolatedSession(worker, graph, "cpu")
    assert worker.unneeded == [] and second.run({"image": PICTURE})["doubled"].max() == 14
    second._number = number
    with pytest.raises(InvalidFileError, match=r"crashed|ended its worker process \(exit code 1\)"):
        second.run({"image": PICTURE})
    worker.close()


def test_an_error_of_the_graph_is_the_line_of_a_session_here(tmp_path: Path):
    folder = tiny.bundle(tmp_path / "tiny")
    wrong = {"image": np.zeros((1, 4, 5), np.uint8)}
    worker = Worker("tiny")
    lines = []
    for session in (
        open_session(folder / "double.onnx", "cpu"),
        IsolatedSession(worker, folder / "double.onnx", "cpu"),
    ):
        with pytest.raises(InvalidFileError) as e:
            session.run(wrong)
        lines.append(str(e.value))
    assert lines[0] == lines[1] and lines[0].startswith("double.onnx failed on cpu: ")
    worker.close()


# --- Graphs that harm -------------------------------------------------------------------------------------------------


@pytest.fixture
def unchecked(monkeypatch):
    """No check of graphs: the worker must also survive what the check does not know."""
    monkeypatch.setattr("zoo.store.check_apart.check_in", lambda worker, folder, manifest: [])


LINES = {
    "null": (r"running double\.onnx crashed its worker process \(SIGSEGV\)$", {}),
    "endless": (
        r"running double\.onnx takes more than 2 s, so its worker process was ended; ZOO_WORKER_SECONDS sets",
        {"ZOO_WORKER_SECONDS": "2"},
    ),
    "one kernel": (r"running double\.onnx takes more than 2 s", {"ZOO_WORKER_SECONDS": "2"}),
    "memory": (
        r"^double\.onnx failed on cpu: .*; it may use 1\.1 GB \(ZOO_WORKER_MEMORY\)$",
        {"ZOO_WORKER_MEMORY": "1G"},
    ),
    "flat": (r"^the graph of double does not match its manifest: doubled has the shape \[20\]; it must be \[1, ", {}),
    "empty": (r"the shape \[0, 4, 5, 1\]; it must be \[1, height, width, 1\]$", {}),
    "five channels": (r"the shape \[1, 4, 5, 5\]; it must be \[1, height, width, 1\]$", {}),
}


@pytest.mark.slow
def test_opening_a_strangers_graph_has_a_deadline(tmp_path: Path, monkeypatch, unchecked):
    monkeypatch.setenv("ZOO_WORKER_SECONDS", "3")
    model = zoo.load(str(hostile.bundle(tmp_path / "stranger", "many nodes")), "cpu")
    start = time.monotonic()
    with pytest.raises(InvalidFileError, match=r"opening double\.onnx takes more than 3 s, so its worker process was"):
        model.double(image=PICTURE)
    assert time.monotonic() - start < 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", LINES)
def test_a_strangers_graph_ends_in_one_line_and_this_process_lives(tmp_path: Path, monkeypatch, unchecked, kind):
    line, environment = LINES[kind]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    model = zoo.load(str(hostile.bundle(tmp_path / "stranger", kind)), "cpu")
    assert model.isolated
    model.session("double")  # opening it does no harm
    start = time.monotonic()
    with pytest.raises(InvalidFileError, match=line) as e:
        model.double(image=PICTURE)
    assert time.monotonic() - start < 20 and str(e.value).isprintable() and e.value.exit_code == 4


def test_a_check_that_crashes_or_lies_is_a_finding(tmp_path: Path):
    """The worker checks the graphs that it will run; a graph may have taken it over."""

    manifest = manifests.read(tiny.bundle(tmp_path / "tiny"))

    class Replies(Worker):
        reply: object = None

        def request(self, message, doing, *, seconds=None):
            assert seconds == 300
            if isinstance(self.reply, Exception):
                raise self.reply
            return self.reply

    for reply, found in (
        (InvalidFileError("reading its graphs crashed"), ["reading its graphs crashed"]),
        ({"error": "InvalidFileError", "text": "too large"}, ["too large"]),
        ({"findings": "none"}, ["its worker process sent a reply that zoo cannot read"]),
        ({}, ["its worker process sent a reply that zoo cannot read"]),
        ({"findings": []}, []),
    ):
        worker = Replies("tiny")
        worker.reply = reply
        assert check_in(worker, tmp_path, manifest) == found


def test_the_check_has_a_limit_of_its_own(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("zoo.store.check_apart.LIMIT_SECONDS", 0.001)
    worker = Worker("tiny")
    [found] = check_in(worker, tmp_path, manifests.read(tiny.bundle(tmp_path / "tiny")))
    assert found == "tiny: reading its graphs takes more than 0.001 s, so its worker process was ended"
    assert worker.processes == ()


def test_a_reply_that_zoo_cannot_read_ends_the_worker(tmp_path: Path, model: zoo.Model):
    """A graph may have taken it over."""
    good = {"inputs": ["image"], "outputs": ["doubled"], "provider": "cpu", "reason": "", "runtime": "1"}
    many = {"left_on_cpu": {}, "arrays": [["doubled", "uint8", [1 << 40]]]}
    replies, closed = [], []

    class Replies(Worker):
        def request(self, message, doing, *, seconds=None):
            return replies.pop(0)

        def close(self):
            closed.append(True)
            super().close()

    cannot = "tiny: its worker process sent a reply that zoo cannot read: "
    for answers, said in (
        ([{}], cannot),
        ([good | {"inputs": 3}], cannot),
        ([good, {"left_on_cpu": [], "arrays": []}], cannot),
        ([good, {"left_on_cpu": {}, "arrays": [["doubled", "no such type", [1]]]}], cannot),
        ([good, {"left_on_cpu": {}, "arrays": [["doubled", "uint8", ["x"]]]}], cannot),
        ([good, many], "a worker gave doubled an impossible type or size"),
        ([good, {"error": "InvalidFileError", "text": "broken"}], "broken"),
        ([good, {"error": "SystemExit", "text": "over"}], "over"),
        ([good, {"error": "safe_text", "text": "over"}], "over"),
    ):
        replies[:] = answers
        closed.clear()
        with pytest.raises(InvalidFileError) as e:
            IsolatedSession(Replies("tiny"), tmp_path / "x.onnx").run({"image": PICTURE})
        assert str(e.value).startswith(said) and closed == [True] * (said == cannot), answers


def test_an_endless_reply_is_not_kept(monkeypatch):
    monkeypatch.setattr("zoo.system.worker.MODULE", "tests.flood")
    monkeypatch.setenv("ZOO_WORKER_SECONDS", "5")
    with pytest.raises(InvalidFileError, match="tiny: waiting (ended|crashed) its worker process"):
        Worker("tiny").request({"do": "nothing"}, "waiting")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_has_its_limits_and_only_hears_its_parent(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ZOO_WORKER_MEMORY", "1G")
    model = zoo.load(str(tiny.bundle(tmp_path / "tiny")), "cpu", isolated=True)
    assert model.double(image=PICTURE)["doubled"].max() == 14
    pid = worker_of(model)
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(rf"Max data size +{1 << 30} ", limits) and re.search(rf"Max file size +{1 << 30} ", limits)
    assert re.search(r"Max core file size +0 ", limits)
    # What a library prints is not taken for a reply.
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)] == [os.devnull] * 3  # noqa: PTH115
    assert os.getpgid(pid) == pid  # so Ctrl-C on a terminal does not reach it
    os.kill(pid, signal.SIGINT)
    assert model.double(image=PICTURE)["doubled"].max() == 14 and worker_of(model) == pid


def test_a_worker_that_was_killed_while_it_was_idle_is_replaced(tmp_path: Path):
    model = zoo.load(str(tiny.bundle(tmp_path / "tiny")), "cpu")
    assert model.double(image=PICTURE)["doubled"].max() == 14
    pid = worker_of(model)
    kill(pid)
    assert model.double(image=PICTURE)["doubled"].max() == 14 and worker_of(model) != pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_worker_that_is_killed_in_the_middle_of_an_exchange_is_one_line():
    worker = Worker("tiny")
    with worker.turn():
        [pid] = worker.processes
        kill(pid)
        with pytest.raises(WorkerEnded, match=r"tiny: running x crashed its worker process \(SIGKILL\); it may"):
            worker.request({"do": "run", "session": 7, "arrays": [], "close": []}, "running x")
    with worker.turn():
        assert worker.processes != (pid,)
    worker.close()


def test_a_worker_ends_with_its_model(tmp_path: Path, home: Path):
    model = zoo.load(str(tiny.bundle(tmp_path / "tiny")), "cpu")
    model.double(image=PICTURE)
    pid = worker_of(model)
    assert list((home / "running").iterdir())
    del model
    assert wait_until_gone(pid) < 5 and list((home / "running").iterdir()) == []


RUN = "import sys; from zoo.cli import main; main(sys.argv[1:], prog_name='zoo')"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["endless", "one kernel", "many nodes"])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_ctrl_c_and_death_of_the_parent_end_the_worker(tmp_path: Path, kind: str, sent: int):
    """Whatever kernel is at work, and while a graph is opened: one product of two matrices takes a minute."""
    from PIL import Image

    folder, picture = hostile.bundle(tmp_path / "stranger", kind), tmp_path / "x.png"
    Image.new("L", (8, 8), 3).save(picture)
    command = [sys.executable, "-c", RUN, "run", folder, "double", "--image", picture, "--out", tmp_path / "o.png"]
    seconds = []
    for _ in range(3):  # the machine may be busy: one of three must be in time
        with started(command, stderr=PIPE, stdout=PIPE) as parent:
            worker = _busy_child(parent.pid)
            start = time.monotonic()
            os.kill(parent.pid, sent)
            code, err = parent.wait(60), parent.stderr.read().decode().strip()
            seconds.append(time.monotonic() - start + wait_until_gone(worker))
        assert (code, err) == ((130, "Error: interrupted") if sent == signal.SIGINT else (-signal.SIGKILL, ""))
        if seconds[-1] < 1:
            break
    assert min(seconds) < 1, seconds


MANY = {
    "a file each": "run stranger double in --out {stem}.png",
    "a batch each": "run stranger double in --batch-size 1 --out o.png",
    "an export": "export stranger --target onnx --out exported",
}


@pytest.mark.slow
@pytest.mark.parametrize("words", MANY.values(), ids=MANY)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_batch_of_many_pictures_and_leaves_nothing(tmp_path: Path, words: str, sent: int):
    """Batches run in a thread, which Python would wait for: an hour, until the worker's deadline."""
    from PIL import Image

    hostile.bundle(tmp_path / "stranger", "endless")
    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.new("L", (8, 8), 3).save(tmp_path / "in" / f"{name}.png")
    command = [sys.executable, "-c", RUN, *words.replace("stranger", "./stranger").split()]
    with started(command, stderr=PIPE, stdout=PIPE, cwd=tmp_path) as parent:
        worker = _busy_child(parent.pid)
        os.kill(parent.pid, sent)
        code, err = parent.wait(20), parent.stderr.read().decode().strip()
        assert (code, err) == ((130, "Error: interrupted") if sent == signal.SIGINT else (128 + sent, ""))
        wait_until_gone(worker)
    assert {path.name for path in tmp_path.iterdir()} <= {"in", "stranger", "home"}


def _busy_child(pid: int) -> int:
    """The worker of a process, as soon as it has computed for a second more than its start takes."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(FileNotFoundError, IndexError, ValueError):
            [child] = children_of(pid)
            numbers = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            if int(numbers[11]) / os.sysconf("SC_CLK_TCK") > 2.5:
                return child
        time.sleep(0.05)
    raise AssertionError("the worker never got to work")


# --- Who runs in a worker ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ZOO_WORKER_SECONDS", "ZOO_WORKER_MEMORY"])
@pytest.mark.parametrize("value", ["soon", "0", "8 X", "-1"])
def test_limits_that_are_none_are_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name} is '{value}'; it must be a number of "):
        Limits.here()


def test_limits_come_from_the_environment(monkeypatch):
    assert Limits.here().seconds == 3600 and Limits.here().memory > 1 << 28
    monkeypatch.setenv("ZOO_WORKER_SECONDS", "2.5")
    for text, memory in (("100000000", 100_000_000), ("8G", 8 << 30), ("512 MiB", 512 << 20)):
        monkeypatch.setenv("ZOO_WORKER_MEMORY", text)
        assert Limits.here() == Limits(2.5, memory)
