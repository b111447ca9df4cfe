"""What both ways to ask have in common: reading a body within limits, calling, and answering errors in one line."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from ...errors import NotFoundError, UsageError, ZooError
from ...text import human_bytes, one_line
from .workers import Late, Unavailable

if TYPE_CHECKING:
    import numpy as np
    from starlette.requests import Request

    from .repository import Target

T = TypeVar("T")

MAX_BODY_BYTES = 64 << 20
BODY_SECONDS = 60.0  # within which a body must have arrived
ASIDE_BYTES = 64 << 10
"""Larger bodies and answers are coded in a thread, so that other requests do not wait for them."""


class Refused(ZooError):
    """A request that is answered with a status of its own."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Bad(ZooError):
    """A request that is wrong: 400, whatever kind of error said so."""


async def body_of(request: Request, most: int) -> bytes:
    """The body of a request, decompressed.

    Raises:
        Refused: it is too large, or takes too long.
        Bad: it is compressed in an unknown or broken way.
    """
    too_large = Refused(413, f"the body has more than {human_bytes(most)}")
    stated = request.headers.get("content-length", "0")
    if not (stated.isascii() and stated.isdigit() and len(stated) < 19 and int(stated) <= most):
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the body took more than {BODY_SECONDS:g} s to arrive") from None
    body, coding = b"".join(parts), request.headers.get("content-encoding", "identity").lower()
    if coding == "identity":
        return body
    if coding not in ("gzip", "deflate"):
        raise Refused(415, "Content-Encoding must be gzip, deflate or identity")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either of the two, by its first bytes
    try:
        unpacked = unpacker.decompress(body, most + 1)
    except zlib.error as e:
        raise Bad(f"the body is not {coding}: {one_line(e)[:200]}") from None
    if len(unpacked) > most:
        raise too_large
    if not unpacker.eof:
        raise Bad(f"the body is not {coding}: it is cut short")
    return unpacked


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, which may be empty.

    Raises:
        Bad: it is something else.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Bad(f"the body is not a JSON object: {one_line(e)[:300]}") from None


async def aside(size: int, function: Callable[..., T], *args: Any) -> T:
    """What the function gives for a body of that size; large ones in a thread. Its errors are the client's."""
    try:
        return function(*args) if size < ASIDE_BYTES else await asyncio.to_thread(function, *args)
    except Bad:
        raise
    except ZooError as e:
        raise Bad(str(e)) from None


async def call(request: Request, target: Target, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a task; a client that goes away takes its call with it."""
    running = asyncio.ensure_future(target.run(inputs))
    left = asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({running, left}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise Refused(499, "the client went away")
        return running.result()
    finally:
        await end(running, left)


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks, and waits until they have ended."""
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError, ZooError):
            await task


async def gone(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


STATUS: dict[type[ZooError], int] = {Bad: 400, UsageError: 400, NotFoundError: 404, Unavailable: 503, Late: 504}


def status_of(error: ZooError) -> int:
    if isinstance(error, Refused):
        return error.status
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


def described(error: Exception) -> tuple[int, str, dict[str, str]]:
    """The status, the line and the headers of an error's answer: 400 and 404 for what is wrong with the request, 503
    for what may be repeated, 504 for what takes too long, 500 for a model that does not do what it says."""
    headers = {}
    if isinstance(error, HTTPException):
        status, text, headers = error.status_code, error.detail, dict(error.headers or {})
    else:
        status, text = status_of(error) if isinstance(error, ZooError) else 500, str(error)
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, round(error.after)))
    return status, one_line(text), headers


def answer_error(error: Exception) -> Response:
    """An error as JSON with one line, and its status."""
    status, text, headers = described(error)
    return JSONResponse({"error": text}, status, headers)


Handler = Callable[["Request"], Awaitable[Response]]


def answered(handler: Handler, answer: Callable[[Exception], Response] = answer_error) -> Handler:
    """A handler whose errors become answers; a bug stays one."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ZooError as e:
            return answer(e)

    return handle
