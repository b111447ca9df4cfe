"""Pictures for terminals, read back as the terminals would read them."""

import base64
import re

import numpy as np
import pytest

from zoo.media.pictures import encode_png
from zoo.media.terminal import as_iterm, as_kitty, as_sixel, protocol_of


@pytest.mark.parametrize(
    ("variables", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),
        ({}, None),
    ],
)
def test_the_protocol_follows_from_the_variables(variables: dict, protocol: str | None):
    assert protocol_of(variables) == protocol


def test_kitty_gets_the_png_in_chunks():
    png = encode_png(np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8))
    found = re.findall(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\", as_kitty(png))
    assert len(found) > 2 and all(len(text) <= 4096 for _, text in found)
    assert [keys for keys, _ in found] == [b"a=T,f=100,m=1", *[b"m=1"] * (len(found) - 2), b"m=0"]
    assert base64.b64decode(b"".join(text for _, text in found)) == png
    assert re.findall(rb"\x1b_G([^;]*);", as_kitty(b"short")) == [b"a=T,f=100,m=0"]


def test_iterm_gets_the_file():
    head, _, text = as_iterm(b"some picture").partition(b":")
    assert head == b"\x1b]1337;File=inline=1;size=12" and base64.b64decode(text.rstrip(b"\x07\n")) == b"some picture"


def sixels(data: bytes) -> np.ndarray:
    """A sixel picture's pixels, in percent: uint8 [height, width, 3]."""
    head, body = re.fullmatch(r'\x1bP0;1;0q"1;1;([\d;]+?)#(.*)\x1b\\\n', data.decode(), re.DOTALL).groups()
    width, height = map(int, head.split(";"))
    image = np.zeros((height + 6, width, 3), np.uint8)
    colours: dict[int, tuple[int, ...]] = {}
    top = left = colour = 0
    for token in re.findall(r"#\d+(?:;2;\d+;\d+;\d+)?|!\d+[?-~]|[?-~]|\$|-", "#" + body):
        if token[0] == "#":
            colour, *levels = map(int, token[1:].split(";"))
            if levels:
                colours[colour] = tuple(levels[1:])
        elif token in "$-":
            top, left = top + 6 * (token == "-"), 0
        else:
            count, char = (int(token[1:-1]), token[-1]) if token[0] == "!" else (1, token)
            for row in range(6):
                if (ord(char) - 63) >> row & 1:
                    image[top + row, left : left + count] = colours[colour]
            left += count
    assert top >= height - height % 6
    return image[:height]


@pytest.mark.parametrize("shape", [(6, 5, 1), (13, 20, 3), (1, 1, 1)])
def test_sixels_are_the_picture(shape: tuple[int, ...]):
    picture = np.random.default_rng(1).choice(np.array([0, 51, 255], np.uint8), shape)
    picture[: shape[0] // 2] = 102  # runs
    assert (sixels(as_sixel(encode_png(picture))) == np.round(picture / 2.55)).all()
