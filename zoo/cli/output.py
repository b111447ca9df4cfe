"""How commands print: results to stdout, notes and progress to stderr."""

import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..text import safe_text

if TYPE_CHECKING:
    from tqdm import tqdm


MOST_COLUMNS, LEAST_COLUMNS = 100, 24
"""Of a table that is to fit a terminal, and of its last column."""


def table(rows: Iterable[Sequence[object]], headers: Sequence[str], *, fit: bool = False) -> None:
    """Prints rows on stdout, under headers if there are any, with control characters removed from every cell.

    Does not use tabulate, because importing it takes a third of the time allowed for `zoo list`.

    Args:
        fit: put columns closer together and wrap the last one, if the table has more than `MOST_COLUMNS` columns.
    """
    lines = [[safe_text(cell) for cell in row] for row in ([headers, *rows] if headers else rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = 4
    if fit and widths and sum(widths) + gap * (len(widths) - 1) > MOST_COLUMNS:
        import textwrap

        gap = 2
        last = max(MOST_COLUMNS - sum(widths[:-1]) - gap * (len(widths) - 1), LEAST_COLUMNS)
        wrapped = []
        for *cells, text in lines:
            parts = textwrap.wrap(text, last, break_on_hyphens=False) or [""]
            wrapped += [[*cells, parts[0]], *([*[""] * len(cells), part] for part in parts[1:])]
        lines = wrapped
    for line in lines:
        click.echo((" " * gap).join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def as_json(value: Any) -> None:
    """Prints a value (msgspec Structs and dataclasses included) as indented JSON on stdout.

    What could control a terminal, or is not UTF-8 in a path, is printed as a JSON escape, so it means the same.
    """
    _echo_json(value, indent=2)


def as_json_line(value: Any) -> None:
    """Prints a value as `as_json` does, on one line: for commands that print several."""
    _echo_json(value, indent=None)


def _echo_json(value: Any, indent: int | None) -> None:
    import json

    import msgspec

    plain = _finite(msgspec.to_builtins(value, enc_hook=str, str_keys=True))
    text = json.dumps(plain, indent=indent, ensure_ascii=False)
    click.echo("".join(char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1] for char in text))


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def path(place: object) -> None:
    """Prints the path of a file or folder on stdout: cleaned for a terminal, unchanged for a pipe, UTF-8 or not."""
    text = str(place)
    if sys.stdout.isatty():
        click.echo(safe_text(text))
    else:
        click.echo(text if text.isprintable() else os.fsencode(text))


def note(text: object) -> None:
    """Prints one line on stderr: information for a person that must not get into a pipe."""
    click.echo(safe_text(text), err=True)


def progress(total: int, label: str, *, unit: str = "B", silent: bool = False) -> "tqdm[Any]":
    """A tqdm bar on stderr, always silent if that is not a terminal; call `.update(n)`, and use it as a context."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=safe_text(label),
        unit=unit,
        unit_scale=unit == "B",
        disable=silent or None,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
    )
