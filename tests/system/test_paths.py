"""Paths and URLs that users give."""

import os
import threading
import time
from pathlib import Path

import pytest

from zoo.errors import InvalidFileError, NotFoundError, StoreError, UsageError
from zoo.system import paths
from zoo.system.files import put_in_place, write_atomically
from zoo.system.paths import read_file, user_path, write_special
from zoo.system.urls import join, path_of, shown, without_secrets


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(paths, "PIPE_SECONDS", 0.3)


def test_a_tilde_is_expanded_and_an_unknown_user_is_one_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/x") == Path("/home/me/x")
    with pytest.raises(UsageError, match="there is no such user"):
        user_path("~no-such-user/x")
    with pytest.raises(UsageError, match="a path is empty"):
        user_path("")


@pytest.mark.parametrize("out", [False, True])
def test_a_url_is_not_a_path_and_its_secrets_are_masked(tmp_path, monkeypatch, out):
    """As a path it would be the folder `http:` in this one, and a bundle that is published into it is nowhere."""
    monkeypatch.chdir(tmp_path)
    for url in ("http://me:s3cret@example.org/x?token=s3cret", "s3://bucket/x.png", "http://" + "a" * 300, "file:///x"):
        with pytest.raises(UsageError, match="is a URL; give a file or folder on this machine") as refused:
            user_path(url, out=out)
        assert "s3cret" not in str(refused.value)
    assert user_path("./http://x", out=out) == Path("http:/x")
    assert user_path("c://x", out=out) == Path("c:/x")  # a drive of Windows


def test_what_the_system_refuses_is_named(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidFileError, match="Too many levels of symbolic links"):
        user_path(tmp_path / "loop")
    with pytest.raises(InvalidFileError, match="File name too long"):
        user_path("a" * 300)
    with pytest.raises(StoreError, match="cannot write a.*File name too long"):
        user_path("a" * 300, out=True)
    with pytest.raises(NotFoundError, match="does not exist"):
        read_file(user_path(tmp_path / "none"), 10)


def test_a_pipe_is_empty_without_a_writer_and_read_to_its_end_with_a_late_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    began = time.monotonic()
    assert read_file(pipe, 10, pipes=True) == b"" and time.monotonic() - began < 5
    with pytest.raises(InvalidFileError, match="is not a plain file"):
        read_file(pipe, 10)

    def write_late():
        time.sleep(0.1)
        with pipe.open("wb") as f:
            f.write(b"first ")
            f.flush()
            time.sleep(0.1)
            f.write(b"second")

    writer = threading.Thread(target=write_late)
    writer.start()
    assert read_file(pipe, 100, pipes=True) == b"first second"
    writer.join()


def test_a_pipe_that_nobody_reads_is_not_written_for_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="cannot write"):
        write_special(tmp_path / "pipe", b"x")


def test_an_endless_device_is_read_up_to_the_limit():
    assert len(read_file(Path("/dev/zero"), 1000, pipes=True)) == 1001


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://user:s3cret@h/x", "http://***@h/x"),
        ("https://s3cret@h:8/", "https://***@h:8/"),
        ("http://h/x?token=s3cret", "http://h/x?***"),
        ("http://h/x?a=1#s3cret", "http://h/x?***"),
        ("http://h/x#s3cret", "http://h/x"),
        ("http://u:s3/s3cret@h/x", "http://***@h/x"),
        ("http://u:s3?s3cret@h/x", "http://***@h/x"),
        ("http://u:a@s3cret@h/x", "http://***@h/x"),
        ("models/x?sig=s3cret", "models/x?***"),
        ("http://h/@scope/x", "http://h/@scope/x"),
        ("http://[::1]:8/x", "http://[::1]:8/x"),
        ("http://h/\x1b[31m", "http://h/\\x1b[31m"),
        ("http:/u:s3cret@h/x", "http:/***@h/x"),
        ("http:u:s3cret@h/x", "http:***@h/x"),
        ("https//u:s3cret@h/x", "https//***@h/x"),
        ("http:///u:s3cret@h/x", "http:///***@h/x"),
        ("//u:s3cret@h/x", "//***@h/x"),
        ("http:\\\\u:s3cret@h\\x", "http:\\\\***@h\\x"),
        ("http://u:s3c ret@h/x", "http://***@h/x"),
        ("https:/h/x?token=s3cret", "https:/h/x?***"),
        ("http://user:pw@h:80", "http://***@h:80"),
    ],
)
def test_secrets_of_a_url_are_masked(url, says):
    assert shown(url) == says
    assert SECRET not in without_secrets(f"zoo list --registry '{url}'") or url.startswith("models/")


@pytest.mark.parametrize("text", [
    "lab/ddpm:2@sha256:12ab", "ddpm@sha256:12", "no such file: a@b.png", "/home/me@work/x.png", "C:\\me\\x@2.png",
    "write to someone@example.org", "x.png: 12:30", "http://h/@scope/x",
])  # fmt: skip
def test_what_is_not_a_secret_stays(text):
    assert without_secrets(f"Error: {text}") == f"Error: {text}"


def test_a_query_is_kept_for_the_files_of_the_same_host():
    base = "https://h/reg/registry.yaml?token=1"
    assert join(base, "models/a") == "https://h/reg/models/a?token=1"
    assert join(base, "models/a?own=2") == "https://h/reg/models/a?own=2"
    for other in ("https://other/a", "http://h/a", "https://h:444/a"):
        assert join(base, other) == other
    with pytest.raises(InvalidFileError, match="is not a URL"):
        join(base, "http://[bad")


def test_a_file_url_has_any_bytes(tmp_path):
    folder = tmp_path / os.fsdecode(b"a\xff")
    assert path_of(folder.as_uri()) == folder
    assert path_of("file://localhost/x") == Path("/x")
    for url, says in (("file://host/x", "must not name a host"), ("file:///a%00b", "cannot contain a NUL")):
        with pytest.raises(InvalidFileError, match=says):
            path_of(url)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_modes_follow_the_umask_and_a_file_keeps_its_own(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "new", b"x")
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o640)
        write_atomically(tmp_path / "old", b"x")
        write_atomically(tmp_path / "private", b"x", private=True)
        (tmp_path / "public").touch()
        (tmp_path / "public").chmod(0o644)
        write_atomically(tmp_path / "public", b"x", private=True)  # a list of registries that gets its first token
        (tmp_path / "made" / "inner").mkdir(parents=True)
        (tmp_path / "made" / "inner" / "file").touch(0o600)  # as `tempfile` makes them
        put_in_place(tmp_path / "made", tmp_path / "out")
        for name, mode in (("again", 0o777), ("there", 0o710)):
            (tmp_path / name).mkdir()
            (tmp_path / name).chmod(mode)
        put_in_place(tmp_path / "again", tmp_path / "there")  # they exchange names
    finally:
        os.umask(before)
    modes = {str(p.relative_to(tmp_path)): p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    assert modes == {
        "new": 0o666 & ~umask, "old": 0o640, "private": 0o600, "public": 0o600, "there": 0o710, "again": 0o710,
        "out": 0o777 & ~umask, "out/inner": 0o777 & ~umask, "out/inner/file": 0o666 & ~umask,
    }  # fmt: skip
