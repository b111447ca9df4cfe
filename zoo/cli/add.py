"""`zoo add`: adds the models of a file that `zoo bundle` wrote."""

from pathlib import Path

import click

from .options import PATH
from .output import note, path


@click.command("add")
@click.argument("source", type=PATH, metavar="FILE")
def command(source: Path) -> None:
    """Add the models of a tar that zoo bundle wrote to the store, and print their folders.

    They are checked as those that zoo pull fetches. Who wrote the tar is not checked: zoo run --locked compares with
    the digests of a project.

    \b
    Example:
      zoo add models.tar
    """
    from ..store.archive import add

    for one in add(source):
        note(f"added {one}")
        path(one.folder)
