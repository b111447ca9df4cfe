"""`zoo prune`: what no model in the store needs."""

import click

from ..text import human_bytes
from .output import as_json, note


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(dry_run: bool, json_: bool) -> None:
    """Free what no model in the store needs: unused files, interrupted pulls, leftovers.

    What is younger than an hour stays, since a pull under way may need it.

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
    for path in pruned.paths:
        click.echo(path)
    note(f"{human_bytes(pruned.bytes)} {'would be ' if dry_run else ''}freed")
