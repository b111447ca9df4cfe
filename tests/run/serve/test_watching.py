"""`/metrics` as Prometheus reads it, and the access log."""

import json
import time
from datetime import datetime
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import tiny
from zoo.run.serve.repository import Repository, Served, Target
from zoo.run.serve.watching import AccessLog, Answered, Metrics
from zoo.run.serve.workers import Calls, Counts

from .server import serving


def samples(text: str) -> dict[tuple, float]:
    """The value of each sample, by its name and its labels' values."""
    names = ("model", "version", "task", "status", "worker", "le")
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, *(sample.labels[n] for n in names if n in sample.labels)] = sample.value
    return found


def scene() -> tuple[Repository, Target]:
    repository = Repository({"m": lambda: None}, Calls())
    counts = Counts(restarts=3, runs={("play", 1): [2, 0.1], ("play", 3): [1, 0.1], ("other", 1): [9, 0.1]})
    task = object()
    served = Served(lambda: None, "m")
    served.workers = SimpleNamespace(waiting=5, running=1, up=2, counts=counts)
    served.opened = SimpleNamespace(name="m", version=2, tasks={"play": task}, processes=lambda: [])
    repository.served[:] = [served]
    return repository, Target(served, "m.play", 2, "play", task, served.workers)


def test_metrics():
    repository, target = scene()
    metrics = Metrics(repository)
    for seconds, status, whose in ((0.003, 200, target), (0.2, 200, target), (0.001, 503, target), (1, 404, None)):
        metrics.answered(Answered("::1", "http", "POST", "/x", status, seconds, 1, whose))
    found = samples(metrics.text().decode())
    of = ("m", "2", "play")
    assert found["zoo_requests_total", *of, "200"] == 2 and found["zoo_requests_total", *of, "503"] == 1
    assert found["zoo_requests_total", "", "", "", "404"] == 1
    assert found["zoo_request_seconds_bucket", *of, "0.005"] == 2 and found["zoo_request_seconds_count", *of] == 3
    assert found["zoo_request_seconds_sum", *of] == pytest.approx(0.204)
    assert (found["zoo_queue_length", "m", "2"], found["zoo_running", "m", "2"], found["zoo_workers", "m", "2"]) == (
        5,
        1,
        2,
    )
    assert found["zoo_worker_restarts_total", "m", "2"] == 3
    assert found["zoo_batch_size_bucket", *of, "2"] == 2 and found["zoo_batch_size_bucket", *of, "4"] == 3
    assert (found["zoo_batch_size_count", *of], found["zoo_batch_size_sum", *of]) == (3, 5)


class Full:
    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_does_not_matter():
    AccessLog(Full()).answered(Answered("::1", "http", "POST", "/x", 200, 0.1, 1, None))


@pytest.mark.slow
def test_a_server_tells_what_it_did(tmp_path):
    tiny.bundle(tmp_path / "tiny")
    words = [tmp_path / "tiny", "--access-log", tmp_path / "log.jsonl"]
    path = "/v1/models/tiny/tasks/double"
    with serving(tmp_path, *words, ZOO_SERVE_API_KEYS="hidden") as server:
        headers = {"Authorization": "Bearer hidden"}
        for body in ({"image": [[[[3]]]]}, {"image": "hidden"}):
            server.post(path + "?key=hidden", json=body, headers=headers)
        server.get("/no\nwhere", headers=headers)
        assert server.get("/metrics").status_code == 401
        answer = server.get("/metrics", headers=headers)
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        found = samples(answer.text)
        (worker,) = server.workers()
        log = tmp_path / "log.jsonl"
        deadline = time.monotonic() + 30
        while log.read_bytes().count(b"\n") < 5 and time.monotonic() < deadline:  # a line follows its answer
            time.sleep(0.01)
    of = ("tiny", "1", "double")
    assert found["zoo_requests_total", *of, "200"] == found["zoo_requests_total", *of, "400"] == 1
    assert found["zoo_request_seconds_count", *of] == 2 and found["zoo_batch_size_sum", *of] == 1
    assert found["zoo_worker_memory_bytes", "tiny", "1", "0"] > 10 << 20 and worker
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["status"] for line in lines] == [200, 400, 404, 401, 200] and "hidden" not in text
    first = lines[0]
    assert abs(datetime.fromisoformat(first["time"]).timestamp() - time.time()) < 300
    assert (first["model"], first["task"], first["path"], first["client"]) == ("tiny:1", "double", path, "127.0.0.1")
    assert first["bytes"] > 10 and 0 < first["seconds"] < 60 and first["method"] == "POST"
    assert "model" not in lines[2]
