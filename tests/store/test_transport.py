import gc
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.http_server import BEHAVIOURS, FaultServer
from zoo.errors import TransportError
from zoo.store import transport

BODY = bytes(range(256)) * 4000  # 1,024,000 bytes: several reads


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Time-outs a hundredth of the real ones, so that every fault ends at once."""
    for name, seconds in {
        "CONNECT_SECONDS": 2.0, "SILENCE_SECONDS": 1.0, "SLOW_SECONDS": 0.4, "BACKOFF_SECONDS": 0.01,
        "BACKOFF_MOST_SECONDS": 0.05, "RETRY_AFTER_MOST_SECONDS": 1.2,
    }.items():  # fmt: skip
        monkeypatch.setattr(transport, name, seconds)


@pytest.fixture(scope="module")
def server():
    with FaultServer({"model.bin": BODY}) as server:
        yield server


SIZE = len(BODY)


def whole(url, size=SIZE, offset=0):
    return b"".join(transport.fetch(url, size, offset))


RIGHT_IN_THE_END = [
    "normal", "cut_before_headers", "cut_0", "cut_1", "cut_half", "cut_99", "reset_half", "stall", "no_length",
    "no_length_cut", "negative_length", "junk_length", "chunked", "chunked_cut", "chunked_junk", "ignores_range",
    "wrong_content_range", "no_content_range", "unsatisfiable_range", "error_500_once", "busy_1_second",
    "busy_until_a_date", "busy_for_days", "busy_junk", "sets_cookie", "redirect", "redirect_other_host",
    "redirect_endless", "cut_often",
]  # fmt: skip

REFUSED = {
    "cut_always": "connection cut at 512.0 kB of 1.0 MB",
    "cut_after_a_byte": "connection cut at",
    "silent": "no answer within 1 s",
    "drip": "stalled",
    "drip_headers": "no answer within",
    "short": "has 512,000 bytes; the registry says 1,024,000",
    "long": "sends more than the 1,024,000 bytes",
    "double_length": "",
    "always_416": "says that the file ends before byte 0",
    "expired_midway": "answered 403",
    "missing": "answered 404",
    "unauthorized": "answered 401",
    "error_503": "answered 503",
    "hostile_reason": r"answered 410 Gone \x1b]0;owned\x07",
    "no_http": "no connection",
    "html_page": "has 54 bytes; the registry says 1,024,000; it is an HTML page",
    "lfs_pointer": "it is a git-lfs pointer",
    "gzipped": "Content-Encoding 'gzip'",
    "many_headers": "",
    "long_header": "",
    "redirect_loop": "redirects more than 5 times",
    "redirect_file": "only http and https are",
    "redirect_ftp": "only http and https are",
    "redirect_password": "must not contain a user name or password",
    "redirect_nowhere": "is not a URL",
}

OTHER_BYTES = ["shifted_range", "changed_between_tries", "html_of_right_size", "wrong_bytes", "flipped_bit"]
"""Right in length: the store's digest finds them, the transport can't."""

ELSEWHERE = ["slow", "rationed", "endless", "redirect_to_http"]


def test_every_behaviour_of_the_server_is_expected_somewhere():
    assert sorted([*RIGHT_IN_THE_END, *REFUSED, *OTHER_BYTES, *ELSEWHERE]) == sorted(BEHAVIOURS)


@pytest.mark.parametrize("behaviour", RIGHT_IN_THE_END)
def test_fault_that_passes_gives_the_right_bytes(server, behaviour):
    before = server.count()
    assert whole(server.url("model.bin", behaviour)) == BODY
    assert server.count() - before <= (21 if behaviour == "cut_often" else 8)


# urllib3 leaves the connection of `double_length` open; threads that were given up end with their own time-out.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("behaviour", REFUSED)
def test_fault_that_stays_is_told(server, behaviour, monkeypatch):
    if behaviour in ("silent", "drip", "drip_headers"):
        monkeypatch.setattr(transport, "TRIES", 2)
    before = server.count()
    with pytest.raises(TransportError) as e:
        whole(server.url("model.bin", behaviour))
    message = str(e.value)
    del e
    gc.collect()  # here, where its warning is expected
    assert REFUSED[behaviour] in message
    assert message.isprintable() and len(message) < 400
    assert server.count() - before <= 8 or behaviour == "cut_after_a_byte"


@pytest.mark.parametrize("behaviour", OTHER_BYTES)
def test_other_bytes_have_the_right_length(server, behaviour):
    assert len(whole(server.url("model.bin", behaviour))) == len(BODY)


def test_endless_body_is_left_after_the_last_byte(server):
    passed = 0
    try:
        for chunk in transport.fetch(server.url("model.bin", "endless"), len(BODY)):
            passed += len(chunk)
    except TransportError as e:
        assert "sends more than the 1,024,000 bytes" in str(e)  # as the bytes fell into chunks
    assert passed <= len(BODY)


@pytest.mark.parametrize("offset", [1, 1000, len(BODY) - 1, len(BODY)])
@pytest.mark.parametrize("behaviour", ["normal", "ignores_range", "unsatisfiable_range", "cut_99"])
def test_offset_gives_the_rest_alone(server, behaviour, offset):
    assert whole(server.url("model.bin", behaviour), offset=offset) == BODY[offset:]


def test_server_that_cuts_every_connection_gets_the_whole_file_through():
    """More requests than tries, since each brings bytes; not a byte comes twice."""
    with FaultServer({"model.bin": BODY}) as server:
        assert whole(server.url("model.bin", "cut_often")) == BODY
        assert server.count() == -(-len(BODY) // 50_000) > transport.TRIES
        assert server.sent() == len(BODY)


def test_requests_that_bring_a_byte_each_end_as_a_stall():
    with FaultServer({"model.bin": BODY}) as server:
        begin = time.monotonic()
        with pytest.raises(TransportError, match="connection cut at"):
            whole(server.url("model.bin", "cut_after_a_byte"))
        assert time.monotonic() - begin < 2 * transport.TRIES * transport.SLOW_SECONDS + 5
        assert server.count() > 2 * transport.TRIES


def test_requests_that_bring_nothing_count_only_in_a_row(monkeypatch):
    """Four fruitless requests, one that brings bytes, and four more: the fifth in a row would be the last."""
    with FaultServer({"model.bin": BODY}) as server:
        url, download = server.url("model.bin"), transport._Download(server.url("model.bin"), SIZE, 0)
        received, fail = b"", transport._open

        def busy(*args):
            raise transport._RetryableError("busy")

        for bring in (False, False, False, False, True, False, False, False, False):
            monkeypatch.setattr(transport, "_open", fail if bring else busy)
            chunks = download.proceed()
            try:
                received += next(chunks)
                chunks.throw(transport._RetryableError("cut"))
            except TransportError:
                pass
            assert download.failed < transport.TRIES, url
        assert 0 < len(received) == download.position and download.failed == 4


def test_resume_asks_only_for_what_is_missing():
    with FaultServer({"model.bin": BODY}) as server:
        assert whole(server.url("model.bin", "cut_half")) == BODY
        first, second = server.requests
        assert "range" not in first.headers
        assert second.headers["range"] == f"bytes={len(BODY) // 2}-"
        assert second.headers["if-range"] == '"one"'
        assert server.sent() == len(BODY)


def test_identity_is_asked_for_and_cookies_and_passwords_are_not_sent(tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login canary password canary\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with FaultServer({"model.bin": BODY}) as server:
        whole(server.url("model.bin", "sets_cookie"))
        assert len(server.requests) == 2
        for request in server.requests:
            assert request.headers["accept-encoding"] == "identity"
            assert not {"cookie", "authorization"} & set(request.headers)


def test_retry_after_is_obeyed_but_capped(server):
    for behaviour, least in (("busy_1_second", 0.9), ("busy_for_days", 1.1)):
        server.counts.clear()
        begin = time.monotonic()
        whole(server.url("model.bin", behaviour))
        assert least <= time.monotonic() - begin < 30


def test_long_wait_is_announced(server, caplog, monkeypatch):
    monkeypatch.setattr(transport, "TELL_SECONDS", 0.5)
    server.counts.clear()
    whole(server.url("model.bin", "busy_1_second"))
    assert "answered 429 Too Many Requests; retrying in 1 s" in caplog.text


def test_caller_that_stops_early_closes_the_connection():
    with FaultServer({"model.bin": bytes(1 << 26)}) as server:  # more than the buffers of a connection take
        chunks = transport.fetch(server.url("model.bin"), 1 << 26)
        next(chunks)
        chunks.close()
        assert server.requests[0].ended.wait(30)
        assert server.sent() < 1 << 26


def test_nothing_is_asked_for_an_empty_file(server):
    before = server.count()
    assert whole(server.url("model.bin"), size=0) == b""
    assert server.count() == before


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "http://", "http://a b/", "http://127.0.0.1\\@evil/", "http://u:p@h/x",
     "http://h:99999/x", "http://[::1/x", "javascript:alert(1)", "//h/x", "", "http://h/\x1b[31m", "data:,x"],
)  # fmt: skip
def test_odd_url_is_refused_without_a_connection(url, monkeypatch):
    monkeypatch.setattr(transport, "_get", lambda *_: pytest.fail("a connection was made"))
    with pytest.raises(TransportError) as e:
        whole(url)
    assert str(e.value).isprintable()


def test_nobody_listens():
    with FaultServer({}) as server:
        url = server.url("model.bin")
    with pytest.raises(TransportError, match=r"no connection: .*Connection refused"):
        whole(url)


def test_unknown_host_is_told(monkeypatch):
    with pytest.raises(TransportError, match=r"Failed to resolve 'no-such-host\.invalid'"):
        whole("http://no-such-host.invalid/x")


def test_proxy_of_the_environment_is_used_and_named(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://user:canary@127.0.0.1:{server.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    before = server.count()
    with pytest.raises(TransportError):
        whole("http://models.invalid/missing/model.bin")  # the fault server is no proxy, but it was asked
    assert server.count() > before
    with FaultServer({}) as closed:
        pass
    monkeypatch.setenv("http_proxy", f"http://user:canary@127.0.0.1:{closed.port}")
    with pytest.raises(
        TransportError, match=rf"no connection: .*refused through the proxy .*127\.0\.0\.1:{closed.port}"
    ) as e:
        whole("http://models.invalid/x")
    assert "canary" not in str(e.value)


def test_query_of_a_url_stays_out_of_messages(server):
    with pytest.raises(TransportError) as e:
        whole(server.url("model.bin", "missing") + "?signature=canary")
    assert "canary" not in str(e.value)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def tls_server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with FaultServer({"model.bin": BODY}, tls=context) as server:
        yield server


@pytest.fixture
def no_ca_variables(monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_unknown_certificate_is_refused_and_the_ca_file_named(tls_server, no_ca_variables):
    with pytest.raises(TransportError, match=r"no trusted TLS connection.*certificates: certifi"):
        whole(tls_server.url("model.bin"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_ca_file_of_the_environment_is_used(tls_server, certificate, no_ca_variables, monkeypatch, variable):
    monkeypatch.setenv(variable, str(certificate / "cert.pem"))
    assert whole(tls_server.url("model.bin")) == BODY


def test_certificate_of_another_host_is_refused(tls_server, certificate, no_ca_variables, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    with pytest.raises(TransportError, match="no trusted TLS connection"):
        whole(tls_server.url("model.bin", host="localhost"))


def test_ca_file_that_is_missing_is_named(tls_server, no_ca_variables, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(TransportError, match=r"/nowhere/ca\.pem"):
        whole(tls_server.url("model.bin"))


def test_https_never_becomes_http(tls_server, certificate, no_ca_variables, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    with pytest.raises(TransportError, match="redirects from https to http"):
        whole(tls_server.url("model.bin", "redirect_to_http"))


# --- Files ------------------------------------------------------------------------------------------------------------


def test_file_url_is_read_from_an_offset(tmp_path):
    path = tmp_path / "a b.bin"
    path.write_bytes(BODY)
    assert whole(path.as_uri()) == BODY
    assert whole(path.as_uri(), offset=1_000_000) == BODY[1_000_000:]


def test_file_of_another_size_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(BODY)
    for size in (len(BODY) - 1, len(BODY) + 1):
        with pytest.raises(TransportError, match=f"has 1,024,000 bytes; the registry says {size:,}"):
            whole(path.as_uri(), size)


def test_file_that_is_missing_or_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo"):
        with pytest.raises(TransportError, match="is missing, or not a plain file"):
            whole((tmp_path / name).as_uri())


# --- Small files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", ["normal", "error_500_once", "cut_half", "chunked", "no_length", "redirect"])
def test_small_file(server, behaviour):
    server.counts.clear()
    assert transport.read_small(server.url("model.bin", behaviour), len(BODY)) == BODY


@pytest.mark.parametrize("behaviour", ["normal", "endless", "no_length"])
def test_small_file_that_is_not_small(server, behaviour):
    with pytest.raises(TransportError, match="more than the allowed 1,000 bytes"):
        transport.read_small(server.url("model.bin", behaviour), 1000)


@pytest.mark.parametrize("behaviour", ["silent", "missing", "cut_always", "gzipped", "redirect_file"])
def test_small_file_that_does_not_come(server, behaviour):
    with pytest.raises(TransportError):
        transport.read_small(server.url("model.bin", behaviour), len(BODY))


def test_small_local_file(tmp_path):
    path = tmp_path / "registry.yaml"
    path.write_bytes(b"x" * 1001)
    assert transport.read_small(path.as_uri(), 1001) == b"x" * 1001
    with pytest.raises(TransportError, match="more than the allowed 1,000 bytes"):
        transport.read_small(path.as_uri(), 1000)
    with pytest.raises(TransportError, match="No such file"):
        transport.read_small((tmp_path / "missing").as_uri(), 10)


def test_the_server_of_the_tests_has_counted_what_its_client_holds():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with FaultServer({"file": BODY[:2000]}) as server:
            for done in range(1, 201):
                urllib.request.urlopen(server.url("file")).read()
                assert server.sent() == 2000 * done
    finally:
        sys.setswitchinterval(interval)
