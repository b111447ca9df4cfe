"""`zoo prune`: deletes what no model in the store needs."""

import click

from ..text import human_bytes
from .options import option
from .output import as_json, note, path


@click.command("prune")
@option("--dry-run", is_flag=True, help="Only print what would be deleted.")
@option("--json", "json_", is_flag=True, help="Print JSON.")
def command(dry_run: bool, json_: bool) -> None:
    """Delete what no model in the store needs: unused files, second copies, interrupted pulls, leftovers.

    Files newer than an hour are kept, since a running pull may need them, unless there is another copy.

    \b
    Example:
      zoo prune --dry-run
    """
    from ..store.prune import prune
    from ..store.store import Store

    pruned = prune(Store(), dry_run=dry_run)
    if json_:
        as_json(pruned)
        return
    for place in pruned.paths:
        path(place)
    note(f"{human_bytes(pruned.bytes)} {'would be ' if dry_run else ''}freed")
