"""`zoo.lock`: the models of a project, each with the version and digest that it uses. docs/registry.md describes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from ..errors import InvalidFileError, NotFoundError, UsageError
from ..names import Name, Sha256, Size, Version
from ..system.files import write_atomically
from ..system.paths import read_file
from ..text import safe_text
from . import strictyaml
from .fields import Struct
from .reference import Reference

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

FORMAT = 1
LOCK = "zoo.lock"

_RANGE = re.compile(r"\s*([<>=!~].*)", re.DOTALL)
_CONFLICT = re.compile(rb"^(<{7}|={7}|>{7}|\|{7})( |\r?$)", re.MULTILINE)


class Locked(Struct, frozen=True, kw_only=True):
    """A model as it was locked."""

    registry: Name
    name: Name
    version: Version
    digest: Sha256
    size: Size  # bytes of all its files
    license: Annotated[str, Meta(min_length=1, max_length=100)]  # as the registry says
    url: Annotated[str, Meta(max_length=2000)] = ""  # of a remote registry, for whoever has not added it

    @property
    def reference(self) -> Reference:
        return Reference(self.name, self.registry, self.version, self.digest)


class Lock(Struct, frozen=True, kw_only=True):
    """The file's top level."""

    format: int
    models: dict[Annotated[str, Meta(min_length=1, max_length=300)], Locked] = {}  # by what is wanted


@dataclass(frozen=True)
class Want:
    """A model that a project wants: a reference, or a name and a range, `lab/portraits>=2,<4`."""

    text: str
    reference: Reference
    versions: SpecifierSet | None

    @classmethod
    def parse(cls, text: str) -> Want:
        """Raises UsageError if the text is neither."""
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        found = _RANGE.search(text)
        if not found:
            return cls(text, Reference.parse(text), None)
        reference = Reference.parse(text[: found.start()])
        try:
            versions = SpecifierSet(found[1])
        except InvalidSpecifier:
            raise UsageError(f"'{safe_text(text)[:200]}': a range of versions is written as >=2,<4") from None
        if reference.version or reference.digest:
            raise UsageError(f"'{safe_text(text)[:200]}' has a version and a range; give one of them")
        return cls("".join(text.split()), reference, versions)

    def fits(self, version: int) -> bool:
        return self.versions is None or self.versions.contains(str(version))


def read(path: Path) -> Lock:
    """The lock in a file.

    Raises:
        NotFoundError: there is none.
        InvalidFileError: `file:line: field: reason`; also if a merge left its marks in it.
    """
    try:
        data = read_file(path, strictyaml.MAX_BYTES)
    except NotFoundError:
        raise NotFoundError(f"there is no {safe_text(path)}; `zoo lock MODEL...` makes one") from None
    if found := _CONFLICT.search(data):
        line = data.count(b"\n", 0, found.start()) + 1
        raise InvalidFileError(
            f"{safe_text(path)}:{line}: a merge left its marks here; choose one side, then run `zoo lock`"
        )
    lock = strictyaml.load(data, safe_text(path), Lock)
    if lock.format != FORMAT:
        raise InvalidFileError(f"{safe_text(path)} has the format {lock.format}; this zoo reads {FORMAT}: upgrade zoo")
    for text, locked in lock.models.items():
        try:
            want = Want.parse(text)
        except UsageError as e:
            raise InvalidFileError(f"{safe_text(path)}: models: {e}") from None
        asked = want.reference
        same = asked.name == locked.name and asked.registry in (None, locked.registry) and want.fits(locked.version)
        if not same or asked.version not in (None, locked.version) or asked.digest not in (None, locked.digest):
            raise InvalidFileError(f"{safe_text(path)}: models.{safe_text(text)} is locked as {locked.reference}")
    return lock


def write(lock: Lock, path: Path) -> None:
    write_atomically(path, strictyaml.dump(lock))


def reference_in(lock: Lock, text: str, source: Path) -> Reference:
    """The complete reference that a lock has for a model.

    Raises:
        NotFoundError: it has none, or several.
    """
    asked = Reference.parse(text)
    found = {
        locked.reference
        for locked in lock.models.values()
        if asked.name == locked.name
        and asked.registry in (None, locked.registry)
        and asked.version in (None, locked.version)
        and asked.digest in (None, locked.digest)
    }
    if len(found) == 1:
        return found.pop()
    if found:
        those = ", ".join(sorted(f"{one.registry}/{one.name}:{one.version}" for one in found))
        raise NotFoundError(f"{safe_text(source)} has several models '{safe_text(text)}': {those}; name one")
    there = ", ".join(sorted(lock.models)) or "none"
    raise NotFoundError(f"{safe_text(source)} has no model '{safe_text(text)}'; there are {safe_text(there)}")
