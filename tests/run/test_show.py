"""`--show`: in a terminal that can, else in the viewer, and never into a pipe."""

import io
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest

from zoo.errors import UsageError
from zoo.media.pictures import encode_png
from zoo.run.show import check_show, show


class Terminal(io.TextIOWrapper):
    """A stdout that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is written to a terminal of no known kind; files are opened by nothing."""
    for name in ("TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.chdir(tmp_path)
    Path("x.png").write_bytes(encode_png(np.zeros((4, 5, 1), np.uint8)))
    Path("x.gif").write_bytes(b"GIF89a")
    raw = io.BytesIO()
    terminal = Terminal(raw)
    monkeypatch.setattr("zoo.run.show.sys", SimpleNamespace(stdout=terminal))
    yield raw
    terminal.detach()


def test_a_terminal_with_pictures_shows_them(written, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-kitty")
    show(["x.png", "x.png"], print)
    assert written.getvalue().count(b"\x1b_Ga=T,f=100") == 2


def test_others_open_the_viewer(written, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", lambda path: opened.append(path) or 0)
    show(["x.png"], print)
    monkeypatch.setenv("TERM", "xterm-kitty")  # which shows PNG only
    show(["x.gif"], print)
    assert opened == [str(Path("x.png").absolute()), str(Path("x.gif").absolute())] and not written.getvalue()


def test_without_a_viewer_one_line_says_so(written, monkeypatch):
    monkeypatch.setattr(click, "launch", lambda path: 1)
    notes: list[str] = []
    show(["x.png", "x.png"], notes.append)
    assert notes == ["cannot open x.png: there is no program that shows pictures"]


def test_many_files_are_not_many_windows(written, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", lambda path: opened.append(path) or 0)
    notes: list[str] = []
    show(["x.png"] * 30, notes.append)
    assert len(opened) == 20 and notes == ["showing the first 20 of 30 files; --sheet puts all on one"]


def test_nothing_is_shown_in_a_pipe(written, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-kitty")
    pipe = io.TextIOWrapper(raw := io.BytesIO())
    monkeypatch.setattr("zoo.run.show.sys", SimpleNamespace(stdout=pipe))
    monkeypatch.setattr(click, "launch", lambda path: pytest.fail("a viewer was opened"))
    notes: list[str] = []
    show(["x.png"], notes.append)
    pipe.flush()
    assert notes == ["--show does nothing: stdout is not a terminal"] and not raw.getvalue()


def test_it_does_not_go_with_what_else_writes_to_stdout():
    with pytest.raises(UsageError, match="^--show and --json both write to stdout; choose one$"):
        check_show(None, True)
    with pytest.raises(UsageError, match="^--show and --out - both write to stdout; choose one$"):
        check_show("-", False)
    check_show("x.png", False)
