"""Publishes a bundle into a registry folder: copies it, checks it, and lists it in registry.yaml, in that order."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import IntegrityError, InvalidFileError, StoreError
from ..formats import manifest as manifests
from ..formats import registry as registries
from ..formats.manifest import Manifest
from ..formats.registry import REGISTRY, RegistryDocument
from ..names import MANIFEST
from ..system.files import default_mode, make_folder, replace_folder, sync_file, sync_folder, sync_folders
from ..text import safe_text

if TYPE_CHECKING:
    from ..system.ed25519 import SigningKey

_TEMPORARY = ".publish-"


def publish(
    bundle: Path,
    folder: Path,
    seconds: Callable[[], float | None] = lambda: None,
    keys: "Sequence[SigningKey]" = (),
) -> Manifest:
    """Copies a bundle to `folder/models/<name>/<version>/` and adds it to `folder/registry.yaml`.

    Publishing the same bundle again changes nothing. A reader of the registry sees the version only when all of its
    files are there.

    Args:
        seconds: measures what a picture takes, once the bundle is known to be safe; None: unknown.
        keys: sign the registry, which must be signed already.

    Raises:
        IntegrityError: a file does not match the manifest, or the version is published with another digest.
        InvalidFileError: a graph must not be run; see `zoo.graph.check`.
        UsageError: the registry is signed and there are no keys, or it is not and there are some.
        StoreError: the folder cannot be written.
    """
    from filelock import FileLock

    from ..graph.check import check
    from .signing import sign_published

    data = manifests.read_bytes(bundle)
    manifest, digest = manifests.parse(data, str(bundle / MANIFEST)), manifests.digest(data)
    if wrong := manifests.check_files(bundle, manifest):
        raise IntegrityError(f"{safe_text(bundle)}: {safe_text('; '.join(wrong))}")
    if unsafe := check(bundle, manifest):
        raise InvalidFileError(f"{safe_text(bundle)}: {safe_text('; '.join(unsafe))}")
    took = seconds()
    try:
        make_folder(folder)
        with FileLock(folder / ".registry.lock"):  # two publishers must not overwrite each other's line
            before = RegistryDocument(format=registries.FORMAT)
            if (folder / REGISTRY).exists() or (folder / REGISTRY).is_symlink():
                before = registries.read(folder, "target").document
            document = registries.add_version(before, manifest, digest, len(data), took)
            sign = sign_published(folder, keys)
            _copy(bundle, folder, manifest, data)
            if document != before:
                registries.write(document, folder)
            sign()
    except OSError as e:
        raise StoreError(f"cannot publish to {safe_text(folder)}: {e.strerror or e}") from None
    return manifest


def _copy(bundle: Path, folder: Path, manifest: Manifest, data: bytes) -> None:
    """Copies the bundle's files to their place in the registry, all or none, and syncs every folder on the way.

    Args:
        data: the manifest's bytes. The registry must be locked.
    """
    target = folder / "models" / manifest.name / str(manifest.version)
    there = target / MANIFEST
    if there.is_file() and there.read_bytes() == data and not manifests.check_files(target, manifest):
        # A publisher that was killed may not have synced it.
        for name in (*manifest.files, MANIFEST):
            sync_file(target / name)
        sync_folder(target)
        sync_folders(target.parent, folder)
        return
    make_folder(target.parent)
    for stale in target.parent.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(stale)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=_TEMPORARY))
    try:
        (temporary / MANIFEST).write_bytes(data)
        for name in manifest.files:
            shutil.copyfile(bundle / name, temporary / name)
        for name in (*manifest.files, MANIFEST):
            sync_file(temporary / name)
        sync_folder(temporary)
        if wrong := manifests.check_files(temporary, manifest):
            raise IntegrityError(f"{safe_text(bundle)} changed while it was copied: {safe_text('; '.join(wrong))}")
        temporary.chmod(default_mode(temporary))
        replace_folder(temporary, target)  # there may be a damaged one, or one of a publisher that was killed
        sync_folders(target.parent, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
