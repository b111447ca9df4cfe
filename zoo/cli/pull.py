"""`zoo pull`: fetches models into the store."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from ..text import human_bytes
from .options import MODEL, option
from .output import as_json, note, path, progress

if TYPE_CHECKING:
    from ..formats.registry import Entry, Registry


@click.command("pull")
@click.argument("models", type=MODEL, nargs=-1, metavar="MODEL...")
@option("--locked", is_flag=True, help="Exactly what is in ./zoo.lock; without MODEL, all of it.")
@option("--registry", "places", multiple=True, metavar="URL|FOLDER", help="Look in this registry first.")
@option("--allow-rollback", is_flag=True, help="Also use a registry that lists less than it did before.")
@option("--json", "json_", is_flag=True, help="Print JSON.")
def command(models: tuple[str, ...], locked: bool, places: tuple[str, ...], allow_rollback: bool, json_: bool) -> None:
    """Fetch models into the store, and print their folders.

    MODEL is [registry/]name[:version][@sha256:digest]; without a version, the newest. An interrupted pull continues
    where it stopped. Models of the default registry are installed, not pulled.

    \b
    Example:
      zoo pull vqvae-fashion
      zoo pull lab/portraits:2 --registry https://models.example.org/
      zoo pull --locked
    """
    if not models and not locked:
        raise UsageError("name the models to fetch; `zoo list` lists them, and --locked fetches those of zoo.lock")
    from ..formats.registry import DEFAULT, resolve
    from ..store.catalogue import registries
    from ..store.locate import read_in_place, reference_of
    from ..store.store import Store

    known, store = registries(places, refresh=True, allow_rollback=allow_rollback), Store()
    entries = _locked(models, known) if locked else []
    for model in () if locked else models:
        with reference_of(model) as reference:
            entries.append(resolve(reference, known))
    pulled = []
    for entry in entries:
        if entry.registry.name == DEFAULT:
            folder = read_in_place(entry).folder
            note(f"{entry} is installed: nothing to fetch")
        else:
            missing = store.missing(entry)
            note(
                f"{entry}: {human_bytes(missing)} to fetch" if missing else f"{entry} is in the store: nothing to fetch"
            )
            with progress(missing, str(entry)) as bar:
                folder = store.pull(entry, on_bytes=bar.update).folder
        pulled.append({"reference": str(entry), "digest": entry.digest, "folder": str(folder)})
        if not json_:
            path(folder)
    if json_:
        as_json(pulled)


def _locked(models: tuple[str, ...], known: "list[Registry]") -> "list[Entry]":
    """What ./zoo.lock has: of the models, or all of it."""
    from ..formats.lock import LOCK, read, reference_in
    from ..store.lock import find

    lock = read(Path(LOCK))
    chosen = {reference_in(lock, model, Path(LOCK)) for model in models}
    found = {one.reference: one for one in lock.models.values() if one.reference in chosen or not models}
    return [find(one, known) for one in found.values()]
