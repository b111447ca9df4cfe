"""A real web server on loopback that misbehaves on demand: `server.url("file", "cut_half")` cuts it in the middle.

Each behaviour is named for what it does; `BEHAVIOURS` lists them. The server counts requests per behaviour and file, so
that a fault can hit the first request only, and keeps them all, headers included, in `requests`.
"""

import itertools
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
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


@behaviour
def normal(x: Exchange) -> None:
    x.ranged()


@behaviour
def slow(x: Exchange) -> None:
    """Steadily, at the server's `rate`."""
    x.head(206 if x.start else 200, ("Content-Length", len(x.body) - x.start), ("Content-Range", _range(x)))
    step = max(1, x.owner.rate // 50)
    for begin in range(x.start, len(x.body), step):
        x.send(x.body[begin : begin + step])
        if x.owner.closing.wait(0.02):
            return


@behaviour
def rationed(x: Exchange) -> None:
    """As `normal`, until the server's `ration` is spent. For one client, which asks for one file after the other."""
    ration, start = x.owner.ration, x.ranged_head()
    piece = x.body[start : start + ration.left]
    ration.left -= len(piece)
    x.send(piece)
    if not ration.left:
        ration.spent.set()
        ration.over.wait(HUNG_SECONDS)
        x.close()


def _range(x: Exchange) -> str:
    return f"bytes {x.start}-{len(x.body) - 1}/{len(x.body)}"


# --- Cut, reset, stalled ----------------------------------------------------------------------------------------------


@first_then_normal
def cut_before_headers(x: Exchange) -> None:
    x.close()


@first_then_normal
def cut_0(x: Exchange) -> None:
    x.ranged(stop=x.start)


@first_then_normal
def cut_1(x: Exchange) -> None:
    x.ranged(stop=x.start + 1)


@first_then_normal
def cut_half(x: Exchange) -> None:
    x.ranged(stop=len(x.body) // 2)


@first_then_normal
def cut_99(x: Exchange) -> None:
    x.ranged(stop=len(x.body) * 99 // 100)


@behaviour
def cut_always(x: Exchange) -> None:
    """At the half, however often one asks."""
    x.ranged(stop=max(x.start, len(x.body) // 2))


@behaviour
def cut_often(x: Exchange) -> None:
    """Every 50,000 bytes, but each connection brings some."""
    x.ranged(stop=min(len(x.body), x.start + 50_000))


@behaviour
def cut_after_a_byte(x: Exchange) -> None:
    x.ranged(stop=x.start + 1)


@first_then_normal
def reset_half(x: Exchange) -> None:
    x.head(200, ("Content-Length", len(x.body)))
    x.send(x.body[: len(x.body) // 2])
    x.close(reset=True)


@first_then_normal
def stall(x: Exchange) -> None:
    x.head(200, ("Content-Length", len(x.body)))
    x.send(x.body[: len(x.body) // 2])
    x.hang()


@behaviour
def silent(x: Exchange) -> None:
    x.hang()


@behaviour
def drip(x: Exchange) -> None:
    """A byte now and then, which no time-out of a single read notices."""
    x.head(200, ("Content-Length", len(x.body)))
    for i in range(len(x.body)):
        x.send(x.body[i : i + 1])
        if x.owner.closing.wait(0.05):
            return


@behaviour
def drip_headers(x: Exchange) -> None:
    x.handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    deadline = time.monotonic() + HUNG_SECONDS
    while time.monotonic() < deadline and not x.owner.closing.wait(0.05):
        x.handler.wfile.write(b"a")


# --- Lengths that are wrong, missing or odd ---------------------------------------------------------------------------


@behaviour
def short(x: Exchange) -> None:
    x.answer(200, x.body[: len(x.body) // 2])


@behaviour
def long(x: Exchange) -> None:
    x.answer(200, x.body + b"more")


@behaviour
def endless(x: Exchange) -> None:
    x.head(200, ("Connection", "close"))
    x.send(x.body)
    for _ in itertools.count():
        x.send(b"\0" * 65536)


@behaviour
def no_length(x: Exchange) -> None:
    x.head(200, ("Connection", "close"))
    x.send(x.body)
    x.close()


@first_then_normal
def no_length_cut(x: Exchange) -> None:
    x.head(200, ("Connection", "close"))
    x.send(x.body[: len(x.body) // 2])
    x.close()


@behaviour
def negative_length(x: Exchange) -> None:
    x.head(200, ("Content-Length", -5), ("Connection", "close"))
    x.send(x.body)
    x.close()


@behaviour
def double_length(x: Exchange) -> None:
    x.head(200, ("Content-Length", len(x.body)), ("Content-Length", 3), ("Connection", "close"))
    x.send(x.body)
    x.close()


@behaviour
def junk_length(x: Exchange) -> None:
    x.head(200, ("Content-Length", "many"), ("Connection", "close"))
    x.send(x.body)
    x.close()


def _chunked(x: Exchange, data: bytes) -> None:
    for begin in range(0, len(data), 50_000):
        part = data[begin : begin + 50_000]
        x.handler.wfile.write(f"{len(part):x}\r\n".encode())
        x.send(part)
        x.handler.wfile.write(b"\r\n")


@behaviour
def chunked(x: Exchange) -> None:
    x.head(200, ("Transfer-Encoding", "chunked"))
    _chunked(x, x.body)
    x.handler.wfile.write(b"0\r\n\r\n")


@first_then_normal
def chunked_cut(x: Exchange) -> None:
    x.head(200, ("Transfer-Encoding", "chunked"))
    _chunked(x, x.body[: len(x.body) // 2])
    x.close()


@first_then_normal
def chunked_junk(x: Exchange) -> None:
    x.head(200, ("Transfer-Encoding", "chunked"))
    _chunked(x, x.body[:1000])
    x.handler.wfile.write(b"not a number\r\n")
    x.close()


# --- Ranges that are misunderstood ------------------------------------------------------------------------------------


@behaviour
def ignores_range(x: Exchange) -> None:
    """Cut at first; then the whole file with 200, although a part was asked for."""
    if x.nth == 1:
        return x.ranged(stop=len(x.body) // 2)
    x.answer(200, x.body)


@behaviour
def wrong_content_range(x: Exchange) -> None:
    """Cut at first; then 206 with the start of the file, and says so."""
    if x.nth == 1 or not x.start:
        return x.ranged(stop=len(x.body) // 2 if x.nth == 1 else None)
    x.answer(206, x.body, ("Content-Range", f"bytes 0-{len(x.body) - 1}/{len(x.body)}"))


@behaviour
def no_content_range(x: Exchange) -> None:
    if x.nth == 1 or not x.start:
        return x.ranged(stop=len(x.body) // 2 if x.nth == 1 else None)
    x.answer(206, x.body)


@behaviour
def shifted_range(x: Exchange) -> None:
    """Says the right part and sends another: only the digest can tell."""
    if x.nth == 1 or not x.start:
        return x.ranged(stop=len(x.body) // 2 if x.nth == 1 else None)
    x.answer(206, x.body[: len(x.body) - x.start], ("Content-Range", _range(x)))


@behaviour
def changed_between_tries(x: Exchange) -> None:
    """Other bytes and ETag at first, cut; the right ones later."""
    if x.nth == 1:
        x.etag, x.body = '"old"', bytes(len(x.body))
        return x.ranged(stop=len(x.body) // 2)
    x.ranged()


@behaviour
def unsatisfiable_range(x: Exchange) -> None:
    if x.nth == 1 or not x.start:
        return x.ranged(stop=len(x.body) // 2 if x.nth == 1 else None)
    x.answer(416, b"", ("Content-Range", f"bytes */{len(x.body) // 4}"))


@behaviour
def always_416(x: Exchange) -> None:
    x.answer(416, b"")


@behaviour
def expired_midway(x: Exchange) -> None:
    if x.nth == 1:
        return x.ranged(stop=len(x.body) // 2)
    x.answer(403, b"<?xml version='1.0'?><Error>expired</Error>")


# --- Statuses ---------------------------------------------------------------------------------------------------------


@behaviour
def missing(x: Exchange) -> None:
    x.answer(404, b"not here")


@behaviour
def unauthorized(x: Exchange) -> None:
    x.answer(401, b"", ("WWW-Authenticate", 'Basic realm="http://evil.example/token"'))


@first_then_normal
def error_500_once(x: Exchange) -> None:
    x.answer(500, b"oops")


@behaviour
def error_503(x: Exchange) -> None:
    x.answer(503, b"busy")


@first_then_normal
def busy_1_second(x: Exchange) -> None:
    x.answer(429, b"", ("Retry-After", 1))


@first_then_normal
def busy_until_a_date(x: Exchange) -> None:
    x.answer(503, b"", ("Retry-After", formatdate(time.time() + 1, usegmt=True)))


@first_then_normal
def busy_for_days(x: Exchange) -> None:
    x.answer(503, b"", ("Retry-After", 999_999))


@first_then_normal
def busy_junk(x: Exchange) -> None:
    x.answer(503, b"", ("Retry-After", "soon \x1b[31m"))


@behaviour
def hostile_reason(x: Exchange) -> None:
    x.handler.wfile.write(b"HTTP/1.1 410 Gone \x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n")


@behaviour
def no_http(x: Exchange) -> None:
    x.handler.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")
    x.close()


# --- Bodies and headers that are something else -----------------------------------------------------------------------


@behaviour
def html_page(x: Exchange) -> None:
    x.answer(200, b"<!DOCTYPE html><html><body>Please log in</body></html>", ("Content-Type", "text/html"))


@behaviour
def lfs_pointer(x: Exchange) -> None:
    x.answer(200, b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n")


@behaviour
def html_of_right_size(x: Exchange) -> None:
    x.answer(200, (b"<html>" + b"x" * len(x.body))[: len(x.body)])


@behaviour
def wrong_bytes(x: Exchange) -> None:
    x.answer(200, bytes(len(x.body)))


@behaviour
def flipped_bit(x: Exchange) -> None:
    x.answer(200, x.body[:-1] + bytes([x.body[-1] ^ 1]))


@behaviour
def gzipped(x: Exchange) -> None:
    import gzip

    x.answer(200, gzip.compress(x.body), ("Content-Encoding", "gzip"))


@behaviour
def many_headers(x: Exchange) -> None:
    x.head(200, *((f"X-{i}", "y") for i in range(5000)), ("Content-Length", len(x.body)))
    x.send(x.body)


@behaviour
def long_header(x: Exchange) -> None:
    x.head(200, ("X-Long", "y" * 200_000), ("Content-Length", len(x.body)))
    x.send(x.body)


@behaviour
def sets_cookie(x: Exchange) -> None:
    if x.nth == 1:
        x.head(200, ("Content-Length", len(x.body)), ("Set-Cookie", "id=secret; Path=/"))
        x.send(x.body[:10])
        return x.close()
    x.ranged()


# --- Redirects --------------------------------------------------------------------------------------------------------


def _redirect(x: Exchange, target: str) -> None:
    x.answer(302, b"", ("Location", target))


@behaviour
def redirect(x: Exchange) -> None:
    _redirect(x, f"../normal/{x.request.name}")


@behaviour
def redirect_other_host(x: Exchange) -> None:
    _redirect(x, x.owner.url(x.request.name, host="localhost"))


@behaviour
def redirect_loop(x: Exchange) -> None:
    _redirect(x, x.owner.url(x.request.name, "redirect_loop"))


@behaviour
def redirect_endless(x: Exchange) -> None:
    x.head(302, ("Location", x.owner.url(x.request.name)), ("Connection", "close"))
    for _ in itertools.count():
        x.send(bytes(65536))


@behaviour
def redirect_file(x: Exchange) -> None:
    _redirect(x, "file:///etc/hostname")


@behaviour
def redirect_ftp(x: Exchange) -> None:
    _redirect(x, "ftp://127.0.0.1/file")


@behaviour
def redirect_password(x: Exchange) -> None:
    _redirect(x, f"http://user:password@127.0.0.1:{x.owner.port}/normal/{x.request.name}")


@behaviour
def redirect_nowhere(x: Exchange) -> None:
    _redirect(x, "http://[::1")


@behaviour
def redirect_to_http(x: Exchange) -> None:
    _redirect(x, f"http://127.0.0.1:{x.owner.port}/normal/{x.request.name}")
