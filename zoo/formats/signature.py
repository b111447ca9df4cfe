"""`registry.sig`: who says that a `registry.yaml` is what it should be, until when, and whose word counts from now on.

It is JSON: a chain of statements, each with the signatures of those who made it. A statement is kept as the bytes that
were signed, in base64, so nothing is written anew before it is checked. The last one is about the registry.yaml next to
it. The others are the first one and every one that changed the keys: with them, a client that knows only older keys
walks to the newest ones. docs/decisions/0023-signed-catalogues.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ..errors import InvalidFileError
from ..names import Name, Sha256, Size
from ..system.ed25519 import KEY, SigningKey, is_signed
from ..system.urls import path_of, shown, split
from ..text import safe_text, sniff
from .fields import Struct

FORMAT = 1
TAG = b"zoo-registry-v1\n"  # before the JSON, so that a signature for something else never fits
MOST_BYTES = 1 << 19
MOST_STATEMENTS = 257  # the first, 255 changes of the keys, the last
MOST_KEYS = 32

Key = Annotated[str, Meta(pattern=rf"^{KEY}\Z")]


class Statement(Struct, frozen=True, kw_only=True):
    """What is signed."""

    registry: Name  # what the registry calls itself; users may add it under another name
    serial: Annotated[int, Meta(ge=1, le=2**53)]  # higher in each one
    expires: Annotated[int, Meta(ge=0, le=2**53)]  # Unix time, seconds
    size: Size  # of registry.yaml
    sha256: Sha256
    keys: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MOST_KEYS)]
    threshold: Annotated[int, Meta(ge=1, le=MOST_KEYS)]  # this many of the keys must sign

    def encode(self) -> bytes:
        """The bytes to sign."""
        return TAG + msgspec.json.encode(self)


class Signed(Struct, frozen=True, kw_only=True):
    """A statement and its signatures."""

    statement: bytes  # what was signed
    signatures: Annotated[dict[Key, bytes], Meta(max_length=2 * MOST_KEYS)] = {}  # by public key

    def signers(self, keys: Collection[str]) -> set[str]:
        """Those of the keys that have signed."""
        own = self.signatures
        return {key for key in keys if key in own and is_signed(key, own[key], self.statement)}

    def signed_by(self, key: SigningKey) -> Signed:
        return Signed(statement=self.statement, signatures=self.signatures | {key.public: key.sign(self.statement)})


class Signature(Struct, frozen=True, kw_only=True):
    """The file's top level."""

    format: int
    statements: Annotated[tuple[Signed, ...], Meta(min_length=1, max_length=MOST_STATEMENTS)]

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def parse(data: bytes, source: str) -> Signature:
    """Reads a registry.sig; nothing in it is checked yet.

    Raises:
        InvalidFileError: it is not one.
    """
    if len(data) > MOST_BYTES:
        raise InvalidFileError(f"{source} has more than the allowed {MOST_BYTES:,} bytes")
    try:
        found = msgspec.json.decode(data, type=Signature)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidFileError(f"{source} is not a signature: {safe_text(e)[:200]}{sniff(data)}") from None
    if found.format != FORMAT:
        raise InvalidFileError(
            f"{source} has the format {found.format}; this version of zoo reads {FORMAT}: upgrade zoo"
        )
    return found


def statements(signature: Signature, source: str) -> Iterator[tuple[Signed, Statement]]:
    """The chain, in order, each with what it says.

    Raises:
        InvalidFileError: one is not a statement, or has a lower serial than the one before it.
    """
    before = 0
    for number, signed in enumerate(signature.statements, 1):
        where = f"{source}: statement {number}"
        if not signed.statement.startswith(TAG):
            raise InvalidFileError(f"{where} is not about a registry")
        try:
            statement = msgspec.json.decode(signed.statement.removeprefix(TAG), type=Statement)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
            raise InvalidFileError(f"{where}: {safe_text(e)[:200]}") from None
        if len(set(statement.keys)) < len(statement.keys):  # one signature would count twice
            raise InvalidFileError(f"{where} has a key twice")
        if statement.threshold > len(statement.keys):
            raise InvalidFileError(f"{where} wants {statement.threshold} signatures of {len(statement.keys)} keys")
        if statement.serial <= before:
            raise InvalidFileError(f"{where} has the serial {statement.serial}, after {before}")
        before = statement.serial
        yield signed, statement


def url_of(registry: str) -> str:
    """The URL of a registry's signature: `registry.sig` next to `registry.yaml`, with its query, if any."""
    parts = split(registry)
    return parts._replace(path=parts.path.rpartition(".")[0] + ".sig").geturl()


def source_of(url: str) -> str:
    """How messages name the file at a URL."""
    return safe_text(path_of(url)) if split(url).scheme == "file" else shown(url)


def path_in(folder: Path) -> Path:
    """The signature of the registry in a folder."""
    return folder / "registry.sig"
