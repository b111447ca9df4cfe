"""Which models there are: those that registries list, and those that were pulled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ..errors import ZooError
from ..formats.registry import DEFAULT, Entry
from ..text import human_bytes, safe_text
from .catalogue import registries
from .store import Installed, Store

if TYPE_CHECKING:
    from collections.abc import Iterable


class Figure(msgspec.Struct, frozen=True):
    """What a list shows of a measured metric; the contract's own `Metric` would take long to import."""

    name: str
    value: float
    unit: str = ""
    data: str = ""  # data set and part


@dataclass(frozen=True)
class Listed:
    """A version of a model, as `zoo list --json` prints it.

    Attributes:
        reference: what `zoo.load` and `zoo run` take.
        size: bytes of all its files.
        missing: bytes that are still to be fetched.
        where: in package, pulled, damaged, folder or remote.
        metrics: of its manifest, if that is on this machine.
        seconds: that a picture takes, as its registry says: processor time of one core for the default task.
    """

    reference: str
    registry: str
    name: str
    version: int
    digest: str = field(repr=False)
    family: str
    summary: str
    tasks: tuple[str, ...]
    license: str
    size: int
    missing: int
    where: str
    metrics: tuple[Figure, ...] = field(default=(), repr=False)
    seconds: float | None = None


class Models(list[Listed]):
    """Models; as text, a table."""

    def __repr__(self) -> str:
        rows = [(m.reference, m.family, human_bytes(m.size), m.where, ", ".join(m.tasks), m.summary) for m in self]
        cells = [[safe_text(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
        return "\n".join(lines) or "no models"


def models(registries: Sequence[str] = (), *, refresh: bool = False, all_versions: bool = False) -> Models:
    """The models that `zoo.load` takes: installed, of plugins, of registries that were added, and pulled ones.

    Uses no network unless it is asked to: of a remote registry, the copy that was kept last is read.

    Args:
        registries: URLs or folders of further registries; a URL is read over the network.
        refresh: read remote registries again.
        all_versions: also older versions; else the newest one of each model, and those that were pulled.

    Raises:
        zoo.ZooError: one of `registries` cannot be read. Another one that cannot is skipped, with a warning.
    """
    found = list(listed(registries, refresh=refresh, offline=not refresh))
    return Models(found if all_versions else newest_and_pulled(found))


def listed(
    places: Sequence[str] = (), *, refresh: bool = False, allow_rollback: bool = False, offline: bool = False
) -> Iterator[Listed]:
    """Every version that a registry lists, then models pulled from registries that no longer exist.

    Args:
        places, refresh, allow_rollback, offline: as for `zoo.store.catalogue.registries`.
    """
    store = Store()
    pulled = {(i.registry, i.name, i.version, i.digest): i for i in store.installed()}
    seen = set()  # a checkout's models may be installed as well
    for registry in registries(places, refresh=refresh, allow_rollback=allow_rollback, offline=offline):
        for name, model in registry.document.models.items():
            for version in sorted(model.versions, reverse=True):
                entry = Entry(registry, name, version)
                if (registry.name, name, version) in seen:
                    continue
                seen.add((registry.name, name, version))
                installed = pulled.pop((registry.name, name, version, entry.digest), None)
                if installed:  # what its registry says about it now may be something else
                    yield _pulled(store, installed, str(entry), entry.seconds)
                    continue
                if registry.name == DEFAULT:
                    where, missing = "in package", 0
                else:
                    where, missing = "folder" if registry.folder else "remote", store.missing(entry)
                yield Listed(
                    str(entry), registry.name, name, version, entry.digest, model.family, model.summary, model.tasks,
                    model.license, entry.size, missing, where, _metrics(entry), entry.seconds,
                )  # fmt: skip
    for installed in pulled.values():
        yield _pulled(store, installed, str(installed))


def _pulled(store: Store, i: Installed, reference: str, seconds: float | None = None) -> Listed:
    """A pulled model as its own manifest describes it."""
    from ..formats.manifest import MANIFEST

    known = (reference, i.registry, i.name, i.version, i.digest)
    manifest, _ = store.read_manifest(i)
    if manifest is None:
        return Listed(*known, "", "", (), "", 0, 0, "damaged")
    tasks = tuple(name for name, task in manifest.tasks.items() if not task.part_of)
    size = manifest.size + (i.folder / MANIFEST).stat().st_size
    where = "damaged" if store.damage(i) else "pulled"
    metrics = tuple(Figure(metric.name, metric.value, metric.unit, metric.data) for metric in manifest.metrics)
    return Listed(*known, manifest.family, manifest.summary, tasks, manifest.license, size, 0, where, metrics, seconds)


def newest_and_pulled(rows: Iterable[Listed]) -> list[Listed]:
    """The newest version of each model and those that were pulled; the default registry's first."""
    seen, found = set(), []
    for row in sorted(rows, key=lambda row: (row.registry != DEFAULT, row.registry, row.name, -row.version)):
        if (row.registry, row.name) not in seen or row.where in ("pulled", "damaged"):
            found.append(row)
        seen.add((row.registry, row.name))
    return found


def _metrics(entry: Entry) -> tuple[Figure, ...]:
    """The metrics of a model whose registry is a folder here.

    Only this part of its manifest is parsed: whole manifests would take longer than everything else that a list does.
    A manifest that cannot be read has none here; `zoo info` and `zoo verify` report what is wrong with it.
    """
    from ..formats import strictyaml
    from ..formats.fields import digest_of
    from ..names import MANIFEST
    from ..system.paths import read_file
    from ..system.urls import path_of

    if entry.registry.folder is None or MANIFEST not in entry.files:
        return ()
    try:
        place = path_of(entry.registry.file_url(entry.files[MANIFEST]))
        data = read_file(place, strictyaml.MAX_BYTES)
        part = re.search(rb"^metrics:\n(?:[ -].*\n)+", data, re.MULTILINE)
        if part is None or digest_of(data) != entry.digest:
            return ()
        tree, _ = strictyaml.parse(part[0], str(place), remember=True)
        return tuple(msgspec.convert(tree["metrics"], list[Figure]))
    except (ZooError, msgspec.ValidationError):
        return ()
