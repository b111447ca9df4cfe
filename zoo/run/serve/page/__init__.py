"""The page on `/`: forms for the tasks, made from the OpenAPI document, whose answers come as events.

Its files say nothing about the models, so that they need no key; the page asks for one when the server does.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

PATHS = {
    "/": ("index.html", "text/html"), "/page/style.css": ("style.css", "text/css"),
    "/page/page.mjs": ("page.mjs", "text/javascript"),
}  # fmt: skip
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:;"
    " media-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def file(request: Request) -> Response:
    """One of its files."""
    name, kind = PATHS[request.url.path]
    return Response((Path(__file__).parent / name).read_bytes(), headers=HEADERS, media_type=kind)
