"""The store of pulled models: complete, checked, readable without network and without writes.

blobs/<sha256>                       files by digest, read-only, or a link to the only copy, in a view (blobs.py)
views/<digest of model.yaml>/        a bundle's folder, made of reflinks, else hard links (weights: their only copy)
views/.aside-<digest>-<token>/       a view that is being removed, until it is certain that no pull has just named it
refs/<registry>/<name>/<version>     the digest; written last: from then on the model is visible
seen/<registry>/<name>/<version>     the digest that this client first saw; stays when the model is removed

A process may be killed at any point: what is visible is complete, and `prune` cleans up what is not visible. What a
pull has acknowledged stays, whatever else runs, without locks: a pull writes its reference and then looks for the view;
a removal sets the view aside, where readers still find it, and then looks for references. So one sees the other.
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
from ..system.files import make_folder, replace_folder, sync_folder, sync_folders
from ..system.places import home
from ..text import human_bytes, safe_text, warn
from .blobs import PUBLISHED, Blobs, publish

if TYPE_CHECKING:
    from ..formats.manifest import Manifest  # at run time only when one is read: an empty store needs no contract

MARGIN_BYTES = 8 << 20  # space that must remain on the disk after a pull
PULL_ATTEMPTS = 3  # if a blob vanishes during a pull, because another process prunes

ASIDE = ".aside-"  # before the name of a view or reference that is being removed
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
        found = {}
        for path in self.refs.glob("*/*/*"):
            digest, ref = read_digest(path), _REF.fullmatch("/".join(origin(path).parts[-3:]))
            if digest and ref and (folder := self.shown(digest)):
                key = ref["registry"], ref["name"], int(ref["version"])
                found[key] = Installed(*key, digest, folder)
        return [found[key] for key in sorted(found)]

    def shown(self, digest: str) -> Path | None:
        """A view's folder, even if it is being removed."""
        view = self.view(digest)
        if not view.is_dir():
            # The last one, since a removal may put it back in between.
            view = next((folder for folder in (*asides(view), view) if folder.is_dir()), view)
        return view if view.is_dir() and not view.is_symlink() else None

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
                    shown = self._is_whole(installed)
                    if shown:
                        self._check_shown(entry, installed)
                    else:
                        self._fetch_and_show(entry, installed, on_bytes)
                    sync_folder(self.views)  # also here: a pull that made the view may have been killed
                    for kind in (self.seen, self.refs):
                        self._write_ref(kind, entry)
                        # Also here: the same goes for these folders.
                        sync_folders(self._ref(entry, kind).parent.parent, self.root)
                    installed.folder.stat()  # a removal that has not seen the reference may have taken it
                    if not shown:  # only now, since the view is durable and named
                        self.blobs.keep_once(
                            (file.sha256, installed.folder / name) for name, file in entry.files.items()
                        )
                    return installed
                except FileNotFoundError:  # or a blob
                    if attempt + 1 == PULL_ATTEMPTS:
                        raise
        raise AssertionError("the loop above returns or raises")

    def _is_whole(self, installed: Installed) -> bool:
        if not installed.folder.is_dir():
            for hidden in asides(installed.folder):
                with suppress(OSError):  # another process was faster
                    hidden.rename(installed.folder)
        return installed.folder.is_dir() and not self.damage(installed)

    def _check_shown(self, entry: Entry, installed: Installed) -> None:
        manifest, _ = self.read_manifest(installed)
        if manifest is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(installed.folder / MANIFEST))
        _check_agreement(entry, manifest)

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
                self.blobs.place(entry.files[name].sha256, temporary / name, hard_link=may_link(name))
            if unsafe := check_apart(temporary):
                raise InvalidFileError(f"{entry} must not be run: {safe_text('; '.join(unsafe))[:2000]}")
            temporary.chmod(0o755)
            sync_folder(temporary)
            if self._is_whole(installed):  # another process was faster
                return
            try:
                replace_folder(temporary, installed.folder)
            except OSError as e:
                if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        finally:
            import shutil

            shutil.rmtree(temporary, ignore_errors=True)

    def _check_space(self, entry: Entry) -> None:
        need = self._bytes_to_write(entry)
        existing = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        import shutil

        free = shutil.disk_usage(existing).free
        if need and free < need + MARGIN_BYTES:
            raise StoreError(
                f"{entry} needs {human_bytes(need)} in {safe_text(self.root)}, and {human_bytes(MARGIN_BYTES)} to"
                f" spare; it has {human_bytes(free)} free: make room with `zoo prune`, or set ZOO_HOME to another one"
            )

    def _bytes_to_write(self, entry: Entry) -> int:
        """Bytes of the missing blobs, also of those that were fetched in part, and of the view's files that can neither
        be reflinks nor hard links of them."""
        blobs = {f.sha256: f.size for f in entry.files.values() if not self.blobs.has(f.sha256, f.size)}
        reflinks, hard_links = self.blobs.can_share()
        copies = [f.size for name, f in entry.files.items() if not (reflinks or (hard_links and may_link(name)))]
        return sum(blobs.values()) + sum(copies)

    def _refuse_other_digest(self, entry: Entry) -> None:
        for kind in (self.seen, self.refs):
            known = read_digest(self._ref(entry, kind))
            if known and known != entry.digest:
                raise _other_digest(entry, known)

    def _write_ref(self, kind: Path, entry: Entry) -> None:
        import tempfile

        path = self._ref(entry, kind)
        if read_digest(path) == entry.digest:
            return sync_folder(path.parent)
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

    # --- Removing ---

    def names(self, digest: str) -> bool:
        """Whether a reference names this digest."""
        return any(read_digest(path) == digest for path in self.refs.glob("*/*/*"))

    def remove_view(self, folder: Path) -> None:
        """Removes a view, unless a pull has just named it: then it stays."""
        hidden = folder if folder.name.startswith(ASIDE) else aside(folder)
        with suppress(FileNotFoundError):  # another removal was faster
            if hidden != folder:
                folder.rename(hidden)
            if self.names(origin(hidden).name):
                try:
                    hidden.rename(origin(hidden))
                    return sync_folder(self.views)
                except OSError as e:  # the pull has made a new one
                    if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
            remove_path(hidden)

    def remove_stale_ref(self, path: Path) -> None:
        """Removes a reference whose view is gone, unless a pull has just made the view: then it stays."""
        hidden = path if path.name.startswith(ASIDE) else aside(path)
        with suppress(FileNotFoundError):
            if hidden != path:
                path.rename(hidden)
            digest = read_digest(hidden)
            if digest and self.shown(digest):
                with suppress(FileExistsError):  # the pull has written a new one
                    publish(hidden, origin(hidden))
            hidden.unlink()

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


def may_link(name: str) -> bool:
    """Whether a view's file may be a hard link. ONNX Runtime refuses a loop's weight in a file with several of them."""
    return not name.endswith(".safetensors")


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
    _check_description(entry, manifest)


def _check_description(entry: Entry, manifest: "Manifest") -> None:
    """Checks what the registry says without being asked for the model. It describes a model's newest version."""
    tasks = sorted(name for name, task in manifest.tasks.items() if not task.part_of)
    says = {
        "licence": (entry.model.license, manifest.license),
        "family": (entry.model.family, manifest.family),
        "tasks": (" ".join(sorted(entry.model.tasks)), " ".join(tasks)),
        "summary": (entry.model.summary, manifest.summary),
    }
    differing = [
        f"{what} '{safe_text(one)[:100]}', not '{safe_text(other)[:100]}'"
        for what, (one, other) in says.items()
        if one != other
    ]
    if differing and entry.version == max(entry.model.versions):
        raise IntegrityError(
            f"{entry}: the registry '{safe_text(entry.registry.name)}' says {'; '.join(differing)} as its {MANIFEST}"
        )
    if entry.model.license != manifest.license:
        warn("%s has the licence '%s'; the registry names that of a newer version", entry, manifest.license)


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


def aside(path: Path) -> Path:
    """Where a view or reference is while it is being removed: a new name each time, since several processes may."""
    import secrets

    return path.with_name(f"{ASIDE}{path.name}-{secrets.token_hex(8)}")


def asides(path: Path) -> list[Path]:
    """Where a view or reference is that is being removed."""
    return list(path.parent.glob(f"{ASIDE}{path.name}-*"))


def origin(path: Path) -> Path:
    """The path of a view or reference before it was set aside; any other path unchanged."""
    name = path.name
    return path.with_name(name.removeprefix(ASIDE).partition("-")[0]) if name.startswith(ASIDE) else path


def remove_path(path: Path) -> None:
    """Removes a file or folder: hides it in one step, durably, then deletes it."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    trash = path.parent / f".trash-{os.getpid()}-{path.name[-16:]}"
    with suppress(FileNotFoundError):
        path.rename(trash)
        sync_folder(path.parent)
    import shutil

    shutil.rmtree(trash, ignore_errors=True)
