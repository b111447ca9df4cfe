"""`zoo list`: lists models, and shows which are available locally."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ..names import MANIFEST
from ..text import human_bytes
from .output import as_json, note, table

if TYPE_CHECKING:
    from ..store.store import Installed, Store


@dataclass(frozen=True)
class Row:
    """A version of a model, as `--json` prints it."""

    reference: str
    registry: str
    name: str
    version: int
    digest: str
    family: str
    summary: str
    tasks: tuple[str, ...]
    license: str
    size: int  # bytes, of all files
    missing: int  # bytes still to fetch
    where: str  # in package, pulled, damaged, folder, remote


@click.command("list")
@click.argument("text", default="")
@click.option("--family", metavar="NAME", help="Only models of this family.")
@click.option("--task", metavar="NAME", help="Only models that have this task.")
@click.option("--local", is_flag=True, help="Only models available locally: in the package, or pulled.")
@click.option("--all-versions", is_flag=True, help="Also list older versions; default: the newest, and pulled ones.")
@click.option("--registry", "places", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@click.option("--allow-rollback", is_flag=True, help="Also use a registry that lists less than it did before.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
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
    rows = [
        row
        for row in _rows(places, allow_rollback)
        if family in (None, row.family)
        and (task is None or task in row.tasks)
        and (not local or row.where in ("in package", "pulled", "damaged"))
        and text.lower() in " ".join((row.name, row.family, row.summary, *row.tasks)).lower()
    ]
    if not all_versions:
        rows = list(_newest_and_pulled(rows))
    if json_:
        as_json(rows)
    elif rows:
        table(map(_cells, rows), ["name", "version", "family", "tasks", "size", "to fetch", "licence", "where"])
    else:
        filtered = text or family or task or local
        note("no model matches; `zoo list` without filters shows all" if filtered else "no models")


def _cells(row: Row) -> tuple[object, ...]:
    name, missing = row.reference.rpartition(":")[0], human_bytes(row.missing) if row.missing else "-"
    return name, row.version, row.family, " ".join(row.tasks), human_bytes(row.size), missing, row.license, row.where


def _rows(places: tuple[str, ...], allow_rollback: bool) -> Iterator[Row]:
    """Every version that a registry lists, then models pulled from registries that no longer exist."""
    from ..formats.registry import DEFAULT, Entry
    from ..store.catalogue import registries
    from ..store.store import Store

    store = Store()
    pulled = {(i.registry, i.name, i.version, i.digest): i for i in store.installed()}
    for registry in registries(places, refresh=True, allow_rollback=allow_rollback):
        for name, model in registry.document.models.items():
            for version in sorted(model.versions, reverse=True):
                entry = Entry(registry, name, version)
                installed = pulled.pop((registry.name, name, version, entry.digest), None)
                if installed:  # what its registry says about it now may be something else
                    yield _pulled(store, installed, str(entry))
                    continue
                if registry.name == DEFAULT:
                    where, missing = "in package", 0
                else:
                    where, missing = "folder" if registry.folder else "remote", store.missing(entry)
                yield Row(
                    str(entry), registry.name, name, version, entry.digest, model.family, model.summary, model.tasks,
                    model.license, entry.size, missing, where,
                )  # fmt: skip
    for installed in pulled.values():
        yield _pulled(store, installed, str(installed))


def _pulled(store: "Store", i: "Installed", reference: str) -> Row:
    """A pulled model as its own manifest describes it."""
    known = (reference, i.registry, i.name, i.version, i.digest)
    manifest, _ = store.read_manifest(i)
    if manifest is None:
        return Row(*known, "", "", (), "", 0, 0, "damaged")
    tasks = tuple(name for name, task in manifest.tasks.items() if not task.part_of)
    size = manifest.size + (i.folder / MANIFEST).stat().st_size
    where = "damaged" if store.damage(i) else "pulled"
    return Row(*known, manifest.family, manifest.summary, tasks, manifest.license, size, 0, where)


def _newest_and_pulled(rows: list[Row]) -> Iterator[Row]:
    seen = set()
    for row in sorted(rows, key=lambda row: (row.registry != "default", row.registry, row.name, -row.version)):
        if (row.registry, row.name) not in seen or row.where in ("pulled", "damaged"):
            yield row
        seen.add((row.registry, row.name))
