"""Makes foreign text safe for a terminal, suggests names for misspelt ones, and recognises files of another kind."""

import re
from collections.abc import Iterable
from unicodedata import category

MAX_REASON = 2000
"""Far more than any reason has that a person wrote."""


def safe_text(text: object, *, keep_newlines: bool = False) -> str:
    r"""The text with every character that could control a terminal, or that is invisible, shown as an escape.

    Control, format and bidirectional characters, line separators, surrogates and unassigned characters become escapes
    such as `\x1b` or `\u202e`; a tab becomes a space. Newlines stay only if the caller prints a block (a card).
    """
    text = str(text)
    if text.isprintable():  # nearly always, and many thousand names are shown
        return text

    def shown(char: str) -> str:
        if char.isprintable() or category(char) == "Zs" or (char == "\n" and keep_newlines):
            return char
        if char == "\t":
            return " "
        code = ord(char)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return "".join(map(shown, text))


def utf8(name: str) -> str:
    r"""A file's name for a format that only has UTF-8: other bytes become escapes such as `\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(reason: object) -> str:
    """A reason that other code gave, in one line and whole; of what a hostile file made endless, the first part."""
    text = " ".join(safe_text(reason, keep_newlines=True).split())
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}… ({len(text) - MAX_REASON:,} more characters)"


def warn(message: str, *values: object) -> None:
    """Logs a line with the logger `zoo`, which goes to stderr unless a program configures it otherwise."""
    import logging  # imported here, like some modules elsewhere, so that `zoo list` starts fast

    logging.getLogger("zoo").warning(message, *values)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known name, else the empty string. To be appended to a message."""
    import difflib

    known = list(known)
    near = [k for k in known if name and k.casefold().startswith(name.casefold())]  # `t-shirt`: 'T-shirt/top'
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


_HTML = re.compile(
    rb"((<!--.*?(-->|\Z)|<\?xml.*?(\?>|\Z))\s*)*"
    rb"<(!doctype html|html|head|body|title|meta|link|script|style|h[1-6]|center|div|pre|p)\b",
    re.DOTALL,
)
_JSON_ERROR = re.compile(rb'\{\s*"(errors?|message|detail)"\s*:')


def stand_in(first: bytes) -> str:
    """What a server, git or an object store gives instead of a file, with the usual reason; empty if it is none of
    these.

    Args:
        first: the first bytes of the file; 2,048 are enough.
    """
    start = first[:2048].removeprefix(b"\xef\xbb\xbf")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        start = start.decode("utf-16", "ignore").encode()
    start = start.lstrip().lower()
    if _HTML.match(start):
        return "an HTML page: a login or error page, or the address of a web page instead of a file"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer: the file itself was not uploaded, or needs `git lfs pull`"
    if start.startswith(b"/annex/objects/"):
        return "a git-annex pointer: the file itself is elsewhere, and needs `git annex get`"
    if start.startswith((b"<?xml", b"<error>")) and b"<svg" not in start:
        return "an XML document, as object stores send for errors"
    if _JSON_ERROR.match(start):
        return "an error in JSON, as servers send instead of a file"
    return ""


def sniff(first: bytes) -> str:
    """`; it is a git-lfs pointer: …`, the end of a message about an unexpected file; empty if unknown."""
    known = stand_in(first)
    return f"; it is {known}" if known else ""


def human_bytes(count: int) -> str:
    """`2.6 MB`, in powers of ten, as is usual for model sizes."""
    if count < 1000:
        return f"{count} B"
    value, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}"
