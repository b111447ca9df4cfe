"""`registry.yaml`: lists models, their versions, and where their files are.

A registry is a YAML file next to its files: any folder, web server or bucket can be one. It maps each version to the
model's digest and to the size, SHA-256 and URL of each file, with URLs relative to the registry's own location.
docs/registry.md describes the format. This module reads, resolves, searches and publishes; it does not fetch anything.
"""

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, structs

from ..errors import IntegrityError, InvalidFileError, NotFoundError
from ..names import MANIFEST, FileName, Line, Name, PortName, Sha256, Size
from ..system.files import write_atomically
from ..system.paths import read_file
from ..system.places import DEFAULT
from ..system.urls import join, path_of, shown, split
from ..text import did_you_mean, safe_text
from . import strictyaml
from .fields import Struct, check_file_names
from .reference import Reference

if TYPE_CHECKING:
    from .manifest import Manifest  # it imports the whole contract, which reading a registry does not need

FORMAT = 1
REGISTRY = "registry.yaml"


class RegistryFile(Struct, frozen=True, kw_only=True):
    """A file of a version: its size, digest and location."""

    size: Size
    sha256: Sha256
    url: Annotated[str, Meta(min_length=1, max_length=2000)]  # relative to the registry, or absolute


class RegistryVersion(Struct, frozen=True, kw_only=True):
    """A published version. It never changes."""

    digest: Sha256  # of its model.yaml
    seconds: Annotated[float, Meta(gt=0)] | None = None  # for a picture: processor time, one core, the default task
    files: dict[FileName, RegistryFile]  # all files, including model.yaml

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files.values())


class RegistryModel(Struct, frozen=True, kw_only=True):
    """What a registry says about a model, without fetching it."""

    summary: Line
    family: Name
    license: Annotated[str, Meta(min_length=1, max_length=100)]
    tasks: tuple[PortName, ...]
    versions: dict[Annotated[int, Meta(ge=1, le=10**9)], RegistryVersion]


class RegistryDocument(Struct, frozen=True, kw_only=True):
    """The file's top level."""

    format: int
    models: dict[Name, RegistryModel] = {}


@dataclass(frozen=True)
class Registry:
    """A registry that was read: its local name, location and contents."""

    name: str
    url: str  # of registry.yaml itself: file:// or http(s)://
    document: RegistryDocument

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a remote registry."""
        return path_of(self.url).parent if split(self.url).scheme == "file" else None

    def file_url(self, file: RegistryFile) -> str:
        """The absolute URL of a file. A remote registry cannot name local files; schemes are http, https, file.

        Raises:
            InvalidFileError: it is not a URL, or one that the registry must not name.
        """
        where = f"registry '{safe_text(self.name)}': the URL {shown(file.url)}"
        try:
            url = join(self.url, file.url)
            scheme = split(url).scheme
        except InvalidFileError:
            raise InvalidFileError(f"{where} is not a URL") from None
        folder = self.folder
        allowed = ("file", "http", "https") if folder else ("http", "https")
        if scheme not in allowed:
            raise InvalidFileError(f"{where} has the scheme '{safe_text(scheme)}'; it may be {' or '.join(allowed)}")
        try:
            if scheme == "file" and folder and not _resolved(path_of(url)).is_relative_to(folder.resolve()):
                raise InvalidFileError(f"{where} leaves the registry's folder")
        except (OSError, ValueError):  # a path that no file system takes; links that lead in a circle
            raise InvalidFileError(f"{where} is not a path that can be read") from None
        return url


def _resolved(path: Path) -> Path:
    """The path without links, of which the end may be missing; OSError where links lead in a circle."""
    try:
        path.stat()  # Path.resolve ignores a circle since Python 3.13
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise
    return path.resolve()


# --- References -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One version of one model of one registry."""

    registry: Registry
    name: str
    version: int

    @property
    def model(self) -> RegistryModel:
        return self.registry.document.models[self.name]

    @property
    def files(self) -> dict[str, RegistryFile]:
        return self.model.versions[self.version].files

    @property
    def digest(self) -> str:
        return self.model.versions[self.version].digest

    @property
    def seconds(self) -> float | None:
        return self.model.versions[self.version].seconds

    @property
    def size(self) -> int:
        return self.model.versions[self.version].size

    @property
    def reference(self) -> Reference:
        """Complete: registry, name, version and digest."""
        return Reference(self.name, self.registry.name, self.version, self.digest)

    def __str__(self) -> str:
        prefix = "" if self.registry.name == DEFAULT else f"{self.registry.name}/"
        return f"{prefix}{self.name}:{self.version}"


def resolve(reference: Reference, registries: Iterable[Registry]) -> Entry:
    """The entry that a reference names: from the first registry that has the model, by default its highest version.

    Registries of one name are parts of one: of equal versions, that of the first part counts. A registry that lists no
    version of a model keeps its name from those that follow, and so does the default one that has another version.

    Raises:
        NotFoundError: no such registry, model or version; similar names are suggested.
    """
    registries = list(registries)
    searched = [r for r in registries if reference.registry in (None, r.name)]
    if reference.registry and not searched:
        names = list(dict.fromkeys(r.name for r in registries))
        raise NotFoundError(
            f"no registry '{safe_text(reference.registry)}'; there are {', '.join(names) or 'none'}"
            + did_you_mean(reference.registry, names)
        )
    found = [r for r in searched if reference.name in r.document.models]
    if not found:
        known = [name for r in searched for name in r.document.models]
        hint = did_you_mean(reference.name, known) or "; `zoo list` lists all models"
        raise NotFoundError(f"no model '{safe_text(reference.name)}' in {_named(searched)}{hint}")
    if reference.registry is None and found[0].name == DEFAULT:  # its names are its own, for every version
        found = [r for r in found if r.name == DEFAULT]
    if not any(r.document.models[reference.name].versions for r in found if r.name == found[0].name):
        raise NotFoundError(f"{reference.name} of {_named(found[:1])} is not installed")
    fitting = [
        Entry(registry, reference.name, version)
        for registry in found
        for version, listed in registry.document.models[reference.name].versions.items()
        if reference.version in (None, version) and reference.digest in (None, listed.digest)
    ]
    if fitting:
        first = fitting[0].registry.name
        return max((entry for entry in fitting if entry.registry.name == first), key=lambda entry: entry.version)
    there = [f"{version}" for r in found for version in sorted(r.document.models[reference.name].versions)]
    wanted = f"digest {reference.digest[:12]}…" if reference.digest else f"version {reference.version}"
    raise NotFoundError(f"{reference.name} has no {wanted} in {_named(found)}; versions there: {', '.join(there)}")


def _named(registries: list[Registry]) -> str:
    names = dict.fromkeys(safe_text(r.name) for r in registries)
    return ", ".join(f"registry '{name}'" for name in names) or "any registry"


# --- Reading ----------------------------------------------------------------------------------------------------------


def parse(data: bytes, name: str, url: str) -> Registry:
    """Parses a registry from its file's bytes.

    Args:
        name: its local name.
        url: of the registry.yaml itself.

    Raises:
        InvalidFileError: `url:line: field: reason`.
    """
    source = str(path_of(url)) if split(url).scheme == "file" else shown(url)
    document = strictyaml.load(data, source, RegistryDocument, remember=True)
    if document.format != FORMAT:
        raise InvalidFileError(
            f"{safe_text(source)}: format {document.format}; this version of zoo reads format {FORMAT}: upgrade zoo"
        )
    for model_name, model in document.models.items():
        if not model.versions:
            raise InvalidFileError(f"{safe_text(source)}: models.{model_name}: a model must have at least one version")
        for version, entry in model.versions.items():
            where = f"{source}: models.{model_name}.versions.{version}"
            check_file_names(entry.files, where)
            if MANIFEST not in entry.files or entry.files[MANIFEST].sha256 != entry.digest:
                raise InvalidFileError(
                    f"{safe_text(where)}: the digest must be the SHA-256 of its {MANIFEST}, which must be listed"
                )
    return Registry(name, url, document)


def read(folder: Path, name: str) -> Registry:
    """The registry of a local folder (or of a registry.yaml itself)."""
    path = (folder if folder.name == REGISTRY else folder / REGISTRY).absolute()
    return parse(read_bytes(path), name, path.as_uri())


def read_bytes(path: Path) -> bytes:
    """The bytes of a local registry.yaml; NotFoundError where there is none."""
    try:
        return read_file(path, strictyaml.MAX_BYTES)
    except NotFoundError:
        raise NotFoundError(f"{safe_text(path.parent)} is not a registry: it has no {REGISTRY}") from None


# --- Publishing -------------------------------------------------------------------------------------------------------


def add_version(
    document: RegistryDocument, manifest: "Manifest", digest: str, manifest_size: int, seconds: float | None = None
) -> RegistryDocument:
    """The document with a version added.

    Args:
        seconds: for a picture, if they were measured; a figure that is there stays.

    Raises:
        IntegrityError: the version exists with another digest; a published version never changes.
    """
    base = PurePosixPath("models", manifest.name, str(manifest.version))
    files = {MANIFEST: RegistryFile(size=manifest_size, sha256=digest, url=str(base / MANIFEST))}
    for name, file in manifest.files.items():
        files[name] = RegistryFile(size=file.size, sha256=file.sha256, url=str(base / name))
    versions = dict(document.models[manifest.name].versions) if manifest.name in document.models else {}
    if (there := versions.get(manifest.version)) and there.digest != digest:
        raise IntegrityError(
            f"{manifest.name}:{manifest.version} is already published with digest {there.digest[:12]}…, this bundle has"
            f" {digest[:12]}…; a published version never changes: give the bundle a higher version"
        )
    seconds = there.seconds if there and there.seconds else seconds
    versions[manifest.version] = RegistryVersion(digest=digest, seconds=seconds, files=files)
    newest = manifest.version == max(versions)
    model = document.models.get(manifest.name)
    if newest or model is None:
        model = RegistryModel(
            summary=manifest.summary,
            family=manifest.family,
            license=manifest.license,
            tasks=tuple(name for name, task in manifest.tasks.items() if not task.part_of),
            versions={},
        )
    model = structs.replace(model, versions=dict(sorted(versions.items())))
    return RegistryDocument(format=FORMAT, models=dict(sorted((document.models | {manifest.name: model}).items())))


def write(document: RegistryDocument, folder: Path) -> None:
    """Replaces the folder's registry.yaml in one step: a reader sees the old one or the new one."""
    write_atomically(folder / REGISTRY, strictyaml.dump(document))
