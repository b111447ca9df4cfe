"""`zoo list`: lists models, and shows which are available locally."""

from typing import TYPE_CHECKING

import click

from ..text import human_bytes
from .options import option
from .output import as_json, note, table

if TYPE_CHECKING:
    from ..store.listing import Listed


@click.command("list")
@click.argument("text", default="")
@option("--family", metavar="NAME", help="Only models of this family.")
@option("--task", metavar="NAME", help="Only models that have this task.")
@option("--local", is_flag=True, help="Only models available locally: in the package, or pulled.")
@option("--all-versions", is_flag=True, help="Also list older versions; default: the newest, and pulled ones.")
@option("--registry", "places", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--allow-rollback", is_flag=True, help="Also use a registry that lists less than it did before.")
@option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    text: str, family: str | None, task: str | None, local: bool, all_versions: bool, places: tuple[str, ...],
    allow_rollback: bool, json_: bool,
) -> None:  # fmt: skip
    """List models, and show which are available locally.

    TEXT filters by name, family, task or summary. Added registries are reread; without a network, the last copy is
    used.

    \b
    Example:
      zoo list
      zoo list fashion --task reconstruct --local
    """
    from ..store.listing import listed, newest_and_pulled

    rows = [
        row
        for row in listed(places, refresh=True, allow_rollback=allow_rollback)
        if family in (None, row.family)
        and (task is None or task in row.tasks)
        and (not local or row.where in ("in package", "pulled", "damaged"))
        and text.lower() in " ".join((row.name, row.family, row.summary, *row.tasks)).lower()
    ]
    if not all_versions:
        rows = newest_and_pulled(rows)
    if json_:
        as_json(rows)
    elif rows:
        table(map(_cells, rows), ["name", "version", "family", "tasks", "size", "to fetch", "licence", "where"])
    else:
        filtered = text or family or task or local
        note("no model matches; `zoo list` without filters shows all" if filtered else "no models")


def _cells(row: "Listed") -> tuple[object, ...]:
    name, missing = row.reference.rpartition(":")[0], human_bytes(row.missing) if row.missing else "-"
    return name, row.version, row.family, " ".join(row.tasks), human_bytes(row.size), missing, row.license, row.where
