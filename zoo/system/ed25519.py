"""Ed25519 keys: written as text, kept in files that only their owner may read, used to sign and to check.

`cryptography` does the arithmetic; it is imported when a key is used, since most commands use none.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ..errors import InvalidFileError, UsageError
from ..text import safe_text
from .paths import read_file

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY = r"ed25519:[0-9a-f]{64}"
"""A public key as text: its 32 bytes in hexadecimal digits. That is short enough to be its own fingerprint."""

_MOST_BYTES = 10_000
_MAKES = "`zoo registry keygen` makes one"


def parse_key(text: str) -> str:
    """A public key that a user gave, as `KEY` has it.

    Raises:
        UsageError: it is something else.
    """
    key = text.strip().lower()
    if not re.fullmatch(KEY, key):
        raise UsageError(f"'{safe_text(text)[:100]}' is not a public key; it is ed25519: and 64 hexadecimal digits")
    return key


def is_signed(key: str, signature: bytes, message: bytes) -> bool:
    """Whether the owner of a public key signed a message."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.removeprefix("ed25519:"))).verify(signature, message)
    except InvalidSignature:
        return False
    return True


class SigningKey:
    """A private key. `public` is its public key as text."""

    def __init__(self, private: Ed25519PrivateKey):
        self._private = private
        self.public = f"ed25519:{private.public_key().public_bytes_raw().hex()}"

    def sign(self, message: bytes) -> bytes:
        """The signature: 64 bytes."""
        return self._private.sign(message)

    @classmethod
    def new(cls) -> SigningKey:
        """A new key, from the system's random numbers."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    def encode(self) -> bytes:
        """The key as PEM (PKCS #8), not encrypted."""
        from cryptography.hazmat.primitives import serialization

        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """The key in a file.

        Raises:
            NotFoundError: there is no such file.
            InvalidFileError: it cannot be read, others may read it, or it is not an Ed25519 key without a passphrase.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        data, shown = read_file(path, _MOST_BYTES), safe_text(path)
        if os.name == "posix" and (mode := path.stat().st_mode & 0o077):
            raise InvalidFileError(
                f"{shown} is a private key that others may read or write (mode {mode:03o}); run: chmod 600 {shown},"
                " and replace the key if somebody may have read it"
            )
        if re.fullmatch(rb"\s*ed25519:\S*\s*", data):
            raise InvalidFileError(f"{shown} contains a public key; signing needs the private one")
        try:
            key = load_pem_private_key(data[:_MOST_BYTES], None)
        except TypeError:
            raise InvalidFileError(f"{shown} has a passphrase, which zoo does not ask for; {_MAKES} without") from None
        except (ValueError, UnsupportedAlgorithm):
            raise InvalidFileError(f"{shown} is not a private key in PEM (PKCS #8); {_MAKES}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidFileError(f"{shown} is not an Ed25519 key; {_MAKES}")
        return cls(key)
