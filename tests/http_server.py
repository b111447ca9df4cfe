"""A real web server on loopback that misbehaves on demand: `server.url("file", "cut_half")` cuts it in the middle.

Each behaviour is in `http_faults.py`, named for what it does; `BEHAVIOURS` lists them. The server counts requests per
behaviour and file, so that a fault can hit the first request only, and keeps them all, headers included, in `requests`.
"""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEHAVIOURS: dict[str, Callable[["Exchange"], None]] = {}
HUNG_SECONDS = 20.0  # what "for ever" is for a server in a test


class Ration:
    """Bytes of body that `rationed` sends, in all requests together; then it is silent until this is `over`."""

    def __init__(self, size: int):
        self.left, self.spent, self.over = size, threading.Event(), threading.Event()


@dataclass
class Request:
    behaviour: str
    name: str
    headers: dict[str, str]  # names in lower case
    sent: int = 0  # bytes of body that left
    ended: threading.Event = field(default_factory=threading.Event)  # answered, or given up


class FaultServer:
    """Serves a folder, or bytes by name, below `/<behaviour>/`. Use it as a context.

    Args:
        content: a folder, or file names with their bytes.
        rate: bytes a second of the behaviour `slow`.
    """

    def __init__(self, content: Path | dict[str, bytes], *, rate: int = 1 << 20, tls: object = None):
        from tests import http_faults  # noqa: F401 - fills BEHAVIOURS, and imports this module

        self.content, self.rate = content, rate
        self.requests: list[Request] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.closing = threading.Event()
        self.ration = Ration(0)
        server = self

        class Handler(_Handler):
            owner = server

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # clients that are killed are what this is for
        self.scheme = "https" if tls else "http"
        if tls:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        self.port = self.http.server_address[1]

    def __enter__(self) -> "FaultServer":
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def url(self, name: str = "registry.yaml", behaviour: str = "normal", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}/{behaviour}/{name}"

    def read(self, name: str) -> bytes | None:
        if isinstance(self.content, dict):
            return self.content.get(name)
        path = self.content / name
        return path.read_bytes() if path.is_file() else None

    def sent(self, name: str = "", *, since: int = 0) -> int:
        """Bytes of body sent so far, of all files or of those whose name ends so.

        Args:
            since: leave out this many requests, the first ones. A killed client's request may still be counting.
        """
        return sum(r.sent for r in self.requests[since:] if r.name.endswith(name))

    def count(self, name: str = "") -> int:
        """Requests so far."""
        return sum(r.name.endswith(name) for r in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        behaviour, _, name = self.path.lstrip("/").partition("?")[0].partition("/")
        request = Request(behaviour, name, {k.lower(): v for k, v in self.headers.items()})
        self.owner.requests.append(request)
        self.owner.counts[behaviour, name] += 1
        exchange = Exchange(self, request, self.owner.read(name), self.owner.counts[behaviour, name])
        try:
            with suppress(OSError):
                if exchange.body is None:
                    exchange.answer(404, b"no such file")
                else:
                    BEHAVIOURS[behaviour](exchange)
        finally:
            request.ended.set()


@dataclass
class Exchange:
    """One request and the ways to answer it."""

    handler: _Handler
    request: Request
    body: bytes
    nth: int  # 1 for the first request of this behaviour and file
    etag: str = field(default='"one"')

    @property
    def start(self) -> int:
        """Where the asked-for range begins; 0 without one."""
        return int(self.request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])

    @property
    def owner(self) -> FaultServer:
        return self.handler.owner

    def head(self, status: int, *headers: tuple[str, object], reason: str | None = None) -> None:
        self.handler.send_response(status, reason)
        for key, value in headers:
            self.handler.send_header(key, str(value))
        self.handler.end_headers()
        self.handler.wfile.flush()

    def send(self, data: bytes) -> None:
        for begin in range(0, len(data), 1 << 16):
            piece = data[begin : begin + (1 << 16)]
            self.request.sent += len(piece)  # first, so that no client holds bytes that are not counted yet
            try:
                self.handler.wfile.write(piece)
            except OSError:
                self.request.sent -= len(piece)
                raise

    def answer(self, status: int, body: bytes, *headers: tuple[str, object]) -> None:
        """A complete and honest answer."""
        self.head(status, ("Content-Length", len(body)), *headers)
        self.send(body)

    def ranged_head(self) -> int:
        """The headers of a good server's answer; returns where the body starts in the file."""
        same = self.request.headers.get("if-range", self.etag) == self.etag
        start = self.start if same else 0
        headers = [("ETag", self.etag), ("Content-Length", len(self.body) - start)]
        if start:
            self.head(206, *headers, ("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"))
        else:
            self.head(200, *headers)
        return start

    def ranged(self, stop: int | None = None) -> None:
        """What a good server does; with `stop`, only up to that byte of the file and then a closed connection."""
        start = self.ranged_head()
        self.send(self.body[start:stop])
        if stop is not None:
            self.close()

    def close(self, *, reset: bool = False) -> None:
        self.handler.close_connection = True
        if reset:
            self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.handler.connection.close()
        else:
            self.handler.connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        self.owner.closing.wait(HUNG_SECONDS)
        self.close()


def behaviour(function: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    BEHAVIOURS[function.__name__] = function
    return function


def first_then_normal(function: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    """The fault at the first request of a file, a good answer at every later one."""

    def either(x: Exchange) -> None:
        function(x) if x.nth == 1 else x.ranged()

    BEHAVIOURS[function.__name__] = either
    return either
