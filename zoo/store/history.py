"""What this client has seen of a registry: the digest of every version, and the highest version of each model.

Whoever can write to a server, or stands in between, could else show an older registry in which a fixed model is still
the broken one, or remove a version and bring it back with other bytes. Registries inside installed packages are exempt:
they change with the package.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ..errors import IntegrityError
from ..formats.fields import Struct
from ..formats.registry import Registry
from ..names import Name, Sha256, Version
from ..system.files import write_atomically
from ..text import safe_text, warn

FORMAT = 1


class Seen(Struct, frozen=True, kw_only=True):
    """A model's versions."""

    highest: Annotated[int, Meta(ge=0, le=10**9)]  # that the registry listed last; 0 if the model was gone
    digests: dict[Version, Sha256]  # of all versions that it ever listed


class History(Struct, frozen=True, kw_only=True):
    """The file next to the last copy of a registry."""

    format: int = FORMAT
    models: dict[Name, Seen] = {}


def read(path: Path) -> History:
    """The history in a file; an empty one if there is none, or if it cannot be read."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=History)
        if found.format == FORMAT:
            return found
        warn("%s has the format %s, which this version of zoo does not read: it starts again", path, found.format)
    except FileNotFoundError:
        pass
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as e:
        warn("%s cannot be read, and starts again: %s", path, safe_text(e)[:200])
    return History()


def write(history: History, path: Path) -> None:
    write_atomically(path, msgspec.json.encode(history))


def refuse_other_digests(history: History, registry: Registry) -> None:
    """Refuses a registry that lists a version with another digest than it ever had.

    Raises:
        IntegrityError: it names the version and both digests.
    """
    for name, model in registry.document.models.items():
        before = history.models[name].digests if name in history.models else {}
        for number, version in model.versions.items():
            if before.get(number, version.digest) != version.digest:
                raise IntegrityError(
                    f"{registry.name}/{name}:{number} had the digest {before[number]}; the registry now says"
                    f" {version.digest}; a published version never changes"
                )


def steps_back(history: History, registry: Registry) -> list[str]:
    """The models whose highest version is lower than before, or that are gone, a phrase each."""
    return list(_steps_back(history, registry))


def _steps_back(history: History, registry: Registry) -> Iterator[str]:
    for name, seen in sorted(history.models.items()):
        if name not in registry.document.models:
            if seen.highest:
                yield f"{name} is gone"
        elif (highest := max(registry.document.models[name].versions)) < seen.highest:
            yield f"{name} was at version {seen.highest} and is at {highest}"


def extended(history: History, registry: Registry) -> History:
    """The history with what a registry lists now, which may be a step back that the user has allowed."""
    models = {name: msgspec.structs.replace(seen, highest=0) for name, seen in history.models.items()}
    for name, model in registry.document.models.items():
        digests = models[name].digests if name in models else {}
        digests = digests | {number: version.digest for number, version in model.versions.items()}
        models[name] = Seen(highest=max(model.versions), digests=digests)
    return History(models=models)


def when(path: Path) -> str:
    """When a file was written: `2026-11-28 13:05`."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
    except OSError:
        return "at an unknown time"
