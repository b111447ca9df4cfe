"""Foreign text on its way to a terminal, and suggestions for names that miss."""

from collections.abc import Iterable
from unicodedata import category


def safe_text(text: object, *, keep_newlines: bool = False) -> str:
    r"""The text with every character that could steer a terminal, or hide, shown as an escape.

    Control, format and bidirectional characters, line separators, surrogates and unassigned characters become `\x1b`
    or `\u202e`; a tab becomes a space. Newlines stay only where the caller prints a block (a card).
    """

    def shown(char: str) -> str:
        if char.isprintable() or category(char) == "Zs" or (char == "\n" and keep_newlines):
            return char
        if char == "\t":
            return " "
        code = ord(char)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return "".join(map(shown, str(text)))


def warn(message: str, *values: object) -> None:
    """A line by the logger `zoo`, on stderr unless a program says otherwise."""
    import logging  # here, as some imports elsewhere: `zoo list` has no time for what it does not use

    logging.getLogger("zoo").warning(message, *values)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, else the empty string. To be put at the end of a message."""
    import difflib

    known = list(known)
    near = [k for k in known if name and k.casefold().startswith(name.casefold())]  # `t-shirt`: 'T-shirt/top'
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def human_bytes(count: int) -> str:
    """`2.6 MB`, in powers of ten as the field's tools show them."""
    if count < 1000:
        return f"{count} B"
    value, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}"
