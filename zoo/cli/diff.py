"""`zoo diff`: compares two models."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ..errors import NotFoundError
from ..text import human_bytes, safe_text
from .options import MODEL, option
from .output import MOST_COLUMNS, as_json, table

if TYPE_CHECKING:
    from ..store.locate import Bundle

MOST_ROWS = 20
"""Of a section, for a person."""
LEAST_SIDE, MOST_SIDE = 28, 40
"""Columns for a model's value."""


@click.command("diff")
@click.argument("model", type=MODEL, metavar="MODEL_A")
@click.argument("other", type=MODEL, metavar="MODEL_B")
@option("--registry", "places", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--json", "json_", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, model: str, other: str, places: tuple[str, ...], json_: bool) -> None:
    """Compare two models: config, figures, tensors and graphs.

    Each is a reference or a bundle's folder, and must be available locally. Names, versions and training records are
    not compared. As for `diff`, the exit code is 0 if the models are the same and 1 if they differ.

    \b
    Example:
      zoo diff vqvae-fashion:1 vqvae-fashion:2
      zoo diff vqvae-fashion ./my-vqvae --json
    """
    from ..run.difference import difference

    first, second = _bundle(model, places), _bundle(other, places)
    found = difference(first, second)
    same = not any(found.values())
    if json_:
        as_json({"a": first.reference, "b": second.reference, "same": same} | found)
    elif same:
        click.echo(safe_text(f"{first.reference} and {second.reference} are the same"))
    else:
        _print(first.reference, second.reference, found)
    ctx.exit(0 if same else 1)


def _bundle(model: str, places: tuple[str, ...]) -> "Bundle":
    from ..formats.registry import Entry
    from ..store.locate import is_path, read_folder
    from ..system.paths import user_path
    from .info import find

    if is_path(model):  # its manifest says nothing about bytes that were not hashed
        return read_folder(user_path(model), checked=False)
    found = find(model, places)
    if isinstance(found, Entry):
        raise NotFoundError(f"{found} is not available locally; `zoo pull {found}` fetches it")
    return found


def _print(a: str, b: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    click.echo(safe_text(f"a: {a}\nb: {b}", keep_newlines=True))
    for section in found:
        if not found[section]:
            click.echo(f"\n{section}: the same")
            continue
        click.echo(f"\n{section}: {len(found[section])} differ")
        rows = [(name, *_cells(sides)) for name, sides in found[section].items()]
        table(_fitted(rows[:MOST_ROWS]), ["", "a", "b"], fit=True)
        if len(rows) > MOST_ROWS:
            click.echo(f"and {len(rows) - MOST_ROWS} more; --json lists all")


def _fitted(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The rows with their cells cut, so that the table has at most `MOST_COLUMNS` columns."""
    room = MOST_COLUMNS - 2 * 2  # without the gaps
    side = min(max((room - max(len(name) for name, _, _ in rows)) // 2, LEAST_SIDE), MOST_SIDE)
    cut = [(name, _cut(a, side), _cut(b, side)) for name, a, b in rows]
    most = room - max(len(a) for _, a, _ in cut) - max(len(b) for _, _, b in cut)
    # Of a name, the end tells more: it is a path.
    return [(name if len(name) <= most else f"…{name[len(name) - most + 1 :]}", a, b) for name, a, b in cut]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _cells(sides: Mapping[str, Any]) -> tuple[str, str]:
    worst = sides.get("largest_difference")
    if worst is None:
        return _cell(sides["a"]), _cell(sides["b"])
    amount = f"by up to {worst:.3g}" if math.isfinite(worst) else "by NaN or inf"
    return _cell(sides["a"]), f"values differ {amount}"


def _cell(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{human_bytes(value['size'])} {value['sha256'][:12]}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
