"""The server of a folder: loopback alone, the right types, nothing outside the folder."""

import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from subprocess import PIPE

import pytest

from tests import tiny
from tests.children import IGNORING_SIGINT, started
from zoo.site import Site


@pytest.fixture
def site(tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("hello")
    (tmp_path / "page" / "app.mjs").write_text("1")
    (tmp_path / "page" / "run.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret").write_text("secret")
    posts = []
    with Site(tmp_path / "page", on_post=lambda path, body: posts.append((path, body))) as server:
        server.posts = posts
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(url, data=None, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read()


def test_it_serves_files_with_their_types_and_isolated(site):
    status, headers, body = ask(site.url)
    assert (status, body) == (200, b"hello") and site.url.startswith("http://127.0.0.1:")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert ask(f"{site.url}app.mjs")[1]["Content-Type"] == "text/javascript; charset=utf-8"
    assert ask(f"{site.url}run.wasm")[1]["Content-Type"] == "application/wasm"


@pytest.mark.parametrize("path", ["../secret", "%2e%2e/secret", "..%2fsecret", "nothing"])
def test_nothing_outside_of_the_folder(site, path):
    status, _, body = ask(site.url + path)
    assert status == 404 and b"secret" not in body.replace(b"/secret", b"")


def test_another_name_for_this_machine_is_refused(site):
    assert ask(site.url, Host="evil.example")[0] == 403


def test_posts_go_to_whoever_asked_for_them(site, tmp_path):
    assert ask(f"{site.url}out/x.bin", b"123")[0] == 204 and site.posts == [("/out/x.bin", b"123")]
    with Site(tmp_path / "page") as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        assert ask(other.url, b"123")[0] == 405
        other.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("before", [(), IGNORING_SIGINT], ids=["alone", "ignoring"])
def test_play_serves_a_model_s_page_until_it_is_interrupted(tmp_path, before):
    tiny.bundle(tmp_path / "model")
    command = [sys.executable, "-m", "zoo", "play", str(tmp_path / "model"), "--no-browser"]
    environment = os.environ | {"ZOO_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    with started([*before, *command], stdout=PIPE, stderr=PIPE, text=True, env=environment) as play:
        url = play.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), play.stderr.read()
        assert b"app.mjs" in ask(url)[2] and b'"name": "tiny"' in ask(f"{url}model.json")[2]
        play.send_signal(signal.SIGINT)
        _, said = play.communicate(timeout=30)
    assert play.returncode == 0 and said == "stopped\n"
    assert not list(tmp_path.glob("zoo-play-*"))
