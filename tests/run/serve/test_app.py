"""The addresses without a network: no request at all is answered 500."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_tasks import _tasks
from zoo.run.serve.app import State, application
from zoo.run.serve.repository import Repository
from zoo.run.serve.workers import Calls, Counts, Unavailable

from .test_protocol import JSON, REQUESTS

TASKS = _tasks()


async def refuse(task, inputs, watch=None):
    """In place of a worker: the request was right."""
    raise Unavailable("right")


def app():
    repository = Repository({"studio": lambda: None}, Calls())
    (served,) = repository.served
    served.opened = SimpleNamespace(name="studio", version=1, tasks=TASKS, processes=lambda: [])
    served.workers = SimpleNamespace(up=1, running=0, waiting=0, counts=Counts(), run=refuse, check_room=lambda: None)
    return application(State(repository, "1"))


APP = app()


def ask(path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """The status and body of the answer to a POST."""
    sent = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path, "query_string": b"",
        "root_path": "", "raw_path": path.encode(), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        "headers": [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(APP(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def is_line(answer: tuple[int, bytes], *statuses: int) -> bool:
    status, body = answer
    return status in statuses and "\n" not in json.loads(body)["error"]


PORTS = ["image", "tokens", "size", "label", "seed", "steps", "guidance"]
VALUES = st.integers(-3, 300) | st.sampled_from(["Shirt", "aGk=", "data:image/png;base64,aGk="]) | JSON


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(task=st.sampled_from(sorted(TASKS)), asked=REQUESTS, binary=st.binary(max_size=80), shift=st.integers(-3, 3))
def test_no_request_of_the_protocol_is_answered_500(task, asked, binary, shift):
    text = json.dumps(asked).encode()
    path = f"/v2/models/studio.{task}/infer"
    assert is_line(ask(path, text), 400, 503)
    answer = ask(path, text + binary, Inference_Header_Content_Length=str(len(text) + shift))
    assert is_line(answer, 400, 503)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    task=st.sampled_from(sorted(TASKS)),
    values=st.dictionaries(st.sampled_from(PORTS) | st.text(max_size=5), VALUES, max_size=5) | JSON,
    junk=st.binary(max_size=40),
)
def test_no_plain_request_is_answered_500(task, values, junk):
    path = f"/v1/models/studio/tasks/{task}"
    assert is_line(ask(path, json.dumps(values).encode(), Content_Type="application/json"), 400, 503)
    assert is_line(ask(path, junk), 400, 503)
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + junk + b"\r\n--x--\r\n"
    assert is_line(ask(path, form, Content_Type="multipart/form-data; boundary=x"), 400, 503)


def test_a_right_request_arrives():
    seen = ask("/v1/models/studio/tasks/generate", b'{"label": "Shirt", "seed": 3}')
    assert (seen[0], json.loads(seen[1])["error"]) == (503, "right")
