"""`zoo list`: lists models, and shows which are available locally."""

from typing import TYPE_CHECKING

import click

from ..text import human_bytes, safe_text
from .options import option
from .output import as_json, note

if TYPE_CHECKING:
    from ..store.listing import Listed

GAP, LEAST_COLUMNS, MOST_COLUMNS = 2, 12, 100
HEADERS = ("model", "what", "tasks", "quality", "time", "size", "where")
SHORTENED = HEADERS.index("what")
"""The column that is cut to fit the width; a model's name is needed whole, to type it."""
FIGURES = {"frechet_distance": "FD", "accuracy": "accuracy", "psnr": "PSNR"}
"""The metrics that say most in one figure, the first that a model has: of what draws, classifies, reconstructs."""


@click.command("list")
@click.argument("words", nargs=-1, metavar="[WORDS]...")
@option("--family", metavar="NAME", help="Only models of this family.")
@option("--task", metavar="NAME", help="Only models that have this task.")
@option("--local", is_flag=True, help="Only models available locally: installed, or pulled.")
@option("--all-versions", is_flag=True, help="Also list older versions; default: the newest, and pulled ones.")
@option("--registry", "places", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--allow-rollback", is_flag=True, help="Also use a registry that lists less than it did before.")
@option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    words: tuple[str, ...], family: str | None, task: str | None, local: bool, all_versions: bool,
    places: tuple[str, ...], allow_rollback: bool, json_: bool,
) -> None:  # fmt: skip
    """List models, and show which are available locally.

    WORDS filter by registry, name, summary, task, family and data set: every word must occur in one of them. Added
    registries are reread; without a network, the last copy is used. Quality is the model's main measured metric: FD is
    the Fréchet distance of its pictures from real ones (lower is better); `zoo info` shows all metrics. Time is
    what a picture takes on one processor core with the task's defaults, as measured when the model was published.
    --json gives everything, such as all tasks, the licence and what is still to fetch.

    \b
    Example:
      zoo list
      zoo list fashion reconstruct
      zoo list fashion --task reconstruct --local
    """
    from ..formats.registry import DEFAULT
    from ..store.default import absent
    from ..store.listing import listed, newest_and_pulled

    rows = [
        row
        for row in listed(places, refresh=True, allow_rollback=allow_rollback)
        if family in (None, row.family)
        and (task is None or task in row.tasks)
        and (not local or row.where in ("in package", "pulled", "damaged"))
        and _has(row, words)
    ]
    if not all_versions:
        rows = newest_and_pulled(rows)
    if json_:
        as_json(rows)
        return
    if rows:
        _print(rows)
    if words or family or task or local:
        if not rows:
            note("no model matches; `zoo list` without filters shows all")
    elif names := absent({row.name for row in rows if row.registry == DEFAULT}):
        from ..system.model_distributions import model_command

        note(f"not installed: {', '.join(names)}; to install one: {model_command(names[0])}")
    elif not rows:
        note("no models")


def _has(row: "Listed", words: tuple[str, ...]) -> bool:
    told = (row.reference, row.family, row.summary, *row.tasks, *(metric.data for metric in row.metrics))
    text = " ".join(told).lower()
    return all(word in text for given in words for word in given.lower().split())


def _print(rows: list["Listed"]) -> None:
    """A table of at most 100 columns, unless a name is very long."""
    lines = [HEADERS, *(tuple(safe_text(cell) for cell in _cells(row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    excess = sum(widths) + GAP * (len(widths) - 1) - MOST_COLUMNS
    widths[SHORTENED] = max(widths[SHORTENED] - max(excess, 0), LEAST_COLUMNS)
    for line in lines:
        cells = (_shortened(cell, width).ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo((" " * GAP).join(cells).rstrip())


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _cells(row: "Listed") -> tuple[object, ...]:
    tasks = row.tasks[0] + (f" +{len(row.tasks) - 1}" if len(row.tasks) > 1 else "") if row.tasks else "-"
    return row.reference, row.summary, tasks, _quality(row), _time(row.seconds), human_bytes(row.size), _where(row)


def _time(seconds: float | None) -> str:
    """`140 s`, `0.14 s` or `0.47 ms`."""
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.2g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _where(row: "Listed") -> str:
    return row.where.removeprefix("in ")  # a package


def _quality(row: "Listed") -> str:
    found = {metric.name: metric for metric in row.metrics}
    for name, shown in FIGURES.items():
        if metric := found.get(name):
            return f"{shown} {metric.value:.3g} {metric.unit}".rstrip()
    return "-"
