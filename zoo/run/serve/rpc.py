"""The Open Inference Protocol over gRPC: the same codec, queue and errors as over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import ParseDict

from ...errors import StoreError, UsageError, ZooError
from ...text import one_line, safe_text
from . import protocol
from .messages import METHODS, PACKAGE, SERVICE, messages
from .requests import Bad, Refused, aside, status_of
from .watching import Answered
from .workers import Unavailable

if TYPE_CHECKING:
    import numpy as np

    from ...hookspecs import Task
    from .app import State
    from .repository import Target

MOST_CALLS = 1024
OPEN = ("ServerLive", "ServerReady")
"""What needs no key: probes have none."""
OVERHEAD_BYTES = 1 << 20  # of a message, beside its tensors

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 404: grpc.StatusCode.NOT_FOUND,
    501: grpc.StatusCode.UNIMPLEMENTED, 503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
"""What HTTP's statuses are here; others are INTERNAL."""

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""The field of each datatype's values; FP16 has none."""


def decode(request: Any, task_name: str, task: Task) -> protocol.Request:
    """A request from a `ModelInferRequest`, its values raw or in `contents`.

    Raises:
        UsageError, InvalidFileError: one line that says what is wrong with it.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise UsageError(f"there are {len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    tensors = []
    for number, given in enumerate(request.inputs):
        parameters, data = _plain(given.parameters), None
        if raw:
            if given.HasField("contents"):
                raise UsageError(f"{safe_text(given.name)[:80]} has both contents and raw_input_contents")
            parameters["binary_data_size"] = len(raw[number])
        else:
            parameters.pop("binary_data_size", None)
            fields = given.contents.ListFields()
            used = CONTENTS.get(given.datatype)
            if other := next((field.name for field, _ in fields if field.name != used), None):
                wanted = f"in {used}" if used else "raw"
                raise UsageError(
                    f"{safe_text(given.name)[:80]} has its values in {other};"
                    f" {safe_text(given.datatype)[:80]} belongs {wanted}"
                )
            data = list(getattr(given.contents, used)) if used else []
        tensors.append(protocol.Tensor(given.name, list(given.shape), given.datatype, parameters, data))
    wanted = [protocol.Wanted(output.name, _plain(output.parameters)) for output in request.outputs]
    parameters = _plain(request.parameters) | {"binary_data_output": True}
    body = protocol.Body(tensors, request.id, parameters, wanted)
    return protocol.decode_body(body, memoryview(b"".join(raw)), task_name, task)


def _plain(parameters: Any) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice}


def encode(answer: Any, request: protocol.Request, model: str, version: int, outputs: dict[str, np.ndarray]) -> Any:
    """Fills a `ModelInferResponse`; values are raw."""
    answer.model_name, answer.model_version, answer.id = model, str(version), request.id
    for name in request.outputs:
        array = outputs[name]
        answer.outputs.add(name=name, datatype=protocol.DATATYPES[array.dtype.name], shape=array.shape)
        answer.raw_output_contents.append(protocol.raw(array))
    return answer


class Rpc(grpc.GenericRpcHandler):
    """The server. `start` binds it, `stop` ends it.

    Args:
        host: an IP address.
        port: 0 chooses a free one.
    """

    def __init__(self, state: State, host: str, port: int):
        self._state, self._repository, self._host, self.port = state, state.repository, host, port
        self._messages = messages()

    async def start(self) -> None:
        """
        Raises:
            StoreError: the port is in use, or the address is none of this machine.
        """
        most = self._state.most_bytes + OVERHEAD_BYTES
        options = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", most))
        self._server = grpc.aio.server(handlers=[self], options=options, maximum_concurrent_rpcs=MOST_CALLS)
        address = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self.port = self._server.add_insecure_port(f"{address}:{self.port}") or 0
        except RuntimeError:
            where = f"{self._host}, port {self.port}"
            raise StoreError(
                f"cannot serve gRPC on {where}: it is in use, or not of this machine; choose another --grpc-port"
            ) from None
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        await self._server.stop(seconds)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method, as gRPC asks for it."""
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if service != f"{PACKAGE}.{SERVICE}":
            return None
        if method not in METHODS:
            return grpc.stream_stream_rpc_method_handler(partial(_not_here, safe_text(method)[:80]))
        return grpc.unary_unary_rpc_method_handler(
            self._answered(method, getattr(self, method)),
            request_deserializer=self._messages[f"{method}Request"].FromString,
            response_serializer=self._messages[f"{method}Response"].SerializeToString,
        )

    def _answered(self, method: str, handler: Callable[[Any, list[Target]], Awaitable[Any]]) -> Any:
        """With who may ask, errors as codes, and those who watch told."""
        state = self._state

        async def handle(request: Any, context: Any) -> Any:
            begun, status, size = time.monotonic(), 499, 0
            targets: list[Target] = []
            state.in_work += 1
            try:
                given = dict(context.invocation_metadata() or ()).get("authorization", "")
                if method not in OPEN and not state.knows(given):
                    raise Refused(401, "send a key in the metadata: authorization: Bearer KEY")
                if state.draining and method not in OPEN:
                    raise Unavailable("the server is stopping")
                answer = await handler(request, targets)
                status, size = 200, answer.ByteSize()
                return answer
            except ZooError as e:
                status = status_of(e)
                if isinstance(e, Unavailable):
                    context.set_trailing_metadata((("grpc-retry-pushback-ms", str(round(e.after * 1000))),))
                await context.abort(CODES.get(status, grpc.StatusCode.INTERNAL), one_line(e))
            except asyncio.CancelledError:
                raise
            except BaseException:
                status = 500
                raise
            finally:
                state.in_work -= 1
                seconds, target = time.monotonic() - begun, targets[0] if targets else None
                client = context.peer().partition(":")[2].rpartition(":")[0]
                path = f"/{PACKAGE}.{SERVICE}/{method}"
                for watcher in state.watchers:
                    watcher.answered(Answered(client, "grpc", "POST", path, status, seconds, size, target))

        return handle

    def _made(self, name: str, fields: dict[str, Any]) -> Any:
        return ParseDict(fields, self._messages[name](), ignore_unknown_fields=True)

    def _target(self, name: str, version: str, targets: list[Target]) -> Target:
        targets.append(self._repository.find(name, version or None))
        return targets[0]

    # --- The methods: each gets its request, and a list for the task that it is about ---

    async def ServerLive(self, request: Any, targets: list[Target]) -> Any:
        return self._made("ServerLiveResponse", {"live": True})

    async def ServerReady(self, request: Any, targets: list[Target]) -> Any:
        return self._made("ServerReadyResponse", {"ready": self._state.is_ready})

    async def ServerMetadata(self, request: Any, targets: list[Target]) -> Any:
        return self._made("ServerMetadataResponse", self._state.metadata())

    async def ModelReady(self, request: Any, targets: list[Target]) -> Any:
        try:
            target = self._target(request.name, request.version, targets)
        except Unavailable:
            return self._made("ModelReadyResponse", {"ready": False})
        return self._made("ModelReadyResponse", {"ready": target.served.is_ready and not self._state.draining})

    async def ModelMetadata(self, request: Any, targets: list[Target]) -> Any:
        target = self._target(request.name, request.version, targets)
        versions = self._repository.versions(target.name)
        return self._made("ModelMetadataResponse", protocol.metadata(target.name, versions, target.task))

    async def ModelConfig(self, request: Any, targets: list[Target]) -> Any:
        target = self._target(request.name, request.version, targets)
        config = protocol.configuration(target.name, target.version, target.task)
        return self._made("ModelConfigResponse", {"config": config})

    async def ModelStatistics(self, request: Any, targets: list[Target]) -> Any:
        if request.name:
            self._target(request.name, request.version, targets)
        return self._made("ModelStatisticsResponse", {"model_stats": self._repository.statistics(request.name)})

    async def ModelInfer(self, request: Any, targets: list[Target]) -> Any:
        target = self._target(request.model_name, request.model_version, targets)
        target.workers.check_room()
        asked = await aside(request.ByteSize(), decode, request, target.task_name, target.task)
        outputs = await target.workers.run(target.task_name, asked.inputs)
        answer, size = self._messages["ModelInferResponse"](), sum(array.nbytes for array in outputs.values())
        return await aside(size, encode, answer, asked, target.name, target.version, outputs)

    async def RepositoryIndex(self, request: Any, targets: list[Target]) -> Any:
        return self._made("RepositoryIndexResponse", {"models": self._repository.index(request.ready)})

    async def RepositoryModelLoad(self, request: Any, targets: list[Target]) -> Any:
        if request.parameters:
            raise Bad("a model is loaded as it was named when the server was started; it takes no parameters")
        for served in self._repository.of(request.model_name):
            await self._repository.load(served)
        return self._made("RepositoryModelLoadResponse", {})

    async def RepositoryModelUnload(self, request: Any, targets: list[Target]) -> Any:
        for served in self._repository.of(request.model_name):
            await self._repository.unload(served)
        return self._made("RepositoryModelUnloadResponse", {})


async def _not_here(method: str, requests: Any, context: Any) -> None:
    text = f"this server has no {method}; it has {', '.join(METHODS)}"
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
