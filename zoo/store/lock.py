"""Locks the models of a project: which versions it uses, chosen once, and the same on every machine from then on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import IntegrityError, InvalidFileError, NotFoundError, UsageError
from ..formats import lock as locks
from ..formats.lock import LOCK, Lock, Locked, Want
from ..formats.registry import Entry, Registry, resolve
from ..system.paths import read_file
from ..system.urls import shown
from ..text import safe_text
from .locate import is_path

_MOST_BYTES = 1 << 20


def wanted(models: Sequence[str], file: Path) -> list[Want]:
    """What a project wants: the models given, else those in `[tool.zoo]` of the pyproject.toml next to the lock file,
    else what the lock file was made for.

    Raises:
        UsageError: none of these, or it is not a reference or range.
    """
    source = file.absolute().parent / "pyproject.toml"
    texts = list(models) or _of_project(source) or (list(locks.read(file).models) if file.exists() else [])
    if not texts:
        raise UsageError(
            f'name the models to lock, or list them in {safe_text(source)}: [tool.zoo] models = ["vqvae-fashion>=2"]'
        )
    if folder := next((text for text in texts if is_path(text)), None):
        raise UsageError(f"'{safe_text(folder)[:200]}' is a folder; only models of registries can be locked")
    return [Want.parse(text) for text in dict.fromkeys(texts)]


def _of_project(path: Path) -> list[str]:
    import tomllib

    try:
        table = tomllib.loads(read_file(path, _MOST_BYTES).decode()).get("tool", {}).get("zoo", {})
    except NotFoundError:
        return []
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as e:
        raise InvalidFileError(f"{safe_text(path)}: {safe_text(e)[:200]}") from None
    models = table.get("models", []) if isinstance(table, dict) else None
    if not isinstance(models, list) or not all(isinstance(one, str) for one in models) or set(table) - {"models"}:
        raise InvalidFileError(f"{safe_text(path)}: tool.zoo: it may have `models`, a list of texts, and nothing else")
    return models


def make(wants: Sequence[Want], registries: Sequence[Registry], before: Lock, *, upgrade: bool = False) -> Lock:
    """A lock for what is wanted.

    Args:
        registries: in the order in which they are searched.
        before: what it locks stays, where it is still wanted.
        upgrade: the newest versions, whatever was locked.

    Raises:
        NotFoundError: a model, or a version that fits, is not there.
    """
    models = {}
    for want in wants:
        kept = None if upgrade else before.models.get(want.text)
        entry = find(kept, registries) if kept else _newest(want, registries)
        models[want.text] = _locked(entry)
    return Lock(format=locks.FORMAT, models=dict(sorted(models.items())))


def find(locked: Locked, registries: Sequence[Registry]) -> Entry:
    """The entry that was locked.

    Raises:
        NotFoundError: no registry has it any more, or this machine does not know the registry.
    """
    if locked.registry not in {registry.name for registry in registries} and locked.url:
        raise NotFoundError(
            f"no registry '{locked.registry}'; run: zoo registry add {locked.registry} {shown(locked.url)}"
        )
    try:
        return resolve(locked.reference, registries)
    except NotFoundError as e:
        raise NotFoundError(
            f"{e}; {locked.name}:{locked.version} is locked, `zoo lock --upgrade` locks another"
        ) from None


def check(lock: Lock, wants: Sequence[Want], registries: Sequence[Registry]) -> None:
    """Refuses a lock that is not what `make` would write.

    Raises:
        IntegrityError: what differs; or the registry no longer has what was locked.
    """
    try:
        right = make(wants, registries, lock)
    except NotFoundError as e:
        raise IntegrityError(str(e)) from None
    differing = sorted(
        text for text in right.models.keys() | lock.models if right.models.get(text) != lock.models.get(text)
    )
    if differing:
        raise IntegrityError(f"the lock is out of date for {safe_text(', '.join(differing))}; run `zoo lock`")


def locked_reference(text: str, file: Path | None = None) -> str:
    """The complete reference that a lock file, by default ./zoo.lock, has for a model.

    Raises:
        UsageError: a folder, which cannot be locked.
        NotFoundError: there is no lock file, or it does not have the model.
    """
    if is_path(text):
        raise UsageError(f"'{safe_text(text)[:200]}' is a folder; only models of registries can be locked")
    file = file or Path(LOCK)
    return str(locks.reference_in(locks.read(file), text, file))


def _newest(want: Want, registries: Sequence[Registry]) -> Entry:
    entry = resolve(want.reference, registries)
    if want.versions is None:
        return entry
    name = entry.name
    there = {
        version
        for registry in registries
        if registry.name == entry.registry.name and name in registry.document.models
        for version in registry.document.models[name].versions
    }
    fitting = [version for version in there if want.fits(version)]
    if not fitting:
        versions = ", ".join(map(str, sorted(there)))
        raise NotFoundError(f"{name} has no version {want.versions} in registry '{entry.registry.name}': {versions}")
    return resolve(locks.Reference(name, entry.registry.name, max(fitting)), registries)


def _locked(entry: Entry) -> Locked:
    return Locked(
        registry=entry.registry.name,
        name=entry.name,
        version=entry.version,
        digest=entry.digest,
        size=entry.size,
        license=entry.model.license,
        url="" if entry.registry.folder else shown(entry.registry.url),
    )
