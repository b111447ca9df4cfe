"""The addresses: those of the Open Inference Protocol under /v2, the plain way under /v1."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import images, page, plain, protocol, telemetry
from .requests import (
    MAX_BODY_BYTES,
    Bad,
    Refused,
    answer_error,
    answered,
    aside,
    body_of,
    call,
    json_object,
)
from .watching import CONTENT_TYPE, AccessLog, Answered, Metrics
from .workers import Unavailable

if TYPE_CHECKING:
    from starlette.requests import Request

    from .repository import Repository, Target

EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")
NOT_HERE = ("systemsharedmemory", "cudasharedmemory", "trace", "logging")
"""Extensions of Triton that are answered with a line that says so."""
OPEN = ("/v2/health/live", "/v2/health/ready", *page.PATHS)
"""What needs no key: probes have none, and the page asks for one."""

SWALLOW_SECONDS = 2.0
"""For the rest of a body that nobody wants, before the connection is closed."""


@dataclass
class State:
    """What the server and its addresses share."""

    repository: Repository
    version: str  # of zoo
    keys: Collection[str] = ()
    hosts: Collection[str] = ()  # that requests may name; empty: any
    most_bytes: int = MAX_BODY_BYTES
    draining: bool = False
    in_work: int = 0
    watchers: list[Metrics | AccessLog] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.repository)
        self.watchers.append(self.metrics)

    @property
    def is_ready(self) -> bool:
        """Whether every model that was loaded can take calls."""
        loaded = [served for served in self.repository.served if served.workers]
        return not self.draining and bool(loaded) and all(served.is_ready for served in loaded)

    def metadata(self) -> dict[str, Any]:
        """What the protocol tells about the server."""
        return {"name": "zoo", "version": self.version, "extensions": list(EXTENSIONS)}

    def knows(self, authorization: str) -> bool:
        """Whether a header `Authorization` has one of the keys, or none is needed."""
        given = authorization.removeprefix("Bearer ").encode("utf-8", "replace")
        found = [hmac.compare_digest(given, key.encode()) for key in self.keys]  # never fewer comparisons
        return any(found) or not self.keys


def application(state: State) -> Callable[..., Awaitable[None]]:
    """The ASGI application."""
    repository, v2 = state.repository, _V2(state)

    async def tasks(request: Request) -> Response:
        return await plain.run_task(request, repository, state.most_bytes)

    async def models(request: Request) -> Response:
        return plain.listed(repository)

    async def metrics(request: Request) -> Response:
        return Response(state.metrics.text(), media_type=CONTENT_TYPE)

    async def model_entry(request: Request) -> Response:
        return images.entry(repository, request.path_params["name"])

    async def draw(request: Request) -> Response:
        return await images.generate(request, repository, state.most_bytes)

    async def openapi(request: Request) -> Response:
        return plain.openapi(repository, state.version)

    async def http_error(request: Request, error: Exception) -> Response:
        return _answer_for(request.url.path)(error)

    model = "/v2/models/{model}"
    gets: dict[str, Any] = {
        "/v2": v2.server, "/v2/health/live": v2.live, "/v2/health/ready": v2.ready, "/v2/models/stats": v2.statistics,
        "/v1/models": models, "/v1/models/{name}": model_entry, "/openapi.json": openapi, "/metrics": metrics,
        **dict.fromkeys(page.PATHS, page.file),
    }  # fmt: skip
    posts: dict[str, Any] = {
        "/v2/repository/index": v2.index,
        "/v2/repository/models/{model}/load": v2.load,
        "/v2/repository/models/{model}/unload": v2.unload,
        "/v1/models/{name}/tasks/{task}": tasks,
        "/v1/images/generations": draw,
    }
    for start in (model, model + "/versions/{version}"):
        gets |= {start: v2.model, start + "/ready": v2.model_ready}
        gets |= {start + "/config": v2.configuration, start + "/stats": v2.statistics}
        posts[start + "/infer"] = v2.infer
    routes = []
    for method, handlers in (("GET", gets), ("POST", posts)):
        for path, handler in handlers.items():
            routes.append(Route(path, answered(handler, _answer_for(path)), methods=[method]))
    for name in NOT_HERE:
        for path in (f"/v2/{name}", f"/v2/{name}/{{rest:path}}", model + f"/{name}/{{rest:path}}"):
            routes.append(Route(path, answered(_not_here(name)), methods=["GET", "POST"]))
    routes.append(Route(model + "/trace/setting", answered(_not_here("trace")), methods=["GET", "POST"]))
    return telemetry.traced(_Guard(state, Starlette(routes=routes, exception_handlers={HTTPException: http_error})))


def _answer_for(path: str) -> Callable[[Exception], Response]:
    """The form of errors of an address."""
    return images.answer_error if path.startswith(images.START) else answer_error


def _not_here(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        raise Bad(f"this server has no {name}; its extensions are {', '.join(EXTENSIONS)}")

    return handle


class _V2:
    """The handlers of the Open Inference Protocol."""

    def __init__(self, state: State):
        self._state, self._repository = state, state.repository

    def _target(self, request: Request) -> Target:
        target = self._repository.find(request.path_params["model"], request.path_params.get("version"))
        request.state.target = target
        return target

    async def server(self, request: Request) -> Response:
        return JSONResponse(self._state.metadata())

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        return JSONResponse({"ready": self._state.is_ready}, 200 if self._state.is_ready else 503)

    async def model(self, request: Request) -> Response:
        target = self._target(request)
        versions = self._repository.versions(target.name)
        return JSONResponse(protocol.metadata(target.name, versions, target.task))

    async def model_ready(self, request: Request) -> Response:
        target = self._target(request)
        ready = target.served.is_ready and not self._state.draining
        return JSONResponse({"name": target.name, "ready": ready}, 200 if ready else 503)

    async def configuration(self, request: Request) -> Response:
        target = self._target(request)
        return JSONResponse(protocol.configuration(target.name, target.version, target.task))

    async def infer(self, request: Request) -> Response:
        target = self._target(request)
        body = await body_of(request, self._state.most_bytes)
        target.workers.check_room()
        length = request.headers.get(protocol.HEADER_LENGTH)
        asked = await aside(len(body), protocol.decode, body, length, target.task_name, target.task)
        outputs = await call(request, target, asked.inputs)
        size = sum(array.nbytes for array in outputs.values())
        content, headers = await aside(size, protocol.encode, asked, target.name, target.version, outputs)
        return Response(content, headers=headers)

    async def index(self, request: Request) -> Response:
        asked = json_object(await body_of(request, self._state.most_bytes))
        return JSONResponse(self._repository.index(bool(asked.get("ready"))))

    async def load(self, request: Request) -> Response:
        if json_object(await body_of(request, self._state.most_bytes)).get("parameters"):
            raise Bad("a model is loaded as it was named when the server was started; it takes no parameters")
        for served in self._repository.of(request.path_params["model"]):
            await self._repository.load(served)
        return Response(b"{}", media_type="application/json")

    async def unload(self, request: Request) -> Response:
        for served in self._repository.of(request.path_params["model"]):
            await self._repository.unload(served)
        return Response(b"{}", media_type="application/json")

    async def statistics(self, request: Request) -> Response:
        asked = request.path_params.get("model", "")
        if asked:
            self._target(request)
        return JSONResponse({"model_stats": self._repository.statistics(asked)})


class _Guard:
    """Before the addresses: who may ask, and whether the server is about to stop."""

    def __init__(self, state: State, app: Any):
        self._state, self._app = state, app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        state, arrived, begun = self._state, False, time.monotonic()
        status, size = 499, 0
        scope["state"] = {}

        async def receive_on() -> Any:
            nonlocal arrived
            message = await receive()
            arrived = arrived or not message.get("more_body", False)
            return message

        async def send_on(message: Any) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            size += len(message.get("body", b""))
            if state.draining and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
                with suppress(TimeoutError):  # closing with a part of the body unread would reset the connection
                    async with asyncio.timeout(SWALLOW_SECONDS):
                        while not arrived:
                            await receive_on()
            await send(message)

        state.in_work += 1
        try:
            refused = self._refused(scope)
            await (_answer_for(scope["path"])(refused) if refused else self._app)(scope, receive_on, send_on)
        finally:
            state.in_work -= 1
            client = (scope.get("client") or ("",))[0]
            seconds, target = time.monotonic() - begun, scope["state"].get("target")
            for watcher in state.watchers:
                watcher.answered(
                    Answered(client, "http", scope["method"], scope["path"], status, seconds, size, target)
                )

    def _refused(self, scope: Any) -> Exception | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        # Another page's script must not ask what is served here, not even under its own name for 127.0.0.1 (DNS
        # rebinding).
        host = headers.get(b"host", "")
        if self._state.hosts and host.rpartition(":")[0 if ":" in host else 2] not in self._state.hosts:
            return Refused(403, "this server answers only on this machine; --host lets others ask")
        origin = headers.get(b"origin", "")
        same = headers.get(b"sec-fetch-site") == "same-origin"  # said by the browser; a proxy may have changed the host
        if origin and not same and origin.partition("://")[2] != host:
            return Refused(403, "this server does not answer pages of other servers")
        if scope["path"] not in OPEN and not self._state.knows(headers.get(b"authorization", "")):
            return HTTPException(401, "send a key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        if self._state.draining and scope["method"] == "POST":
            return Unavailable("the server is stopping")
        return None
