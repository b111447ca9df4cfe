"""What odd, slow and abandoned requests do to the server of a page: an answer or a closed connection, and no output."""

import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from subprocess import PIPE

import pytest

from tests import tiny
from tests.children import started
from zoo import site as sites
from zoo.site import Site

HOST = b"Host: 127.0.0.1\r\n"


@pytest.fixture
def site(tmp_path):
    (tmp_path / "page" / "sub").mkdir(parents=True)
    (tmp_path / "page" / "index.html").write_text("hello")
    (tmp_path / "page" / "large.bin").write_bytes(bytes(32 << 20))
    posts = []
    with Site(tmp_path / "page", on_post=lambda path, body: posts.append(body)) as server:
        server.posts = posts
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def connect(site) -> socket.socket:
    return socket.create_connection(site.server_address[:2], timeout=20)


def raw(site, request: bytes) -> bytes:
    """The whole answer to a request's bytes."""
    with connect(site) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
        return answer


def status(site, request: bytes) -> int:
    line = raw(site, request).partition(b"\r\n")[0]
    assert line.startswith(b"HTTP/1.0 "), line
    return int(line.split()[1])


def get(site, path: str = "/") -> int:
    return status(site, b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n")


def handler_threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def wait_until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["/%00", "/a%00b", "/%00/..", "/index.html%00.txt", "/%ED%A0%80", "/sub%00/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_path_that_no_file_can_have_is_a_bad_request(site, path, method, capfd):
    assert status(site, f"{method} {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n") in (400, 404)
    if "%00" in path:
        assert status(site, f"{method} {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n") == 400
    assert get(site) == 200 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "path", ["/" + "a" * 5000, "/" + "a/" * 5000, "//[", "http://[", "/sub", "//[/../sub", "*", "?"]
)
def test_odd_path_is_answered(site, path, capfd):
    assert get(site, path) in (200, 301, 400, 403, 404)
    assert get(site) == 200 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("length", ["abc", "-1", "+3", "1_0", "0x3", "3.0", "3, 3", "\u0663".encode().decode("latin-1"),
                                    "", "9" * 30])  # fmt: skip
def test_length_that_is_not_a_number_is_a_bad_request(site, length, capfd):
    request = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n123".encode("latin-1")
    assert status(site, request) == 400
    assert site.posts == [] and get(site) == 200 and capfd.readouterr() == ("", "")


def test_chunks_and_half_a_body_are_bad_requests(site, capfd):
    post = b"POST / HTTP/1.1\r\n" + HOST
    assert status(site, post + b"Transfer-Encoding: chunked\r\n\r\n3\r\n123\r\n0\r\n\r\n") == 400
    with connect(site) as connection:
        connection.sendall(post + b"Content-Length: 10\r\n\r\n123")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100).startswith(b"HTTP/1.0 400")
    assert status(site, post + b"Content-Length: 999999999999\r\n\r\n") == 405
    assert site.posts == [] and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "request_",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\r\n\r\n",
     b"PUT / HTTP/1.1\r\n" + HOST + b"\r\n",
     b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100 + b"\r\n\r\n"],
)  # fmt: skip
def test_what_is_not_a_request_is_silent(site, request_, capfd):
    raw_or_reset(site, request_)
    assert get(site) == 200 and capfd.readouterr() == ("", "")


def raw_or_reset(site, request: bytes) -> None:
    with suppress(ConnectionError):  # it closes before it has read all of it
        raw(site, request)


def test_client_that_leaves_early_is_silent(site, capfd):
    for _ in range(20):
        connection = connect(site)
        connection.sendall(b"GET /large.bin HTTP/1.1\r\n" + HOST + b"\r\n")
        connection.recv(1000)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()  # with a reset
    wait_until(lambda: handler_threads() == 0)
    assert capfd.readouterr() == ("", "")


def test_a_bug_is_not_silent(site, capfd):
    site.on_post = lambda path, body: 1 / 0
    assert raw(site, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n123") == b""
    wait_until(lambda: "ZeroDivisionError" in capfd.readouterr().err)


# --- Slow ones, and many ----------------------------------------------------------------------------------------------


def test_request_that_drips_is_closed_in_time(site, monkeypatch, capfd):
    """Each byte comes in time: only a limit on the whole request ends it."""
    monkeypatch.setattr(sites, "REQUEST_SECONDS", 0.5)
    begin = time.monotonic()
    with connect(site) as connection, pytest.raises(ConnectionError):
        for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - begin < 10
    wait_until(lambda: handler_threads() == 0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n" + HOST])
def test_half_a_request_is_closed_in_time(site, monkeypatch, sent):
    monkeypatch.setattr(sites, "REQUEST_SECONDS", 0.3)
    with connect(site) as connection:
        connection.sendall(sent)
        assert b"200" not in connection.recv(1000)  # returns: it was closed


def test_half_a_body_is_closed_in_time(site, monkeypatch):
    monkeypatch.setattr(sites, "POST_SECONDS", 0.3)
    with connect(site) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n123")
        connection.recv(1000)
    wait_until(lambda: handler_threads() == 0)
    assert site.posts == []


def test_reader_that_stops_reading_is_closed_in_time(site, monkeypatch):
    monkeypatch.setattr(sites, "ANSWER_SECONDS", 0.3)
    with connect(site) as connection:
        connection.sendall(b"GET /large.bin HTTP/1.1\r\n" + HOST + b"\r\n")
        wait_until(lambda: handler_threads() == 1)
        wait_until(lambda: handler_threads() == 0)


def test_hundreds_of_half_requests_keep_nobody_out(site, monkeypatch):
    """Far more than connections are kept: a whole request between them is answered quickly, few threads stay, and the
    server closes all of them though no client does."""
    monkeypatch.setattr(sites, "REQUEST_SECONDS", 1.0)
    with ExitStack() as stack:
        half = [stack.enter_context(connect(site)) for _ in range(800)]
        for n, connection in enumerate(half):
            with suppress(ConnectionError):  # it was closed for a newer one
                connection.sendall(b"GET / HT")
            if n % 100 == 99:
                begin = time.monotonic()
                assert get(site) == 200 and time.monotonic() - begin < 3
                assert handler_threads() <= sites.MOST_CONNECTIONS + 20  # a few are just ending
        for connection in half:
            with suppress(ConnectionError):
                assert connection.recv(1) == b""
        wait_until(lambda: handler_threads() == 0)


def test_whole_requests_at_once_are_all_answered(site):
    answers = []
    clients = [threading.Thread(target=lambda: answers.append(get(site))) for _ in range(40)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert answers == [200] * 40


@contextmanager
def heard(number: int) -> Iterator[None]:
    """Processes that start in this context do not ignore the signal, and nor does this one."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


# --- The end of zoo play ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["serving", "starting"])
def test_play_that_is_ended_leaves_nothing(tmp_path, how, when):
    tiny.bundle(tmp_path / "model")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "zoo", "play", str(tmp_path / "model"), "--no-browser"]
    environment = os.environ | {"ZOO_HOME": str(tmp_path / "home"), "TMPDIR": str(temporary)}
    with (
        ExitStack() as stack,
        heard(signal.SIGHUP),  # a run in the background, with nohup, ignores it, and so would its children
        started(command, stdout=PIPE, stderr=PIPE, text=True, env=environment) as play,
    ):
        if when == "serving":
            address = play.stdout.readline().strip()
            port = int(address.rstrip("/").rpartition(":")[2])
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(b"GET / HT")
        else:
            wait_until(lambda: list(temporary.glob("zoo-play-*")), 60)
        play.send_signal(how)
        _, said = play.communicate(timeout=60)
    assert "Traceback" not in said
    assert play.returncode == (0 if when == "serving" else 128 + how)
    assert said == ("stopped\n" if when == "serving" else "")
    assert list(temporary.glob("zoo-*")) == []
