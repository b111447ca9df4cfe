"""The plain way: `POST /v1/models/{name}/tasks/{task}` with JSON or a form, and the OpenAPI document about it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse, Response

from ...errors import UsageError, ZooError
from ...ports.inputs import complete
from ...ports.kinds import drawn, kind_of
from ...text import did_you_mean, one_line, safe_text
from . import images
from .events import EVENTS, event, previews_of, streamed
from .requests import Bad, Refused, aside, body_of, call, described, json_object

if TYPE_CHECKING:
    import numpy as np
    from starlette.requests import Request

    from ...hookspecs import Task
    from .repository import Repository, Target
    from .watched import Progress

MOST_FIELDS = 1000
PREVIEWS, MOST_PREVIEWS = 5, 50
"""Of a call that is answered as events."""
ANY = ("", "*/*", "application/json", "application/*")


async def run_task(request: Request, repository: Repository, most: int) -> Response:
    """Runs a task: inputs by name in, outputs by name out, or one file if `Accept` asks for its type."""
    name, _, version = request.path_params["name"].partition(":")
    target = repository.find(f"{name}.{request.path_params['task']}", version or None)
    request.state.target = target
    output = _accepted(request.headers.get("accept", ""), target)
    looks = _looks(request.query_params.get("previews")) if output == EVENTS else 0
    body = await body_of(request, most)
    target.workers.check_room()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        values = await _form(request, body)
    elif kind in ("", "application/json", "application/x-www-form-urlencoded"):  # the last is what curl -d says
        values = json_object(body)
    else:
        raise Refused(415, "send application/json, or multipart/form-data with files")
    inputs = await aside(len(body), _inputs, target.task_name, target.task, values)
    if output == EVENTS:
        return await streamed(request, target, inputs, looks, _Events(target, inputs))
    outputs = await call(request, target, inputs)
    size = sum(array.nbytes for array in outputs.values())
    if output is None:
        return Response(await aside(size, _answer, target, inputs, outputs), media_type="application/json")
    port = target.task.outputs[output]
    form = kind_of(port).form_in(port, target.task.outputs)
    return Response(await aside(size, form.encode_batch, outputs[output], ""), media_type=form.media_type)


def _accepted(accept: str, target: Target) -> str | None:
    """The output whose file is the answer; None: all of them, as JSON; EVENTS: as events.

    Raises:
        Refused: none has that type.
    """
    asked = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    types = {}
    for name, port in target.task.outputs.items():
        types.setdefault(kind_of(port).form_in(port, target.task.outputs).media_type, name)
    for one in asked:
        if one in ANY:
            return None
        if one == EVENTS:
            return EVENTS
        if one in types:
            return types[one]
    there = ", ".join(["application/json", EVENTS, *filter(None, types)])
    raise Refused(406, f"{target.task_name} gives {there}")


def _looks(text: str | None) -> int:
    """How many previews a request wants."""
    if text is None:
        return PREVIEWS
    if not (text.isascii() and text.isdigit() and len(text) < 4 and int(text) <= MOST_PREVIEWS):
        raise Bad(f"previews is '{safe_text(text)[:80]}'; it must be 0 .. {MOST_PREVIEWS}")
    return int(text)


async def _form(request: Request, body: bytes) -> dict[str, Any]:
    """Files as bytes; other fields as JSON if they are that, else as text. A field that is there twice is a list."""

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(
            Headers(scope=request.scope), whole(), max_files=MOST_FIELDS, max_fields=MOST_FIELDS,
            max_part_size=len(body) + 1,
        )  # fmt: skip
        parser.spool_max_size = len(body) + 1  # nothing is written to the disk
        read = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError, ValueError) as e:
        raise Bad(f"the form cannot be read: {one_line(getattr(e, 'message', e))[:300]}") from None
    values: dict[str, list[Any]] = {}
    for name, value in read.multi_items():
        values.setdefault(name, []).append(_field(value) if isinstance(value, str) else await value.read())
    await read.close()
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _field(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _inputs(task_name: str, task: Task, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    for name in values:
        if name not in task.inputs:
            near = did_you_mean(name, task.inputs)
            raise UsageError(
                f"{task_name} has no input '{safe_text(name)[:80]}'; it takes {', '.join(task.inputs)}{near}"
            )
    ports = task.inputs
    given = {name: kind_of(ports[name]).from_request(name, ports[name], value) for name, value in values.items()}
    return complete(task_name, task, given, draw=True)


def _answer(target: Target, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> bytes:
    ports = target.task.outputs
    answer: dict[str, Any] = {
        "model": f"{target.name.removesuffix('.' + target.task_name)}:{target.version}",
        "task": target.task_name,
        "outputs": {name: kind_of(port).to_answer(port, outputs[name]) for name, port in ports.items()},
    }
    if seeds := drawn(target.task.inputs):
        answer["seed"] = inputs[seeds[0]].tolist()
    return msgspec.json.encode(answer)


class _Events:
    """The events of a call."""

    def __init__(self, target: Target, inputs: Mapping[str, np.ndarray]):
        self._target, self._inputs = target, inputs

    def progress(self, progress: Progress) -> bytes:
        ports, done = self._target.task.outputs, {"step": progress.step, "steps": progress.steps}
        sent = event("progress", done)
        if progress.preview is not None:
            looks = {name: previews_of(port, progress.preview[name]) for name, port in ports.items()}
            sent += event("preview", {**done, "outputs": {name: found for name, found in looks.items() if found}})
        return sent

    def result(self, outputs: Mapping[str, np.ndarray]) -> bytes:
        return event("result", _answer(self._target, self._inputs, outputs))

    def error(self, error: ZooError) -> bytes:
        status, text, _ = described(error)
        return event("error", {"error": text, "status": status})


def listed(repository: Repository) -> Response:
    """The models, their tasks, and what these take and give; `data` is the list that OpenAI's clients read."""
    models = []
    for served in repository.served:
        entry: dict[str, Any] = {"name": served.reference, "ready": served.is_ready}
        if served.problem:
            entry["problem"] = served.problem
        if found := served.opened:
            entry |= {"name": found.name, "version": found.version}
            entry["tasks"] = {
                name: {
                    "summary": task.summary,
                    "inputs": {n: kind_of(p).describe(p) for n, p in task.inputs.items()},
                    "outputs": {n: kind_of(p).describe(p) for n, p in task.outputs.items()},
                }
                for name, task in found.tasks.items()
            }
        models.append(entry)
    return JSONResponse({"object": "list", "data": images.entries(repository), "models": models})


def openapi(repository: Repository, version: str) -> Response:
    """The OpenAPI 3.1 document of the plain way, with a path for each task of each loaded model."""
    paths = {}
    for served in repository.served:
        if served.opened is None or not served.workers:
            continue
        name = f"{served.opened.name}:{served.opened.version}"
        for task_name, task in served.opened.tasks.items():
            paths[f"/v1/models/{name}/tasks/{task_name}"] = {"post": _operation(name, task_name, task)}
    info = {"title": "zoo serve", "version": version}
    return JSONResponse({"openapi": "3.1.0", "info": info, "paths": paths})


def _operation(name: str, task_name: str, task: Task) -> dict[str, Any]:
    ports = task.inputs
    properties = {n: {"description": _described(p), **kind_of(p).schema(p)} for n, p in ports.items()}
    required = [n for n, p in ports.items() if p.default is None and not kind_of(p).drawn]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    forms = (kind_of(port).form_in(port, task.outputs).media_type for port in task.outputs.values())
    gives: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}, EVENTS: {"schema": {"type": "string"}}}
    gives |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in forms if kind}
    error = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
    said = {"400": "a wrong input", "404": "no such model or task", "413": "too large", "503": "busy: repeat it later"}
    return {
        "operationId": f"{name}.{task_name}",
        "summary": task.summary,
        **({"x-part-of": task.part_of} if task.part_of else {}),
        "requestBody": {"content": {kind: {"schema": schema} for kind in ("application/json", "multipart/form-data")}},
        "responses": {
            "200": {"description": "the outputs", "content": gives},
            **{status: {"description": text, "content": error} for status, text in said.items()},
        },
    }


def _described(port: Any) -> str:
    limits = ", ".join(kind_of(port).limits(port))
    return ". ".join(filter(None, (port.summary, limits or kind_of(port).describe(port))))
