"""How commands print: results to stdout, notes and progress to stderr."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..text import safe_text

if TYPE_CHECKING:
    from tqdm import tqdm


def table(rows: Iterable[Sequence[object]], headers: Sequence[str]) -> None:
    """Prints rows on stdout, under headers if there are any, with control characters removed from every cell.

    Does not use tabulate, because importing it takes a third of the time allowed for `zoo list`.
    """
    lines = [[safe_text(cell) for cell in row] for row in ([headers, *rows] if headers else rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("    ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def as_json(value: Any) -> None:
    """Prints a value (msgspec Structs and dataclasses included) as indented JSON on stdout."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


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
