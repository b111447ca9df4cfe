"""`zoo rm`: removes pulled models from the store."""

from typing import TYPE_CHECKING

import click

from ..errors import NotFoundError, UsageError
from ..text import did_you_mean, human_bytes
from .options import MODEL, option
from .output import note

if TYPE_CHECKING:
    from ..store.store import Installed, Store


@click.command("rm")
@click.argument("models", type=MODEL, nargs=-1, required=True, metavar="MODEL...")
@option("--all-versions", is_flag=True, help="Remove all pulled versions.")
def command(models: tuple[str, ...], all_versions: bool) -> None:
    """Remove pulled models from the store.

    Files that another model needs are kept.

    \b
    Example:
      zoo rm lab/portraits:1
      zoo rm portraits --all-versions
    """
    from ..store.prune import remove
    from ..store.store import Store

    store = Store()
    chosen = [installed for model in models for installed in _chosen(store, model, all_versions)]
    for installed in dict.fromkeys(chosen):
        note(f"removed {installed}, {human_bytes(remove(store, installed))} freed")


def _chosen(store: "Store", model: str, all_versions: bool) -> list["Installed"]:
    from ..formats.reference import Reference

    wanted = Reference.parse(model)
    found = store.matching(wanted)
    if not found:
        hint = did_you_mean(wanted.name, {i.name for i in store.installed()}) or "; `zoo list --local` shows what is"
        raise NotFoundError(f"{wanted} was not pulled{hint}")
    if len(found) > 1 and not all_versions:
        names = ", ".join(map(str, found))
        raise UsageError(f"{wanted} may mean any of {names}; name one, or add --all-versions")
    return found
