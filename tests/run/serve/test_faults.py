"""`zoo serve` when things go wrong: a worker that is killed, a full queue, a deadline, clients that leave, SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests import tiny

from .server import SECONDS, serving, slow

pytestmark = pytest.mark.slow

INFER = "/v2/models/slow.play/infer"
LONG = 10**8  # steps: hours


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("faults")
    slow(place / "slow")
    tiny.bundle(place / "tiny")
    return place


def body(steps: int, value: int = 7) -> str:
    return json.dumps(
        {
            "inputs": [
                {"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [value] * 64},
                {"name": "steps", "shape": [], "datatype": "INT64", "data": [steps]},
            ]
        }
    )


def is_right(answer: requests.Response, value: int = 7) -> bool:
    return answer.status_code == 200 and answer.json()["outputs"][0]["data"] == [value] * 64


def test_a_killed_worker_fails_only_its_call_and_is_started_again(folder):
    """Clients that repeat a 503 all succeed with right answers, while a worker is killed again and again."""
    with serving(folder, folder / "slow", "--workers", 2) as server:
        statuses, wrong = Counter(), []
        end = time.monotonic() + 8

        def client(value: int) -> int:
            session, answered = requests.Session(), 0
            while time.monotonic() < end:
                answer = session.post(server.url + INFER, data=body(20, value), timeout=SECONDS)
                statuses[answer.status_code] += 1
                if answer.status_code == 503:
                    assert answer.headers["Retry-After"] and "\n" not in answer.json()["error"]
                    time.sleep(0.05)
                elif not is_right(answer, value):
                    wrong.append(answer.text)
                else:
                    answered += 1
            return answered

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, value) for value in range(8)]
            killed = 0
            while time.monotonic() < end - 2:
                time.sleep(0.7)
                if workers := server.workers():
                    os.kill(workers[killed % len(workers)], signal.SIGKILL)
                    killed += 1
            answered = [one.result(SECONDS) for one in clients]
        assert killed > 3 and not wrong and min(answered) > 0
        assert set(statuses) <= {200, 503} and statuses[503] <= 2 * killed
        assert is_right(server.post(INFER, data=body(1)))


def test_a_worker_that_died_while_idle_is_not_noticed(folder):
    with serving(folder, folder / "tiny") as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        time.sleep(0.2)
        ask = {"image": [[[[3]]]]}
        assert server.post("/v1/models/tiny/tasks/double", json=ask).status_code == 200
        assert server.workers() != [worker]


def test_a_full_queue_refuses_at_once_and_a_client_that_left_makes_room(folder):
    host = "127.0.0.1"
    with serving(folder, folder / "slow", folder / "tiny", "--queue", 2) as server:
        port = int(server.url.rpartition(":")[2])
        text = body(LONG)
        request = f"POST {INFER} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        clients = []
        for _ in range(3):  # one runs, two wait
            clients.append(socket.create_connection((host, port)))
            clients[-1].sendall(request)
            time.sleep(0.3)
        times = []
        for _ in range(10):
            begin = time.monotonic()
            answer = server.post(INFER, data=body(1))
            times.append(time.monotonic() - begin)
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["error"] == "2 calls are waiting, as many as may; repeat it later"
        assert sorted(times)[5] < 0.5
        # Another model has a queue of its own.
        assert server.post("/v1/models/tiny/tasks/double", json={"image": [[[[3]]]]}).status_code == 200
        for client in clients:
            client.close()
        # The one that ran is ended with its worker, the others were never run.
        end = time.monotonic() + SECONDS
        while not is_right(answer := server.post(INFER, data=body(1))):
            assert answer.status_code == 503 and time.monotonic() < end
            time.sleep(0.1)


def test_a_call_that_takes_too_long_is_ended(folder):
    with serving(folder, folder / "slow", "--seconds", 1.5) as server:
        answer = server.post(INFER, data=body(LONG))
        assert answer.status_code == 504
        assert answer.json()["error"] == "it takes more than 1.5 s, its time in the queue included"
        end = time.monotonic() + SECONDS
        while not is_right(answer := server.post(INFER, data=body(1))):
            assert answer.status_code in (503, 504) and time.monotonic() < end


def test_sigterm_answers_what_it_accepted(folder):
    """Under load: each request is answered or its connection was never accepted; nothing is reset or cut."""
    with serving(folder, folder / "slow") as server:
        stop, seen, odd = threading.Event(), Counter(), []

        def client(value: int) -> None:
            session = requests.Session()
            while not stop.is_set():
                try:
                    answer = session.post(server.url + INFER, data=body(20, value), timeout=SECONDS)
                except requests.ConnectionError as e:
                    if "refused" not in str(e).lower():
                        odd.append(repr(e))
                    seen["refused"] += 1
                    return
                seen[answer.status_code] += 1
                if answer.status_code == 503:
                    assert answer.headers["Connection"] == "close"
                    time.sleep(0.05)
                elif not is_right(answer, value):
                    odd.append(answer.text)

        workers = server.workers()
        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, value) for value in range(8)]
            time.sleep(1.5)
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(SECONDS)
            stop.set()
            for one in clients:
                one.result(SECONDS)
        assert (code, odd) == (0, []) and seen[200] > 0 and set(seen) <= {200, 503, "refused"}
        assert server.log.read_text().endswith("stopped\n")
        assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_sigterm_while_a_call_runs_says_not_ready_and_answers_it(folder):
    with serving(folder, folder / "slow") as server, ThreadPoolExecutor(1) as pool:
        steps = 64
        begin = time.monotonic()
        assert is_right(server.post(INFER, data=body(steps)))
        each = (time.monotonic() - begin) / steps
        call = pool.submit(server.post, INFER, data=body(max(steps, int(3 / each))))
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.get("/v2/health/ready").status_code == 503
        assert server.get("/v2/health/live").status_code == 200
        refused = server.post(INFER, data=body(1))
        assert refused.status_code == 503 and refused.json()["error"] == "the server is stopping"
        assert is_right(call.result(SECONDS))
        assert server.process.wait(SECONDS) == 0


def test_a_killed_server_leaves_no_process(folder):
    with serving(folder, folder / "slow", "--workers", 2) as server:
        workers = server.workers()
        assert len(workers) == 2
        server.process.kill()
        server.process.wait()
        server.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "orphans")


def test_ctrl_c_while_models_load(folder):
    command = [sys.executable, "-m", "zoo", "serve", str(folder / "slow"), "--port", "0"]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode in (0, 130) and "Traceback" not in err, err
