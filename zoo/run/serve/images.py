"""OpenAI's way to ask for pictures, `POST /v1/images/generations`, for tasks that draw what a text says.

https://platform.openai.com/docs/api-reference/images. Beyond it, a request may have the task's other inputs by name,
such as `seed` and `steps`, and an answer has the seed of each picture. A picture has no address here, so that all are
answered in base64.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import JSONResponse, Response

from ...errors import NotFoundError, ZooError
from ...ports.inputs import complete
from ...ports.kinds import drawn, kind_of
from ...ports.text import main_text
from ...text import did_you_mean, safe_text
from .events import event, streamed
from .requests import Bad, aside, body_of, call, described, json_object
from .workers import Unavailable

if TYPE_CHECKING:
    import numpy as np
    from starlette.requests import Request

    from ...hookspecs import Task
    from .repository import Repository, Target
    from .watched import Progress

START = "/v1/images/"
"""Below it, errors have OpenAI's form."""
MOST, MOST_PARTIAL = 10, 3
"""Pictures of a request, and pictures before the last one in a stream, as there."""
IGNORED = ("background", "moderation", "output_compression", "quality", "safety_identifier", "style", "user")
"""Fields that change nothing here. A task's input of that name comes first."""
PNG = "image/png"


class Wrong(Bad):
    """A wrong field of a request."""

    def __init__(self, param: str, text: str):
        super().__init__(text)
        self.param = param


@dataclass(frozen=True)
class Asked:
    """A request that fits its task."""

    target: Target
    output: str  # that is the pictures
    inputs: dict[str, np.ndarray]  # complete and checked


async def generate(request: Request, repository: Repository, most: int) -> Response:
    """Draws what the prompt says."""
    body = await body_of(request, most)
    fields = {name: value for name, value in json_object(body).items() if value is not None}
    target = request.state.target = _target(repository, fields.pop("model", None))
    target.workers.check_room()
    looks = _looks(fields)
    asked = await aside(len(body), _read, fields, target)
    if looks is not None:
        return await streamed(request, target, asked.inputs, looks, _Events(asked))
    pictures = (await call(request, asked.target, asked.inputs))[asked.output]
    return Response(await aside(pictures.nbytes, _answer, asked, pictures), media_type="application/json")


def drawing_task(tasks: Mapping[str, Task]) -> str | None:
    """The task that draws what a text says and needs nothing else, if there is one."""
    for name, task in tasks.items():
        text = main_text(task.inputs)
        others = [port for other, port in task.inputs.items() if other != text]
        alone = all(port.default is not None or kind_of(port).drawn for port in others)
        if text and alone and not task.part_of and picture_of(task):
            return name
    return None


def picture_of(task: Task) -> str | None:
    """The first output that is a picture."""
    ports = task.outputs
    return next((name for name, port in ports.items() if kind_of(port).form_in(port, ports).media_type == PNG), None)


def _read(fields: dict[str, Any], target: Target) -> Asked:
    output, prompt, number = picture_of(target.task), fields.pop("prompt", None), fields.pop("n", 1)
    assert output
    if not isinstance(prompt, str):
        raise Wrong("prompt", "prompt must be a text")
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST:
        raise Wrong("n", f"n is {safe_text(number)[:80]}; it must be 1 .. {MOST}")
    for name, allowed in _choices(target.task, output).items():
        if (given := fields.pop(name, "auto")) not in (*allowed, "auto"):
            why = "; pictures have no address here" if given == "url" else ""
            raise Wrong(name, f"{name} is {safe_text(given)[:80]}; it must be {' or '.join(allowed)}{why}")
    return Asked(target, output, _inputs(target, prompt, number, fields))


def _looks(fields: dict[str, Any]) -> int | None:
    """How many pictures before the last one are to be sent as events; None: the answer is not to be events."""
    stream, partial = fields.pop("stream", False), fields.pop("partial_images", 0)
    if not isinstance(stream, bool):
        raise Wrong("stream", "stream must be true or false")
    if isinstance(partial, bool) or not isinstance(partial, int) or not 0 <= partial <= MOST_PARTIAL:
        raise Wrong("partial_images", f"partial_images is {safe_text(partial)[:80]}; it must be 0 .. {MOST_PARTIAL}")
    if not stream:
        return None
    if fields.get("n", 1) != 1:
        raise Wrong("n", "n must be 1 for a stream")
    return partial


def _choices(task: Task, output: str) -> dict[str, tuple[str, ...]]:
    """What fields may be of which a model leaves no choice."""
    height, width = task.outputs[output].shape[1:3]
    fixed = isinstance(height, int) and isinstance(width, int)
    size = (f"{width}x{height}",) if fixed else ()
    return {"size": (*size, "auto"), "response_format": ("b64_json",), "output_format": ("png",)}


def _inputs(target: Target, prompt: str, number: int, fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The task's inputs for so many pictures. The fields that are left are inputs by name, or mean nothing here."""
    import numpy as np

    ports, text = target.task.inputs, main_text(target.task.inputs)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name in ports and name != text:
            with _about(name):
                values[name] = kind_of(ports[name]).from_request(name, ports[name], value)
        elif name not in IGNORED:
            near = did_you_mean(name, [port for port in ports if port != text])
            raise Wrong(safe_text(name)[:80], f"there is no field '{safe_text(name)[:80]}'{near}")
    assert text
    with _about("prompt"):
        values[text] = np.stack([kind_of(ports[text]).from_value("prompt", ports[text], prompt)] * number)
    for name in drawn(ports):
        with _about(name):
            given = values.get(name)
            given = given if given is None or type(given) in (int, list) else [given]  # which says what is wrong
            values[name], _ = kind_of(ports[name]).draw(name, given, number, lambda line: None)
    return complete(target.task_name, target.task, values)


@contextmanager
def _about(param: str) -> Iterator[None]:
    """Errors inside are about that field of the request."""
    try:
        yield
    except ZooError as e:
        raise Wrong(param, str(e)) from None


def _target(repository: Repository, model: Any) -> Target:
    """The task that a request means.

    Raises:
        Wrong: none is named where several draw, or it does not draw what a text says.
        NotFoundError: there is no such model.
    """
    opened = [served.opened for served in repository.served if served.opened]
    tasks = {one.name: task for one in opened if (task := drawing_task(one.tasks))}
    there = f"those here that draw what a text says: {', '.join(tasks) or 'none'}"
    if model is None and len(tasks) == 1:
        (model,) = tasks
    if not isinstance(model, str):
        raise Wrong("model", f"model must be a name; {there}")
    name, _, version = model.partition(":")
    if name in tasks:
        return repository.find(f"{name}.{tasks[name]}", version or None)
    if any(name == one.name for one in opened):
        raise Wrong("model", f"{name} does not draw what a text says; {there}")
    raise NotFoundError(f"there is no model '{safe_text(model)[:80]}'{did_you_mean(name, tasks)}; {there}")


def _answer(asked: Asked, pictures: np.ndarray) -> bytes:
    told = _seeds(asked) or [{}] * len(pictures)
    data = [{"b64_json": one, **seed} for one, seed in zip(coded(asked, pictures), told, strict=True)]
    return msgspec.json.encode({"created": int(time.time()), **about(pictures), "data": data})


def _seeds(asked: Asked) -> list[dict[str, int]]:
    """What an answer says about the seed of each picture; empty if the task has none."""
    names = drawn(asked.target.task.inputs)
    return [{"seed": seed} for name in names[:1] for seed in asked.inputs[name].tolist()]


def coded(asked: Asked, pictures: np.ndarray) -> list[str]:
    """Pictures as an answer has them, in base64."""
    port = asked.target.task.outputs[asked.output]
    return kind_of(port).to_answer(port, pictures)


def about(pictures: np.ndarray) -> dict[str, str]:
    """What an answer says about its pictures."""
    height, width = pictures.shape[1:3]
    return {"size": f"{width}x{height}", "quality": "auto", "background": "auto", "output_format": "png"}


class _Events:
    """The events of a stream, as OpenAI's clients read them."""

    def __init__(self, asked: Asked):
        self._asked, self._sent = asked, 0

    def progress(self, progress: Progress) -> bytes:
        if progress.preview is None:
            return b""
        self._sent += 1
        return self._event("partial_image", progress.preview, partial_image_index=self._sent - 1)

    def result(self, outputs: Mapping[str, np.ndarray]) -> bytes:
        usage = {"input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
        usage |= {"output_tokens": 0, "total_tokens": 0}  # nothing is counted here, and clients want the field
        return self._event("completed", outputs, usage=usage, **dict(*_seeds(self._asked)))

    def error(self, error: ZooError) -> bytes:
        return event("error", {"error": _said(error)})

    def _event(self, name: str, outputs: Mapping[str, np.ndarray], **more: Any) -> bytes:
        pictures, kind = outputs[self._asked.output], f"image_generation.{name}"
        (coded_picture,) = coded(self._asked, pictures)
        made = {"type": kind, "b64_json": coded_picture, "created_at": int(time.time()), **about(pictures), **more}
        return event(kind, made)


def entries(repository: Repository) -> list[dict[str, Any]]:
    """The loaded models, as OpenAI's clients read them."""
    opened = [served.opened for served in repository.served if served.opened and served.workers]
    return [_entry(f"{one.name}:{one.version}") for one in opened]


def entry(repository: Repository, model: str) -> Response:
    """One loaded model, by its name with or without the version.

    Raises:
        NotFoundError: there is none.
    """
    known = [one["id"] for one in entries(repository)]
    if not any(model in (one, one.partition(":")[0]) for one in known):
        raise NotFoundError(f"there is no model '{safe_text(model)[:80]}'{did_you_mean(model, known)}")
    return JSONResponse(_entry(model))


def _entry(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "zoo"}  # when it was made is not known


def answer_error(error: Exception) -> Response:
    """An error in OpenAI's form, with the same status and line as elsewhere. Its clients repeat a 500 or a 504 by
    themselves, unless the header says that this makes no sense."""
    status, _, headers = described(error)
    headers["X-Should-Retry"] = str(isinstance(error, Unavailable)).lower()
    return JSONResponse({"error": _said(error)}, status, headers)


def _said(error: Exception) -> dict[str, Any]:
    status, text, _ = described(error)
    codes = {401: "invalid_api_key", 404: "model_not_found" if isinstance(error, NotFoundError) else None}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"message": text, "type": kind, "param": getattr(error, "param", None), "code": codes.get(status)}
