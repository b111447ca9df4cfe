"""Models in one file, for machines without a network: a tar of registries with nothing but the models asked for.

<registry>/registry.yaml                            first, so that all that follows is known before it is read
<registry>/models/<name>/<version>/<file>           as in the registry of a folder

A tar from elsewhere is a stranger's: only plain files of these names and of the sizes that its registry.yaml states are
taken out of it, into a temporary folder, from where the store pulls them with all of its checks.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import IntegrityError, InvalidFileError, StoreError
from ..formats import manifest as manifests
from ..formats import registry as registries
from ..formats import strictyaml
from ..formats.registry import FORMAT, REGISTRY, Entry, Registry, RegistryDocument
from ..names import MANIFEST, NAME
from ..system.files import folder_beside, make_folder, sync_file, sync_folder
from ..system.paths import read_file
from ..text import human_bytes, safe_text
from .store import MARGIN_BYTES, Installed, Store

_LIST = re.compile(rf"(?P<registry>{NAME})/{re.escape(REGISTRY)}")
_MOST_REGISTRIES = 100


def write(models: Sequence[Installed], out: Path) -> None:
    """Writes pulled models into a tar, in the same bytes each time.

    Raises:
        IntegrityError: a model does not have the bytes that it was pulled with.
        StoreError: it cannot be written.
    """
    with folder_beside(out) as folder:
        with tarfile.open(folder / "tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for registry in dict.fromkeys(one.registry for one in models):
                mine = [one for one in models if one.registry == registry]
                _write_registry(tar, registry, mine)
        _put_in_place(folder / "tar", out)


def _put_in_place(file: Path, out: Path) -> None:
    sync_file(file)
    file.replace(out)
    sync_folder(out.parent)


def _write_registry(tar: tarfile.TarFile, registry: str, models: Sequence[Installed]) -> None:
    document = RegistryDocument(format=FORMAT)
    for one in sorted(models, key=lambda one: (one.name, one.version)):
        if damage := Store().verify(one):
            raise IntegrityError(f"{one}: {damage[0]}; `zoo pull {one}` repairs it")
        data = manifests.read_bytes(one.folder)
        manifest = manifests.parse(data, f"{one} {MANIFEST}")
        document = registries.add_version(document, manifest, one.digest, len(data))
    _add(tar, f"{registry}/{REGISTRY}", strictyaml.dump(document))
    for name, model in document.models.items():
        for version, listed in model.versions.items():
            folder = next(one.folder for one in models if (one.name, one.version) == (name, version))
            for file, says in listed.files.items():
                with (folder / file).open("rb") as f:
                    tar.addfile(_plain(f"{registry}/{says.url}", says.size), f)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_plain(name, len(data)), io.BytesIO(data))


def _plain(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def add(file: Path) -> list[Installed]:
    """Adds the models of a tar to the store, as if they were pulled from the registries that it names.

    Raises:
        InvalidFileError: it is not a tar of this kind, or something in it must not be taken out.
        IntegrityError: bytes that do not match their digests, or a version that had another digest here.
        StoreError: the store cannot be written, or is too small.
    """
    read_file(file, 1)  # a folder, a pipe, a device: one line
    store = Store()
    make_folder(store.root)
    with folder_beside(store.root / "add") as folder:
        try:
            with tarfile.open(file, "r:") as tar:  # not compressed, so nothing in it is larger than the file
                found = list(_extract(tar, folder, safe_text(file)))
        except (tarfile.TarError, EOFError, UnicodeError, ValueError) as e:
            raise InvalidFileError(
                f"{safe_text(file)} is not a tar that `zoo bundle` writes: {safe_text(e)[:200]}"
            ) from None
        return [store.pull(entry) for registry in found for entry in _entries(registry)]


def _extract(tar: tarfile.TarFile, folder: Path, source: str) -> Iterator[Registry]:
    """Takes out what may be taken out; yields the registries."""
    sizes: dict[str, int] = {}  # of the files that may follow
    lists: list[str] = []
    for member in tar:
        name, shown = member.name, f"{source}: '{safe_text(member.name)[:200]}'"
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise InvalidFileError(f"{shown} is not a plain file")
        if listed := _LIST.fullmatch(name):
            if listed["registry"] in lists or len(lists) == _MOST_REGISTRIES:
                raise InvalidFileError(f"{shown} is there twice, or one too many")
            sizes[name] = min(member.size, strictyaml.MAX_BYTES + 1)
            lists.append(listed["registry"])
        if sizes.pop(name, None) != member.size:
            raise InvalidFileError(f"{shown} does not belong to a model, is there twice, or has another size")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None  # it is a plain file
        with path.open("xb") as f:
            shutil.copyfileobj(content, f)
        if path.stat().st_size != member.size:
            raise InvalidFileError(f"{shown} is cut off")
        if listed:
            try:
                registry = registries.read(path.parent, listed["registry"])
            except InvalidFileError as e:
                raise InvalidFileError(f"{source}: {str(e).replace(f'{safe_text(folder)}/', '')}") from None
            sizes |= _files(registry)
            _check_space(sum(sizes.values()), folder)
    if missing := next(iter(sizes), None) or (not lists and REGISTRY):
        raise InvalidFileError(f"{source} has no {safe_text(missing)[:200]}")
    for name in lists:
        yield registries.read(folder / name, name)


def _files(registry: Registry) -> dict[str, int]:
    """The names in the tar and the sizes of all files of a registry, wherever its URLs lead."""
    files = {}
    for entry in _entries(registry):
        for name, file in entry.files.items():
            if file.url != f"models/{entry.name}/{entry.version}/{name}":
                raise InvalidFileError(f"{registry.name}: the URL of {entry} {name} is not its place in the tar")
            files[f"{registry.name}/{file.url}"] = file.size
    return files


def _entries(registry: Registry) -> list[Entry]:
    return [
        Entry(registry, name, version) for name, model in registry.document.models.items() for version in model.versions
    ]


def _check_space(need: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < 2 * need + MARGIN_BYTES:
        raise StoreError(f"{human_bytes(2 * need)} are needed to add this, and {human_bytes(free)} are free")
