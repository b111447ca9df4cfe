"""Serves a folder on the loopback address, for a page that computes in the browser."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

MAX_POST_BYTES = 256 << 20


class Site(ThreadingHTTPServer):
    """A server for one folder on 127.0.0.1; call `serve_forever` and `shutdown`.

    Args:
        port: 0 chooses a free one.
        on_post: called with path and body of each POST; None refuses POSTs.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0, on_post: Callable[[str, bytes], None] | None = None):
        self.folder, self.on_post = folder, on_post
        super().__init__(("127.0.0.1", port), partial(_Handler, self))

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the address's name, which asks a name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT/`."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(SimpleHTTPRequestHandler):
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
        return True

    def end_headers(self) -> None:
        # Threads in WebAssembly need a page that is isolated from others.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.site.on_post is None or length > MAX_POST_BYTES:
            self.send_error(405)
            return
        self.site.on_post(self.path, self.rfile.read(length))
        self.send_response(204)
        self.end_headers()

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass
