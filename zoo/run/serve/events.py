"""Answers as server-sent events: the steps of a call, with previews, and its outputs at the end.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import io
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from starlette.responses import Response, StreamingResponse

from ...errors import ZooError
from ...ports.kinds import kind_of
from .requests import Refused, aside, end, gone
from .watched import Progress, Watch

if TYPE_CHECKING:
    import numpy as np
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from ...hookspecs import Port
    from .repository import Target

EVENTS = "text/event-stream"
SILENCE_SECONDS = 15.0
"""After so long without an event, a comment is sent: proxies end connections that are silent."""
LARGEST_PREVIEW = 256  # pixels of the longer side


class Events(Protocol):
    """What the events of a call are, as bytes; empty: none."""

    def progress(self, progress: Progress) -> bytes: ...

    def result(self, outputs: Mapping[str, np.ndarray]) -> bytes: ...

    def error(self, error: ZooError) -> bytes: ...


def event(name: str, data: Any) -> bytes:
    """An event with JSON, or with bytes of JSON."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data if isinstance(data, bytes) else msgspec.json.encode(data))


def previews_of(port: Port, array: np.ndarray) -> list[str]:
    """An output as small PNG files in base64, one for each element; empty if it is nothing to look at."""
    found = []
    for image in kind_of(port).images(array):
        image.thumbnail((LARGEST_PREVIEW, LARGEST_PREVIEW))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        found.append(b64encode(buffer.getvalue()).decode())
    return found


async def streamed(
    request: Request, target: Target, inputs: Mapping[str, np.ndarray], previews: int, events: Events
) -> Response:
    """The answer to a call as events. It begins with the first step: what fails before it is an ordinary error.

    Raises:
        ZooError: as `Workers.run`, before the first step.
    """
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[Progress | None] = asyncio.Queue()  # None: it is done; bounded by the steps
    watch = Watch(lambda progress: loop.call_soon_threadsafe(news.put_nowait, progress), previews)
    running = asyncio.ensure_future(target.run(inputs, watch))
    running.add_done_callback(lambda done: news.put_nowait(None))
    first, left = asyncio.ensure_future(news.get()), asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({first, left}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            raise Refused(499, "the client went away")
        if running.done():
            running.result()
    except BaseException:
        await end(running, first)
        raise
    finally:
        await end(left)
    return _Streamed(_bodies(first.result(), news, running, events), running)


async def _bodies(
    progress: Progress | None, news: asyncio.Queue[Progress | None], running: asyncio.Task[Any], events: Events
) -> AsyncIterator[bytes]:
    while progress:
        size = sum(array.nbytes for array in (progress.preview or {}).values())
        if sent := await aside(size, events.progress, progress):
            yield sent
        while True:
            with suppress(TimeoutError):
                progress = await asyncio.wait_for(news.get(), SILENCE_SECONDS)
                break
            yield b": it still runs\n\n"
    try:
        outputs = await running
    except ZooError as e:
        yield events.error(e)
    else:
        yield await aside(sum(array.nbytes for array in outputs.values()), events.result, outputs)


class _Streamed(StreamingResponse):
    """Ends its call with the connection, even if nothing of it was sent."""

    def __init__(self, bodies: AsyncIterator[bytes], running: asyncio.Task[Any]):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second: nginx must not collect them
        super().__init__(bodies, media_type=EVENTS, headers=headers)
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await end(self._running)
