"""Answers as server-sent events: progress, previews, the same outputs at the end, and what ends a run before that."""

import base64
import io
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image

from tests import tiny
from zoo.run.serve.watched import looks

from .server import SECONDS, serving
from .sketch import pixel, sketch

TASK = "/v1/models/sketch/tasks/generate"
EVENTS = {"Accept": "text/event-stream"}
LONG = {"text": "cat", "seed": 1, "steps": 50, "work": 3000}  # a step takes 0.1 s or more


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("events")
    sketch(place / "sketch")
    tiny.bundle(place / "tiny")
    return place


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder, folder / "sketch", folder / "tiny", "--queue", 1) as running:
        yield running


def events_of(answer):
    """The events of an answer, each as soon as it is there."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith(b"event: "):
            name = line[7:].decode()
        elif line.startswith(b"data: "):
            yield name, json.loads(line[6:])
        else:
            assert line == b"" or line.startswith(b": ")


def watch(server, body, path=TASK, **how):
    return server.post(path, json=body, headers=EVENTS, stream=True, **how)


def pixels(coded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))))


@pytest.mark.parametrize("steps, previews, expected", [
    (20, 5, {3, 7, 10, 13, 17}), (4, 5, {1, 2, 3}), (1, 5, set()), (2, 1, {1}), (50, 0, set()), (3, 50, {1, 2}),
])  # fmt: skip
def test_previews_are_at_equal_distances_and_never_the_result(steps, previews, expected):
    assert looks(steps, previews) == expected


@pytest.mark.slow
def test_steps_previews_and_the_same_outputs(server):
    body = {"text": "a red apple", "seed": [3, 4], "steps": 8}
    answer = watch(server, body, TASK + "?previews=3")
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/event-stream")
    assert (answer.headers["X-Accel-Buffering"], answer.headers["Cache-Control"]) == ("no", "no-store")
    events = list(events_of(answer))
    assert [data for name, data in events if name == "progress"] == [{"step": i, "steps": 8} for i in range(1, 9)]
    previews = [data for name, data in events if name == "preview"]
    assert [preview["step"] for preview in previews] == [2, 4, 6]
    for preview in previews:
        for coded, seed in zip(preview["outputs"]["image"], (3, 4)):
            assert (pixels(coded) == pixel("a red apple", seed, preview["step"])).all()
    assert events[-1] == ("result", server.post(TASK, json=body).json())


@pytest.mark.slow
def test_a_task_without_steps_gives_its_result(server):
    body = {"image": np.full((1, 4, 4, 1), 3).tolist()}
    path = "/v1/models/tiny/tasks/double"
    assert list(events_of(watch(server, body, path))) == [("result", server.post(path, json=body).json())]


@pytest.mark.slow
@pytest.mark.parametrize("previews", ["x", "-1", "51", ""])
def test_a_number_of_previews_that_is_none(server, previews):
    answer = watch(server, {"text": "a"}, TASK + f"?previews={previews}")
    assert answer.status_code == 400
    assert answer.json()["error"] == f"previews is '{previews}'; it must be 0 .. 50"


@pytest.mark.slow
def test_what_is_wrong_before_the_first_step_is_an_ordinary_answer(server):
    answer = watch(server, {"text": "a", "steps": 51})
    assert (answer.status_code, answer.json()["error"]) == (400, "steps is 51; it must be 1 .. 50")


@pytest.mark.slow
def test_steps_arrive_while_it_runs_the_queue_is_bounded_and_a_client_that_left_ends_it(server):
    (worker,) = server.workers()[:1]
    answer = watch(server, LONG)
    events = events_of(answer)
    assert next(events) == ("progress", {"step": 1, "steps": 50})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.post, TASK, json={"text": "cat", "seed": 1})
        time.sleep(0.3)
        full = watch(server, LONG)
        assert full.status_code == 503 and int(full.headers["Retry-After"]) >= 1
        step = [data["step"] for name, data in (next(events) for _ in range(3)) if name == "progress"][-1]
        assert not waiting.done() and step < 50
        answer.close()
        # It is ended between two steps: the worker stays, and the next call runs in it.
        assert waiting.result(SECONDS).status_code == 200
    assert worker in server.workers()


@pytest.mark.slow
def test_a_worker_that_ends_in_the_middle_is_told(folder):
    with serving(folder, folder / "sketch") as server:
        events = events_of(watch(server, LONG))
        next(events)
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        *_, (name, data) = events
        assert (name, data["status"]) == ("error", 503) and "\n" not in data["error"]
        events = list(events_of(watch(server, {"text": "cat", "seed": 1})))
        assert events[-1] == ("result", server.post(TASK, json={"text": "cat", "seed": 1}).json())


@pytest.mark.slow
def test_the_deadline_is_that_of_other_calls(folder):
    with serving(folder, folder / "sketch", "--seconds", 2) as server:
        begin = time.monotonic()
        *_, (name, data) = events_of(watch(server, LONG | {"work": 10_000}))
        assert (name, data["status"]) == ("error", 504) and data["error"].startswith("it takes more than 2 s")
        assert time.monotonic() - begin < 20


@pytest.mark.slow
def test_sigterm_answers_a_stream_to_its_end(folder):
    with serving(folder, folder / "sketch") as server:
        events = events_of(watch(server, LONG | {"steps": 20}))
        next(events)
        server.process.send_signal(signal.SIGTERM)
        *_, (name, data) = events
        assert name == "result" and (pixels(data["outputs"]["image"][0]) == pixel("cat", 1, 20)).all()
        assert server.process.wait(SECONDS) == 0


@pytest.mark.slow
def test_openais_client_reads_partial_images(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "sketch", "prompt": "cat", "extra_body": {"seed": 3, "steps": 8}}
        events = list(client.images.generate(**asked, stream=True, partial_images=3))
        assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + [
            "image_generation.completed"
        ]
        for index, (event, step) in enumerate(zip(events, (2, 4, 6))):
            assert event.partial_image_index == index and event.size == "8x8"
            assert (pixels(event.b64_json) == pixel("cat", 3, step)).all()
        plain = client.images.generate(**asked).data[0]
        assert events[-1].b64_json == plain.b64_json and events[-1].seed == plain.seed == 3
        assert events[-1].usage.total_tokens == 0
        (only,) = client.images.generate(**asked, stream=True)
        assert only.b64_json == plain.b64_json
        for wrong in ({"partial_images": 4}, {"n": 2}):
            with pytest.raises(openai.BadRequestError) as found:
                client.images.generate(**asked, stream=True, **wrong)
            assert found.value.param == next(iter(wrong))


@pytest.mark.slow
def test_openais_client_is_told_of_an_error_in_the_middle(folder):
    with serving(folder, folder / "sketch", "--seconds", 2) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        asked = {"prompt": "cat", "extra_body": {"steps": 50, "work": 10_000}}
        with client, pytest.raises(openai.APIError, match="it takes more than 2 s"):
            list(client.images.generate(**asked, stream=True, partial_images=3))


@pytest.mark.slow
def test_a_published_sampler_gives_the_same_picture(tmp_path):
    model = Path(__file__).parents[3] / "models" / "ddpm-fashion-fast" / "1"
    body = {"seed": 7, "label": "Sneaker", "steps": 4}
    path = "/v1/models/ddpm-fashion-fast/tasks/generate"
    with serving(tmp_path, model) as server:
        events = list(events_of(watch(server, body, path)))
        assert [name for name, _ in events] == ["progress", "preview"] * 3 + ["progress", "result"]
        assert events[-1][1] == server.post(path, json=body).json()
