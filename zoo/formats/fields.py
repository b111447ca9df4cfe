"""What the file formats and the contract share: names, digests, sizes, and the files of a bundle.

It is apart from them so that `zoo list` reads registries without loading the whole contract.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InvalidFileError
from ..names import Sha256, Size
from ..text import safe_text

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z", re.IGNORECASE)


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the file formats' parts: immutable, and strict about unknown fields."""


class File(Struct, frozen=True, kw_only=True):
    """Size in bytes and digest of a bundle's file."""

    size: Size
    sha256: Sha256


def check_file_names(names: Any, source: str) -> None:
    """Refuses names that some operating system reads as another file or as a device."""
    seen: set[str] = set()
    for name in names:
        if _RESERVED.match(name) or name.endswith("."):
            raise InvalidFileError(f"{safe_text(source)}: files: '{safe_text(name)}' is a reserved file name")
        if name.lower() in seen:
            raise InvalidFileError(f"{safe_text(source)}: files: '{safe_text(name)}' differs only in case from another")
        seen.add(name.lower())


def digest_of(data: bytes) -> str:
    """SHA-256 of bytes, 64 hex digits; of a manifest's, the model's digest."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def describe_file(path: Path) -> File:
    """Size and SHA-256 of a file."""
    import hashlib

    with path.open("rb") as f:
        sha256 = hashlib.file_digest(f, "sha256").hexdigest()
    return File(size=path.stat().st_size, sha256=sha256)
