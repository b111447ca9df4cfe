"""What the file formats and the contract share: names, digests, sizes, and the files of a bundle.

It is separate from them so that `zoo list` reads registries without loading the whole contract.
"""

import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from ..errors import InvalidFileError, NotFoundError
from ..names import MANIFEST, Sha256, Size
from ..system.files import sniff_file
from ..system.paths import read_file
from ..text import safe_text

MAX_BYTES = 1 << 20  # of a YAML file

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z", re.IGNORECASE)


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the file formats' types: immutable, and strict about unknown fields."""


class File(Struct, frozen=True, kw_only=True):
    """Size in bytes and digest of a bundle's file."""

    size: Size
    sha256: Sha256


def check_file_names(names: Iterable[str], source: str) -> None:
    """Refuses names that some operating system treats as another file or as a device."""
    seen: set[str] = set()
    for name in names:
        if _RESERVED.match(name) or name.endswith("."):
            raise InvalidFileError(f"{safe_text(source)}: files: '{safe_text(name)}' is a reserved file name")
        if name.lower() in seen:
            raise InvalidFileError(f"{safe_text(source)}: files: '{safe_text(name)}' differs only in case from another")
        seen.add(name.lower())


def read_manifest(folder: Path) -> bytes:
    """The bytes of a bundle's manifest; NotFoundError where the folder is not a bundle."""
    try:
        return read_file(folder / MANIFEST, MAX_BYTES)
    except NotFoundError:
        inside = f"; {safe_text(folder / 'model')} has one" if (folder / "model" / MANIFEST).is_file() else ""
        raise NotFoundError(f"{safe_text(folder)} is not a bundle: it has no {MANIFEST}{inside}") from None


def digest_of(data: bytes) -> str:
    """SHA-256 of bytes, 64 hex digits; for a manifest's bytes, the model's digest."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def describe_file(path: Path) -> File:
    """Size and SHA-256 of a file."""
    import hashlib

    with path.open("rb") as f:
        sha256 = hashlib.file_digest(f, "sha256").hexdigest()
    return File(size=path.stat().st_size, sha256=sha256)


def compare_files(
    folder: Path, files: Mapping[str, File], says: str = "the manifest", unchanged: float | None = None
) -> list[str]:
    """What is wrong with the files of a folder, a line each: missing, other size, other bytes. Empty: nothing.

    Args:
        says: what states their sizes and digests, for messages.
        unchanged: the modification time of files that are not hashed again.
    """
    wrong = []
    for name, expected in files.items():
        try:
            status = (folder / name).lstat()
        except OSError:
            wrong.append(f"{name} is missing")
            continue
        if not stat.S_ISREG(status.st_mode):
            wrong.append(f"{name} is not a plain file")
        elif status.st_size != expected.size:
            known = sniff_file(folder / name)
            wrong.append(f"{name} has {status.st_size:,} bytes; {says} says {expected.size:,}{known}")
        elif status.st_mtime != unchanged and describe_file(folder / name).sha256 != expected.sha256:
            wrong.append(f"{name} does not match its SHA-256 {expected.sha256[:12]}…")
    return wrong
