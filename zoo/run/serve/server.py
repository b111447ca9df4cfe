"""The server: uvicorn on a socket that is open already, with a limit on how long headers take, and an end that loses
nothing that was accepted."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any, Protocol

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ...errors import StoreError, UsageError, ZooError
from ...text import safe_text
from .app import State, application

HEADER_SECONDS = 10.0  # within which a request's headers must have arrived
KEEP_ALIVE_SECONDS = 75.0  # for the next request of a connection
MOST_CONNECTIONS = 1024
DRAIN_SECONDS = 0.5
"""How long it still answers after the signal, at least: clients learn with each answer that the connection ends."""
BACKLOG = 2048


class _Protocol(H11Protocol):
    """Closes a connection whose headers take too long, the first ones and those after an answer."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Starts the clock when the headers begin, and stops it when they are complete."""
        incomplete = self.conn.their_state is h11.IDLE and (self.cycle is None or bool(self.conn.trailing_data[0]))
        if not incomplete and self._deadline:
            self._deadline.cancel()
            self._deadline = None
        elif incomplete and not self._deadline:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)


class _Server(uvicorn.Server):
    """Leaves signals to `serve`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; 0 chooses a free port.

    Raises:
        UsageError: not an IP address; names are not looked up.
        StoreError: the port is in use, or the address is none of this machine.
    """
    try:
        host = str(ip_address("127.0.0.1" if host == "localhost" else host))
    except ValueError:
        raise UsageError(f"--host is '{safe_text(host)[:80]}'; it must be an IP address") from None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # For every connection: an answer's last part must not wait 40 ms until the client confirms the first. asyncio
        # sets it only where a socket names its protocol, which this one does not.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    except OSError as e:
        reason = os.strerror(e.errno or 0)
        raise StoreError(f"cannot serve on {host}, port {port}: {reason}; choose another --port") from None


class Beside(Protocol):
    """Another server with the same state, such as gRPC's."""

    async def start(self) -> None: ...

    async def stop(self, seconds: float) -> None: ...


async def serve(
    sock: socket.socket,
    state: State,
    said: Callable[[str], None],
    ready: Callable[[], None],
    wait: float,
    beside: Sequence[Beside] = (),
) -> None:
    """Loads the models, answers until SIGTERM or Ctrl-C, then ends: not ready, what was accepted is answered, workers
    last. A second signal ends it at once.

    Args:
        said: called with one line for each model that cannot be loaded; the others are served.
        ready: called when requests are answered.
        wait: seconds that what was accepted may take at the end.
        beside: other servers, started first and ended with this one.

    Raises:
        ZooError: no model can be loaded, or one of the other servers does not start.
    """
    loop, repository = asyncio.get_running_loop(), state.repository
    stopping, signals = asyncio.Event(), 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        stopping.set()
        if signals > 1:
            server.force_exit = True

    config = uvicorn.Config(
        application(state), http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, timeout_keep_alive=int(KEEP_ALIVE_SECONDS), limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=max(1, int(wait)),
    )  # fmt: skip
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    answering: asyncio.Task[None] | None = None
    started: list[Beside] = []
    try:
        for other in beside:
            await other.start()
            started.append(other)
        first: ZooError | None = None
        for served in repository.served:
            loading = asyncio.ensure_future(repository.load(served))
            ended = asyncio.ensure_future(stopping.wait())
            await asyncio.wait({loading, ended}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if stopping.is_set():
                await asyncio.wait({loading})  # a process that is being started must not be left
                return
            if (error := loading.exception()) is not None:
                if not isinstance(error, ZooError):
                    raise error
                first = first or error
                if len(repository.served) > 1:
                    said(f"{served.reference} is not served: {error}")
        if first and not any(served.workers for served in repository.served):
            raise first
        answering = asyncio.ensure_future(server.serve(sockets=[sock]))
        while not server.started and not answering.done():
            await asyncio.sleep(0.01)
        ready()
        await stopping.wait()
        await _drain(state, server, wait)
    finally:
        for other in started:
            await other.stop(0 if server.force_exit else DRAIN_SECONDS)
        server.should_exit = True
        if answering:
            await answering
        for served in repository.served:
            await repository.unload(served)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        with suppress(OSError):
            sock.close()


async def _drain(state: State, server: _Server, wait: float) -> None:
    """Answers what was accepted, then takes no more connections, then answers what those bring that it has.

    uvicorn alone closes every connection without a request at once, and thereby those that are just sending one.
    """
    state.draining = True
    end = time.monotonic() + wait
    for listens in (True, False):
        begin = time.monotonic()
        while not server.force_exit and time.monotonic() < end:
            if time.monotonic() - begin >= DRAIN_SECONDS and not state.in_work:
                break
            await asyncio.sleep(0.02)
        if listens:
            for one in server.servers:
                one.close()
