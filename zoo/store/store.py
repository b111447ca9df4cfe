"""The store of pulled models: complete, checked, readable without network and without writes.

blobs/<sha256>                       files by digest, read-only (blobs.py)
views/<digest of model.yaml>/        a bundle's folder, made of reflinks, else hard links (weights: copies)
refs/<registry>/<name>/<version>     the digest; written last: from then on the model is visible
seen/<registry>/<name>/<version>     the digest that this client first saw; stays when the model is removed

A process may be killed at any point: what is visible is complete, and `prune` cleans up what is not visible.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import IntegrityError, InvalidFileError, StoreError
from ..formats.fields import compare_files, digest_of
from ..formats.reference import Reference
from ..formats.registry import Entry
from ..formats.strictyaml import MAX_BYTES
from ..names import MANIFEST, NAME
from ..system.files import make_folder, sync_folder
from ..system.places import home
from ..text import human_bytes, safe_text
from .blobs import PUBLISHED, Blobs, place, publish

if TYPE_CHECKING:
    from ..formats.manifest import Manifest  # at run time only when one is read: an empty store needs no contract

MARGIN_BYTES = 8 << 20  # space that must remain on the disk after a pull
PULL_ATTEMPTS = 3  # if a blob vanishes during a pull, because another process prunes

_REF = re.compile(rf"(?P<registry>{NAME})/(?P<name>{NAME})/(?P<version>[1-9][0-9]{{0,8}})")


@dataclass(frozen=True)
class Installed:
    """A pulled model. `folder` is its bundle."""

    registry: str
    name: str
    version: int
    digest: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}:{self.version}"


class Store:
    """A folder of pulled models; several processes may use it at the same time.

    Args:
        root: the folder; by default `$ZOO_HOME`, else `$XDG_DATA_HOME/zoo`, else `~/.local/share/zoo`.
    """

    def __init__(self, root: Path | None = None):
        self.root = (root or home()).absolute()
        self.blobs = Blobs(self.root)
        self.views, self.refs, self.seen = self.root / "views", self.root / "refs", self.root / "seen"

    # --- Reading: no network, no writes ---

    def installed(self) -> list[Installed]:
        """Every pulled model, by registry, name and version."""
        found = []
        for path in self.refs.glob("*/*/*"):
            digest, ref = read_digest(path), _REF.fullmatch("/".join(path.parts[-3:]))
            if digest and ref and (folder := self.view(digest)).is_dir() and not folder.is_symlink():
                found.append(Installed(ref["registry"], ref["name"], int(ref["version"]), digest, folder))
        return sorted(found, key=lambda i: (i.registry, i.name, i.version))

    def matching(self, reference: Reference) -> list[Installed]:
        """The pulled models that a reference matches."""
        return [
            i
            for i in self.installed()
            if i.name == reference.name
            and reference.registry in (None, i.registry)
            and reference.version in (None, i.version)
            and reference.digest in (None, i.digest)
        ]

    def find(self, reference: Reference) -> Installed | None:
        """The pulled model that a reference names; the highest version if it names none.

        Raises:
            IntegrityError: one of the model's files has changed since it was pulled.
        """
        best = max(self.matching(reference), key=lambda i: i.version, default=None)
        if best and (damage := self.damage(best)):
            raise IntegrityError(f"{best} was changed since it was pulled: {damage[0]}; `zoo pull {best}` repairs it")
        return best

    def damage(self, installed: Installed) -> list[str]:
        """What is wrong, judged by sizes and times; only a file whose time has changed is hashed."""
        manifest, findings = self.read_manifest(installed)
        return compare_files(installed.folder, manifest.files, unchanged=PUBLISHED) if manifest else findings

    def verify(self, installed: Installed) -> list[str]:
        """Hashes every file again; returns what is wrong, one line each, or an empty list."""
        manifest, findings = self.read_manifest(installed)
        if manifest is None:
            return findings
        findings += compare_files(installed.folder, manifest.files)
        for path in sorted(installed.folder.iterdir()):
            if path.name != MANIFEST and path.name not in manifest.files:
                findings.append(f"{safe_text(path.name)} is not listed in the manifest")
        return findings

    def missing(self, entry: Entry) -> int:
        """The number of bytes that a pull would still fetch."""
        if read_digest(self._ref(entry)) == entry.digest and self.view(entry.digest).is_dir():
            return 0
        return sum(self.blobs.missing(file.sha256, file.size) for file in entry.files.values())

    def read_manifest(self, installed: Installed) -> tuple["Manifest | None", list[str]]:
        from ..formats import manifest as manifests

        path = installed.folder / MANIFEST
        try:
            if path.is_symlink() or not path.is_file():
                return None, [f"{MANIFEST} is missing, or not a plain file"]
            data = path.read_bytes()
            if digest_of(data) != installed.digest:
                return None, [f"{MANIFEST} does not match the model's digest {installed.digest[:12]}…"]
            return manifests.parse(data, str(path)), []
        except OSError as e:
            return None, [f"{MANIFEST} cannot be read: {e.strerror}"]

    # --- Pulling ---

    def pull(self, entry: Entry, *, on_bytes: Callable[[int], object] = lambda count: None) -> Installed:
        """Pulls a model: fetches the missing files, checks them, and makes the model visible in one step.

        Args:
            on_bytes: called with the number of bytes whenever some have arrived.

        Raises:
            IntegrityError: wrong bytes, or a version that this client has seen with another digest.
            InvalidFileError: a manifest or graph that must not be used.
            TransportError: a file could not be read.
            StoreError: the disk is full or cannot be written.
        """
        installed = Installed(entry.registry.name, entry.name, entry.version, entry.digest, self.view(entry.digest))
        with storage(self.root):
            self._refuse_other_digest(entry)
            for attempt in range(PULL_ATTEMPTS):
                try:
                    if not self._is_whole(installed):
                        self._fetch_and_show(entry, installed, on_bytes)
                    self._write_ref(self.seen, entry)
                    self._write_ref(self.refs, entry)
                    return installed
                except FileNotFoundError:  # `zoo prune` or `zoo rm` in another process removed a file
                    if attempt + 1 == PULL_ATTEMPTS:
                        raise
        raise AssertionError("the loop above returns or raises")

    def _is_whole(self, installed: Installed) -> bool:
        return installed.folder.is_dir() and not self.damage(installed)

    def _fetch_and_show(self, entry: Entry, installed: Installed, on_bytes: Callable[[int], object]) -> None:
        from ..formats import manifest as manifests

        listed = entry.files[MANIFEST]
        if listed.size > MAX_BYTES:
            raise InvalidFileError(
                f"{entry}: its {MANIFEST} has {listed.size:,} bytes; at most {MAX_BYTES:,} are allowed"
            )
        self._check_space(entry)
        self._ensure(entry, MANIFEST, on_bytes)
        manifest = manifests.parse(self.blobs.path(entry.digest).read_bytes(), f"{entry} {MANIFEST}")
        _check_agreement(entry, manifest)
        for name in manifest.files:
            self._ensure(entry, name, on_bytes)
        self._show(entry, manifest, installed)

    def _ensure(self, entry: Entry, name: str, on_bytes: Callable[[int], object]) -> None:
        file = entry.files[name]
        try:
            self.blobs.ensure(file.sha256, file.size, entry.registry.file_url(file), on_bytes)
        except IntegrityError as e:
            raise IntegrityError(f"{entry}: {name}: {e}") from None

    def _show(self, entry: Entry, manifest: "Manifest", installed: Installed) -> None:
        """Builds the bundle's folder under a temporary name, checks its graphs, and only then gives it its name."""
        import tempfile

        from .check_apart import check_apart

        make_folder(self.views)
        temporary = Path(tempfile.mkdtemp(dir=self.views, prefix="."))
        try:
            for name in (*manifest.files, MANIFEST):
                # ONNX Runtime treats a loop's weight as an attack if its file has several hard links.
                hard_link = not name.endswith(".safetensors")
                place(self.blobs.path(entry.files[name].sha256), temporary / name, hard_link=hard_link)
            if unsafe := check_apart(temporary):
                raise InvalidFileError(f"{entry} must not be run: {safe_text('; '.join(unsafe))[:2000]}")
            temporary.chmod(0o755)
            sync_folder(temporary)
            if installed.folder.exists():
                if self._is_whole(installed):  # another process was faster
                    return
                remove_path(installed.folder)
            try:
                temporary.rename(installed.folder)
            except OSError as e:
                if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            sync_folder(self.views)
        finally:
            import shutil

            shutil.rmtree(temporary, ignore_errors=True)

    def _check_space(self, entry: Entry) -> None:
        lacking = {f.sha256: f.size for f in entry.files.values() if not self.blobs.has(f.sha256, f.size)}
        need = sum(lacking.values()) + MARGIN_BYTES
        existing = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        import shutil

        free = shutil.disk_usage(existing).free
        if lacking and free < need:
            raise StoreError(
                f"{entry} needs {human_bytes(need)} in {safe_text(self.root)}, which has {human_bytes(free)} free;"
                " free space with `zoo prune`, or set ZOO_HOME to another folder"
            )

    def _refuse_other_digest(self, entry: Entry) -> None:
        for kind in (self.seen, self.refs):
            known = read_digest(self._ref(entry, kind))
            if known and known != entry.digest:
                raise _other_digest(entry, known)

    def _write_ref(self, kind: Path, entry: Entry) -> None:
        import tempfile

        path = self._ref(entry, kind)
        if read_digest(path) == entry.digest:
            return
        make_folder(path.parent)
        make_folder(self.blobs.ingests)
        fd, name = tempfile.mkstemp(dir=self.blobs.ingests, prefix="ref.")
        temporary = Path(name)
        try:
            with os.fdopen(fd, "w") as f:
                f.write(entry.digest + "\n")
                f.flush()
                os.fchmod(fd, 0o444)
                os.fsync(fd)
            try:
                publish(temporary, path)
            except FileExistsError:
                known = read_digest(path)
                if known is None:  # damaged: no digest at all
                    temporary.replace(path)
                    sync_folder(path.parent)
                elif known != entry.digest:
                    raise _other_digest(entry, known) from None
        finally:
            temporary.unlink(missing_ok=True)

    # --- Paths ---

    def view(self, digest: str) -> Path:
        return self.views / self.blobs.path(digest).name

    def _ref(self, entry: Entry, kind: Path | None = None) -> Path:
        parts = entry.registry.name, entry.name
        if not all(re.fullmatch(NAME, part) for part in parts):
            raise InvalidFileError(f"{safe_text('/'.join(parts))} is not the name of a model")
        return (kind or self.refs).joinpath(*parts, str(int(entry.version)))


@contextmanager
def storage(root: Path) -> Iterator[None]:
    """Turns errors of the operating system into one line that names the path and the cause."""
    try:
        yield
    except OSError as e:
        hints = {
            errno.ENOSPC: "; free some space (`zoo prune`): the next pull continues from here",
            errno.EROFS: "; set ZOO_HOME to a folder that can be written",
            errno.EACCES: "; set ZOO_HOME to a folder that can be written",
        }
        raise StoreError(
            f"cannot write {safe_text(e.filename or root)}: {e.strerror or e}{hints.get(e.errno or 0, '')}"
        ) from None


def _check_agreement(entry: Entry, manifest: "Manifest") -> None:
    """Checks that the registry and the manifest say the same about the model."""
    if (manifest.name, manifest.version) != (entry.name, entry.version):
        raise IntegrityError(f"{entry}: its {MANIFEST} belongs to {manifest.name}:{manifest.version}")
    listed = {name: (f.size, f.sha256) for name, f in entry.files.items() if name != MANIFEST}
    inside = {name: (f.size, f.sha256) for name, f in manifest.files.items()}
    if differing := sorted(name for name in listed.keys() | inside.keys() if listed.get(name) != inside.get(name)):
        raise IntegrityError(
            f"{entry}: the registry '{entry.registry.name}' and its {MANIFEST} differ on {', '.join(differing)}"
        )


def _other_digest(entry: Entry, known: str) -> IntegrityError:
    return IntegrityError(
        f"{entry} had the digest {known} when it was first seen here; the registry '{entry.registry.name}' now says"
        f" {entry.digest}; a published version never changes. If you trust the new one, remove the registry and the"
        " model (`zoo registry remove`, `zoo rm`) and add them again"
    )


def read_digest(path: Path) -> str | None:
    try:
        text = path.read_bytes()[:80].decode("ascii", "replace").strip()
    except OSError:
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def remove_path(path: Path) -> None:
    """Removes a file or folder: hides it in one step, then deletes it."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    trash = path.parent / f".trash-{os.getpid()}-{path.name[:16]}"
    with suppress(FileNotFoundError):
        path.rename(trash)
    import shutil

    shutil.rmtree(trash, ignore_errors=True)
