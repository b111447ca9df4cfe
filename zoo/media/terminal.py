"""Pictures inside a terminal: the protocols of kitty, iTerm2 and sixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Literal

Protocol = Literal["kitty", "iterm", "sixel"]

_CHUNK = 4096
_SIXEL_TERMS = ("foot", "mlterm", "contour", "yaft", "sixel")


def protocol_of(environment: Mapping[str, str]) -> Protocol | None:
    """The protocol of the terminal that set these variables; None if it shows no pictures, as far as they say.

    tmux and screen forward none of the three.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if environment.get("TMUX") or term.startswith(("screen", "tmux")):
        return None
    if environment.get("KITTY_WINDOW_ID") or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return "sixel" if any(known in term for known in _SIXEL_TERMS) else None


def as_kitty(png: bytes) -> bytes:
    """A PNG for kitty's graphics protocol: https://sw.kovidgoyal.net/kitty/graphics-protocol/."""
    text = base64.b64encode(png)
    chunks = [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks):
        keys = ["a=T,f=100"] if number == 0 else []
        keys.append(f"m={int(number < len(chunks) - 1)}")
        parts.append(b"\x1b_G" + ",".join(keys).encode() + b";" + chunk + b"\x1b\\")
    return b"".join(parts) + b"\n"


def as_iterm(data: bytes) -> bytes:
    """A picture or animation for iTerm2's inline images: https://iterm2.com/documentation-images.html."""
    return b"\x1b]1337;File=inline=1;size=%d:" % len(data) + base64.b64encode(data) + b"\x07\n"


def as_sixel(png: bytes) -> bytes:
    """A PNG as sixels (DEC STD 070), in up to 256 colours: bands of six rows, each a mask for every colour in it."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        image = opened.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    pixels = np.asarray(image)
    height, width = pixels.shape
    palette = np.array(image.getpalette()).reshape(-1, 3)
    parts = [f'\x1bP0;1;0q"1;1;{width};{height}']
    for index in np.unique(pixels):
        red, green, blue = (round(100 * int(level) / 255) for level in palette[index])
        parts.append(f"#{index};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        weights = 1 << np.arange(len(band))[:, None]
        for index in np.unique(band):
            parts.append(f"#{index}{_runs(((band == index) * weights).sum(0))}$")
        parts.append("-")
    return "".join([*parts, "\x1b\\\n"]).encode()


def _runs(masks: object) -> str:
    """Six-pixel masks as characters, repeated ones as `!COUNT CHARACTER`."""
    import numpy as np

    values = np.asarray(masks)
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    counts = np.diff(starts, append=len(values))
    runs = zip(counts.tolist(), values[starts].tolist(), strict=True)
    return "".join(f"!{count}{chr(63 + value)}" if count > 3 else chr(63 + value) * count for count, value in runs)
