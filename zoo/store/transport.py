"""Downloads: resumed where they stopped, with a limit on every wait, and without trust in the server.

A server is not trusted: the lengths it states are compared, not relied on; its redirects are followed and checked here;
its text reaches a message only through `safe_text`. The store checks the bytes by their digest. So plain http is
allowed for files, but never as the target of a redirect from https.
"""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

from ..errors import NotFoundError, TransportError, ZooError
from ..system.files import sniff_file
from ..system.paths import read_file
from ..system.urls import path_of, shown, without_secrets
from ..text import human_bytes, safe_text, sniff, warn

if TYPE_CHECKING:
    import requests
    import tenacity

T = TypeVar("T")

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # without a single byte
SLOW_SECONDS = 30.0  # fewer than SLOW_RATE bytes/s for this long is a stall: some servers only drip
SLOW_RATE = 1024
TRIES = 5  # requests per file in a row that bring nothing, including the first
SMALL_TRIES = 2  # for a registry, which usually has a cached copy
BACKOFF_SECONDS = 0.5  # before the second try; doubled before each further one, with jitter
BACKOFF_MOST_SECONDS = 10.0
TELL_SECONDS = 4.0  # a longer wait is announced
RETRY_AFTER_MOST_SECONDS = 60.0  # the longest wait that a server may ask for
REDIRECTS = 5
CHUNK = 1 << 18

_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_ABSENT_STATUS = {403, 404, 410}
_REDIRECT_STATUS = {301, 302, 303, 307, 308}


class _RetryableError(TransportError):
    """A temporary failure. `retry_after` is the wait that the server asked for, in seconds."""

    def __init__(self, message: str, retry_after: float = 0.0):
        super().__init__(message)
        self.retry_after = retry_after


class AbsentError(TransportError):
    """The server has no such file; object stores that may not list their files answer 403."""


def fetch(url: str, size: int, offset: int = 0) -> Iterator[bytes]:
    """The bytes `offset` .. `size` of a URL, in order, with as many requests as it takes.

    A request that brings bytes is not a failed one, however early it breaks off, unless the bytes come too slowly.

    Args:
        url: http, https, or a file URL that a local registry allowed.
        size: of the whole file, from the registry. More bytes are refused.

    Raises:
        TransportError: after the last try; the message says what happened and how far the download came.
    """
    if url.startswith("file:"):
        yield from _read_local(path_of(url), size, offset)
        return
    download = _Download(url, size, offset)
    for attempt in _retrying(TRIES, lambda: download.failed):
        with attempt:
            yield from download.proceed()


def read_small(url: str, limit: int) -> bytes:
    """A whole file of at most `limit` bytes.

    Raises:
        AbsentError: there is none.
        TransportError: it cannot be read, or is longer.
    """
    if url.startswith("file:"):
        body = _read_small_local(path_of(url), limit)
    else:
        body = _retrying(SMALL_TRIES)(_read_small_remote, url, limit)
    if len(body) > limit:
        raise TransportError(f"{shown(url)} has more than the allowed {limit:,} bytes")
    return body


# --- Local files ------------------------------------------------------------------------------------------------------


def _read_local(path: Path, size: int, offset: int) -> Iterator[bytes]:
    try:
        if not path.is_file():  # reading a FIFO could block forever
            raise TransportError(f"{safe_text(path)} is missing, or not a plain file")
        with path.open("rb", buffering=0) as f:
            f.seek(offset)
            position = offset
            while chunk := f.read(min(CHUNK, size + 1 - position)):
                position += len(chunk)
                if position > size:
                    break
                yield chunk
        if position != size:
            raise TransportError(
                f"{safe_text(path)} has {path.stat().st_size:,} bytes; the registry says {size:,}{sniff_file(path)}"
            )
    except OSError as e:
        raise TransportError(f"cannot read {safe_text(path)}: {e.strerror}") from None


def _read_small_local(path: Path, limit: int) -> bytes:
    try:
        return read_file(path, limit)
    except NotFoundError as e:
        raise AbsentError(str(e)) from None
    except ZooError as e:
        raise TransportError(str(e)) from None


# --- HTTP -------------------------------------------------------------------------------------------------------------


class _Download:
    """A download in progress: how much was passed on so far, and what is known about the server."""

    def __init__(self, url: str, size: int, offset: int):
        self.url, self.size, self.position = url, size, offset
        self.ranges = True  # until the server mishandles one
        self.etag = ""
        self.fruitless = self.stalls = 0
        self._mark = time.monotonic(), offset

    def proceed(self) -> Iterator[bytes]:
        """One request: the bytes from where the last one stopped. Raises if it stops before the end."""
        before = self.position
        try:
            yield from self._request()
        except _RetryableError:
            self.fruitless = self.fruitless + 1 if self.position == before else 0
            self._measure()
            raise

    @property
    def failed(self) -> int:
        """Requests in a row that brought nothing, or stretches of SLOW_SECONDS in a row that were too slow."""
        return max(self.fruitless, self.stalls)

    def _measure(self) -> None:
        """Counts stalls over several requests, waits included: each alone may be too short to tell."""
        since, begin = self._mark
        seconds = time.monotonic() - since
        if seconds >= SLOW_SECONDS:
            self.stalls = self.stalls + 1 if self.position - begin < SLOW_RATE * seconds else 0
            self._mark = time.monotonic(), self.position

    def _request(self) -> Iterator[bytes]:
        if self.position == self.size:
            return
        headers = {}
        if self.position and self.ranges:
            headers["Range"] = f"bytes={self.position}-"
            if self.etag:
                headers["If-Range"] = self.etag  # a changed file comes whole; its prefix is skipped here
        with closing(_open(self.url, headers)) as response:
            skip = self._bytes_to_skip(response)
            etag = response.headers.get("ETag", "")
            self.etag = etag if etag.startswith('"') else ""  # a weak one says nothing about the bytes
            yield from self._read(response, skip)

    def _bytes_to_skip(self, response: "requests.Response") -> int:
        """The number of bytes before `position` at the start of this answer. Raises for an unusable answer."""
        status = response.status_code
        if status == 200:
            return self.position
        if status == 206 and self.position:
            match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
            if match and int(match[1]) == self.position:
                return 0
            self.ranges = False
            raise _RetryableError(f"{shown(self.url)} sent another part of the file than requested")
        if status == 416:
            self.ranges = False
            raise _RetryableError(f"{shown(self.url)} says that the file ends before byte {self.position:,}")
        raise TransportError(f"{shown(self.url)} answered {status} to a plain request")

    def _read(self, response: "requests.Response", skip: int) -> Iterator[bytes]:
        received, first = 0, b""
        begin = self.position - skip
        for chunk in _chunks(response, self.size + 1 - begin):
            if begin == 0 and len(first) < 512:
                first += chunk[:512]
            before, received = received, received + len(chunk)
            if begin + received > self.size:
                raise TransportError(
                    f"{shown(self.url)} sends more than the {self.size:,} bytes stated in the registry{sniff(first)}"
                )
            if received > skip:
                fresh = chunk[max(0, skip - before) :]
                self.position += len(fresh)
                yield fresh
            if begin + received == self.size:
                return
        if _stated_length(response) == received:  # then the file itself is short, and another try changes nothing
            raise TransportError(
                f"{shown(self.url)} has {begin + received:,} bytes; the registry says {self.size:,}{sniff(first)}"
            )
        end = begin + received
        raise _RetryableError(f"{shown(self.url)}: connection cut at {human_bytes(end)} of {human_bytes(self.size)}")


def _stated_length(response: "requests.Response") -> int | None:
    stated = response.headers.get("Content-Length", "")
    return int(stated[:18]) if stated.isascii() and stated.isdigit() else None


def _read_small_remote(url: str, limit: int) -> bytes:
    body = bytearray()
    with closing(_open(url, {})) as response:
        if response.status_code != 200:
            raise TransportError(f"{shown(url)} answered {response.status_code} to a plain request")
        for chunk in _chunks(response, limit + 1):
            body += chunk
        if len(body) < min(_stated_length(response) or 0, limit):
            raise _RetryableError(f"{shown(url)}: connection cut at {human_bytes(len(body))}")
    return bytes(body)


def _chunks(response: "requests.Response", limit: int) -> Iterator[bytes]:
    """The body as it arrives, at most `limit` bytes; ends early if it breaks off, raises if it comes too slowly."""
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    url = response.url
    waited, arrived = 0.0, 0
    while limit:
        before = time.monotonic()
        try:
            chunk = response.raw.read1(min(CHUNK, limit), decode_content=False)
        except ReadTimeoutError:
            raise _RetryableError(f"{shown(url)} sent nothing for {SILENCE_SECONDS:g} s") from None
        except (HTTPError, HTTPException, OSError, ValueError):  # cut off, or a chunk length that is not a number
            chunk = b""
        if not chunk:
            return
        limit -= len(chunk)
        waited, arrived = waited + time.monotonic() - before, arrived + len(chunk)
        if waited > SLOW_SECONDS:
            if arrived < SLOW_RATE * SLOW_SECONDS:
                raise _RetryableError(f"{shown(url)} sent only {arrived:,} bytes in {waited:.0f} s: stalled")
            waited, arrived = 0.0, 0
        yield chunk


def _open(url: str, headers: dict[str, str]) -> "requests.Response":
    """The answer to a GET, its body not yet read, after at most five checked redirects.

    The status is 200, 206 or 416; the body has no content encoding.
    """
    check_url(url)
    here = url
    for _ in range(REDIRECTS + 1):
        response = _within(CONNECT_SECONDS + SILENCE_SECONDS, here, lambda: _get(here, headers))  # noqa: B023
        if response.status_code not in _REDIRECT_STATUS:
            break
        response.close()
        here = _redirected(here, response.headers.get("Location", ""))
    else:
        raise TransportError(f"{shown(url)} redirects more than {REDIRECTS} times")
    try:
        _check_answer(response, here)
    except BaseException:
        response.close()
        raise
    return response


def _redirected(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
    except ValueError:
        raise TransportError(f"{shown(url)} redirects to '{shown(location)}', which is not a URL") from None
    check_url(target, url)
    return target


def _check_answer(response: "requests.Response", url: str) -> None:
    status = response.status_code
    if status in _TEMPORARY_STATUS:
        raise _RetryableError(f"{shown(url)} answered {_status(response)}", _retry_after(response))
    if status not in (200, 206, 416):
        kind = AbsentError if status in _ABSENT_STATUS else TransportError
        raise kind(f"{shown(url)} answered {_status(response)}")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise TransportError(
            f"{shown(url)} sent the file with Content-Encoding '{safe_text(encoding)[:40]}' although asked not to"
        )


def check_url(url: str, previous: str | None = None) -> None:
    """Refuses a URL that must not be requested: other schemes, passwords, odd characters, https to http.

    Args:
        previous: the URL that redirected to this one.
    """
    came = f" ({shown(previous)} redirects to it)" if previous else ""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError:
        raise TransportError(f"'{shown(url)}' is not a URL{came}") from None
    if parts.scheme not in ("http", "https"):
        raise TransportError(f"'{shown(url)}' is not fetched: only http and https are{came}")
    if not host or re.search(r"[\\\x00-\x20\x7f]", url):
        raise TransportError(f"'{shown(url)}' is not a URL{came}")
    if "@" in parts.netloc:
        raise TransportError(f"{shown(url)}: a URL must not contain a user name or password{came}")
    if previous and urlsplit(previous).scheme == "https" and parts.scheme == "http":
        raise TransportError(f"{shown(previous)} redirects from https to http, which anyone in between could change")


def _get(url: str, headers: dict[str, str]) -> "requests.Response":
    import requests
    from requests import exceptions

    # Proxies come from the environment, and so does the CA file, since requests does not know SSL_CERT_FILE.
    ca = next(filter(None, map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))), "")
    headers = {"Accept-Encoding": "identity", "User-Agent": "zoo"} | headers
    session = requests.Session()
    try:
        # No `auth`, not even from ~/.netrc: the registry, not the user, decides which hosts are asked. The adapter is
        # called directly because `session.send` reads the whole body of a redirect, however long it is.
        request = session.prepare_request(requests.Request("GET", url, headers, auth=lambda prepared: prepared))
        settings = session.merge_environment_settings(url, {}, stream=True, verify=ca or True, cert=None)
        adapter = session.get_adapter(url)
        return adapter.send(request, timeout=(CONNECT_SECONDS, SILENCE_SECONDS), **settings)
    except exceptions.ProxyError as e:
        raise _RetryableError(f"{shown(url)}: no connection: {_cause(e)}{_proxy(url)}") from None
    except exceptions.SSLError as e:
        raise TransportError(
            f"{shown(url)}: no trusted TLS connection: {_cause(e)} (certificates: {safe_text(ca) or 'certifi'};"
            " set SSL_CERT_FILE to use others)"
        ) from None
    except exceptions.ConnectTimeout:
        raise _RetryableError(f"{shown(url)}: no connection within {CONNECT_SECONDS:g} s{_proxy(url)}") from None
    except exceptions.Timeout:
        raise _RetryableError(f"{shown(url)}: no answer within {SILENCE_SECONDS:g} s{_proxy(url)}") from None
    except exceptions.InvalidURL:
        raise TransportError(f"'{shown(url)}' is not a URL") from None
    except exceptions.ConnectionError as e:
        raise _RetryableError(f"{shown(url)}: no connection: {_cause(e)}{_proxy(url)}") from None
    except (exceptions.RequestException, OSError, ValueError) as e:
        raise TransportError(f"{shown(url)}: {_cause(e)}") from None


def _within(seconds: float, url: str, call: Callable[[], T]) -> T:
    """The call's result, with a time limit: name lookups and slowly dripping headers have no timeout of their own."""
    outcome: list = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as e:
            outcome.append((None, e))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _RetryableError(f"{shown(url)}: no answer within {seconds:g} s")
    result, error = outcome[0]
    if error:
        raise error
    return result


# --- Tries and words --------------------------------------------------------------------------------------------------


def _retrying(tries: int, failed: Callable[[], int] | None = None) -> "tenacity.Retrying":
    """Retries after temporary failures, with growing, jittered waits, or after the wait that the server asks for.

    Args:
        failed: how many tries in a row failed; None counts all of them.
    """
    from tenacity import Retrying, retry_if_exception_type

    def count(state: "tenacity.RetryCallState") -> int:
        return state.attempt_number if failed is None else failed()

    def wait(state: "tenacity.RetryCallState") -> float:
        error = state.outcome and state.outcome.exception()
        asked = error.retry_after if isinstance(error, _RetryableError) else 0.0
        backoff = min(BACKOFF_SECONDS * 2 ** (count(state) - 1), BACKOFF_MOST_SECONDS) if count(state) else 0.0
        return max(backoff + random.uniform(0, BACKOFF_SECONDS), min(asked, RETRY_AFTER_MOST_SECONDS))

    def tell(state: "tenacity.RetryCallState") -> None:
        if state.upcoming_sleep >= TELL_SECONDS:
            warn("%s; retrying in %.0f s", state.outcome and state.outcome.exception(), state.upcoming_sleep)

    return Retrying(
        retry=retry_if_exception_type(_RetryableError),
        stop=lambda state: count(state) >= tries,
        wait=wait,
        before_sleep=tell,
        reraise=True,
    )


def _retry_after(response: "requests.Response") -> float:
    """Seconds that the server asks to wait; 0 if it says nothing sensible."""
    from email.utils import parsedate_to_datetime

    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _status(response: "requests.Response") -> str:
    return f"{response.status_code} {safe_text(response.reason or '')[:80]}".rstrip()


def _proxy(url: str) -> str:
    """` through the proxy …` if the environment names one for this URL, without its password."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url))
    return f" through the proxy {safe_text(proxy.rpartition('@')[2])}" if proxy else ""


def _cause(error: BaseException) -> str:
    """The innermost reason of an error wrapped by requests and urllib3, shortened."""
    seen = error
    for _ in range(8):
        inner = getattr(seen, "reason", None) or next((a for a in seen.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    text = getattr(seen, "strerror", None) or str(seen)
    return safe_text(without_secrets(text.rpartition("): ")[2]))[:200]
