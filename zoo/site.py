"""Serves a folder on the loopback address, for a page that computes in the browser."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import unquote

MAX_POST_BYTES = 256 << 20
REQUEST_SECONDS = 10.0  # within which a request's headers must have arrived
POST_SECONDS = 60.0  # and the body of a POST
ANSWER_SECONDS = 600.0  # for the answer
SILENCE_SECONDS = 30.0  # without a byte sent or read by the browser
MOST_CONNECTIONS = 64  # a thread each; browsers open six


class Site(ThreadingHTTPServer):
    """A server for one folder on 127.0.0.1; call `serve_forever` and `shutdown`.

    A connection that takes longer than allowed is closed, and with MOST_CONNECTIONS open, the one that would be closed
    next makes room for a new one. Errors of connections are silent: a browser that leaves early is not news.

    Args:
        port: 0 chooses a free one.
        on_post: called with path and body of each POST; None refuses POSTs.
    """

    daemon_threads = True
    request_queue_size = 1024  # a full queue makes a browser wait for a second or more

    def __init__(self, folder: Path, port: int = 0, on_post: Callable[[str, bytes], None] | None = None):
        self.folder, self.on_post = folder, on_post
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # when to close it, as time.monotonic() counts
        super().__init__(("127.0.0.1", port), partial(_Handler, self))

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the address's name, which asks a name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT/`."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a connection's thread; at the limit, the one that would be closed next is closed for it."""
        with self._lock:
            if len(self._open) >= MOST_CONNECTIONS:
                self._hang_up(min(self._open, key=self._open.__getitem__))
            self._open[request] = time.monotonic() + REQUEST_SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forgets a connection that has ended."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second: closes the connections that have taken too long."""
        now = time.monotonic()
        with self._lock:
            for connection in [c for c, deadline in self._open.items() if deadline < now]:
                self._hang_up(connection)

    def allow(self, connection: socket.socket, seconds: float) -> None:
        """Sets the time after which a connection is closed."""
        with self._lock:
            if connection in self._open:
                self._open[connection] = time.monotonic() + seconds

    def _hang_up(self, connection: socket.socket) -> None:
        """Ends a connection; its thread, which waits for it, then ends too."""
        del self._open[connection]
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a browser that went away early, which is no fault."""
        if not isinstance(sys.exception(), OSError):  # then it is a bug
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    timeout = SILENCE_SECONDS  # of a single read or write

    # Not from the system's table, which knows .mjs and .wasm only on some machines.
    extensions_map = {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def __init__(self, site: Site, *args: Any):
        self.site = site
        super().__init__(*args, directory=str(site.folder))  # answers the request

    def handle_one_request(self) -> None:
        self.close_connection = True
        super().handle_one_request()

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        # Another page's script cannot read what is served here, not even under its own name for 127.0.0.1 (DNS
        # rebinding).
        if self.headers.get("Host", "").partition(":")[0] not in ("127.0.0.1", "localhost"):
            self.send_error(403, "only 127.0.0.1")
            return False
        self.site.allow(self.connection, POST_SECONDS if self.command == "POST" else ANSWER_SECONDS)
        return True

    def send_head(self) -> Any:
        try:
            if "\0" not in unquote(self.path.partition("?")[0]):
                return super().send_head()
        except ValueError:  # text that cannot be a file's name, or a URL
            pass
        self.send_error(400)
        return None

    def end_headers(self) -> None:
        # Threads in WebAssembly need a page that is isolated from others.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", length, re.ASCII) or "Transfer-Encoding" in self.headers:
            self.send_error(400)
            return
        if self.site.on_post is None or int(length) > MAX_POST_BYTES:
            self.send_error(405)
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.send_error(400)
            return
        self.site.allow(self.connection, ANSWER_SECONDS)
        self.site.on_post(self.path, body)
        self.send_response(204)
        self.end_headers()

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass
