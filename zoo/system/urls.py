"""URLs that users and registries give: taken apart, joined and shown, here only.

A URL may contain secrets: a user name and password, or a token in its query. So whatever prints one calls `shown`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from ..errors import InvalidFileError
from ..text import safe_text

_MOST_SHOWN = 300

_START = r"(?:(?<![^\s'\"])[/\\]{2,}|\b[a-z][a-z0-9+.-]+:[/\\]*|\bhttps?[/\\]+)"
_ALMOST_USER = re.compile(rf"({_START})[^\s/\\'\"]*@(?!sha256:)", re.IGNORECASE)
_ALMOST_QUERY = re.compile(r"(\bhttps?:?[/\\]+[^\s'\"?]*)\?[^\s'\"]+", re.IGNORECASE)
_USER_WITH_SPACES = re.compile(r"([a-z][a-z0-9+.-]*://)[^'\"\n/?#@]*:[^'\"\n/?#]*@", re.IGNORECASE)
"""What is almost a URL, since a slash or colon is missing or wrong: a user name and password, or a query, in it. The
name and version in front of `@sha256:` are not a user."""


def split(url: str) -> SplitResult:
    """The parts of a URL; reading its host and port is safe.

    Raises:
        InvalidFileError: it is not a URL.
    """
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port  # reading them checks them
    except ValueError:
        raise InvalidFileError(f"'{shown(url)}' is not a URL") from None
    return parts


def join(base: str, url: str) -> str:
    """A URL that is relative to another one, as an absolute one.

    It keeps the base's query, which may be the token that grants access, unless it has its own or is on another host.

    Raises:
        InvalidFileError: it is not a URL.
    """
    try:
        joined = urljoin(base, url)
    except ValueError:
        raise InvalidFileError(f"'{shown(url)}' is not a URL") from None
    before, after = split(base), split(joined)
    same = (before.scheme, before.netloc) == (after.scheme, after.netloc)
    return after._replace(query=before.query).geturl() if same and before.query and not after.query else joined


def shown(url: str) -> str:
    """A URL for people: without its user name, password and query, and safe for a terminal."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    authority = re.split(r"[/\\?#]", rest, maxsplit=1)[0] if separator else ""
    if "@" in authority:
        rest = f"***@{authority.rpartition('@')[2]}{rest[len(authority) :]}"
    elif separator and "@" in rest and not re.fullmatch(r"(\[.*\]|[^:]*)(:[0-9]*)?", authority):
        rest = f"***@{rest.rpartition('@')[2]}"  # a password with a / or ? in it
    place, query, _ = re.sub("#.*", "", rest, flags=re.DOTALL).partition("?")
    text = scheme + separator + place + ("?***" if query else "")
    return safe_text(_ALMOST_USER.sub(r"\1***@", text))[:_MOST_SHOWN]


def without_secrets(text: str) -> str:
    """A text, e.g. a command line, with every URL in it as `shown` shows it."""
    text = _USER_WITH_SPACES.sub(r"\1***@", text)
    text = re.sub(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"]+", lambda found: shown(found[0]), text)
    return _ALMOST_QUERY.sub(r"\1?***", _ALMOST_USER.sub(r"\1***@", text))


def path_of(url: str) -> Path:
    """The path of a file:// URL, whatever bytes its name has.

    Raises:
        InvalidFileError: it names a host, or contains a NUL.
    """
    parts = split(url)
    if parts.netloc not in ("", "localhost"):
        raise InvalidFileError(f"{shown(url)}: a file URL must not name a host")
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if "\0" in path:
        raise InvalidFileError(f"{shown(url)}: a path cannot contain a NUL")
    return Path(path)
