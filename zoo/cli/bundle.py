"""`zoo bundle`: pulled models as one file, for a machine without a network."""

from pathlib import Path

import click

from ..errors import NotFoundError, UsageError
from .options import MODEL, OUT, option
from .output import note, path


@click.command("bundle")
@click.argument("models", type=MODEL, nargs=-1, required=True, metavar="MODEL...")
@option("--out", "-o", type=OUT, required=True, help="The file to write, e.g. models.tar.")
def command(models: tuple[str, ...], out: Path) -> None:
    """Write pulled models into a tar, which zoo add takes on another machine.

    \b
    Example:
      zoo pull lab/portraits
      zoo bundle lab/portraits -o models.tar
    """
    from ..formats.reference import Reference
    from ..store.archive import write
    from ..store.store import Store
    from .options import refuse_existing

    refuse_existing(out)
    found = []
    for model in models:
        one = Store().find(Reference.parse(model))
        if one is None:
            raise NotFoundError(f"{model} is not in the store; `zoo pull {model}` fetches it")
        found.append(one)
    if len(set(found)) < len(found):
        raise UsageError("a model is named twice")
    write(found, out)
    note(f"wrote {', '.join(map(str, found))}")
    path(out)
