"""Signs the catalogue of a registry folder: for its publisher.

While fewer keys have signed than must, the statement waits in `registry.sig.part`, to which the owners of the other
keys add theirs; registry.sig is replaced when it has all that every client will ask for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..errors import IntegrityError, InvalidFileError, NotFoundError, StoreError, UsageError
from ..formats import registry as registries
from ..formats import signature as signatures
from ..formats.fields import digest_of
from ..formats.registry import REGISTRY
from ..formats.signature import FORMAT, MOST_BYTES, MOST_STATEMENTS, Signature, Signed, Statement
from ..names import NAME
from ..system.ed25519 import SigningKey
from ..system.files import write_atomically
from ..system.paths import read_file
from ..text import safe_text, warn
from .signed import DAY, MOST_DAYS

DAYS = 90
"""How long a signature is valid, if the publisher does not say otherwise."""


@dataclass(frozen=True)
class Change:
    """What the publisher wants from now on; what is None stays as it is.

    Attributes:
        name: what the registry calls itself; needed for the first signature.
        keys: the public keys whose word counts; at first, those that sign.
        threshold: how many of them must sign; at first, 1.
        days: until the signature expires.
    """

    name: str | None = None
    keys: tuple[str, ...] | None = None
    threshold: int | None = None
    days: int = DAYS


@dataclass(frozen=True)
class Outcome:
    """`file` was written; `missing` more of `of` must sign: none if it is complete."""

    file: Path
    statement: Statement
    missing: int
    of: tuple[str, ...]


def sign(folder: Path, keys: Sequence[SigningKey], change: Change | None = None) -> Outcome:
    """Signs a folder's registry.yaml as it is now, with a higher serial and a new date.

    Raises:
        NotFoundError: the folder is not a registry.
        UsageError: the first signature has no name, a signed registry gets another one, or a key signs that does not
            count.
        IntegrityError: the registry.sig that is there is not signed by its own keys.
        StoreError: the folder cannot be written.
    """
    from filelock import FileLock

    try:
        registries.read_bytes(folder / REGISTRY)  # where there is none, no lock is made
        with FileLock(folder / ".registry.lock"):
            return sign_locked(folder, keys, change or Change())
    except OSError as e:
        raise StoreError(f"cannot sign {safe_text(folder)}: {e.strerror or e}") from None


def sign_locked(folder: Path, keys: Sequence[SigningKey], change: Change) -> Outcome:
    """As `sign`, for a caller that has the registry's lock."""
    registries.read(folder, "target")  # only what clients can read is signed
    data = registries.read_bytes(folder / REGISTRY)
    chain = chain_of(folder)
    statement = _next(data, chain[-1][1] if chain else None, keys, change)
    signed = _waiting(folder, statement)
    if signed is None:
        signed = Signed(statement=statement.encode())
    else:  # its date and serial are those of whoever signed first
        statement = decode(signed)
    for key in keys:
        signed = signed.signed_by(key)
    before = chain[-1][1] if chain else statement
    _refuse_strangers(keys, {*before.keys, *statement.keys}, statement.registry)
    missing, of = max((one.threshold - len(signed.signers(one.keys)), one.keys) for one in (before, statement))
    kept = [one for n, (one, says) in enumerate(chain) if n == 0 or _changes_keys(chain[n - 1][1], says)]
    signature = Signature(format=FORMAT, statements=(*kept, signed))
    if len(signature.statements) > MOST_STATEMENTS:
        raise UsageError(
            f"the keys of '{statement.registry}' were changed {len(kept)} times, which is as often as can be"
        )
    file, part = signatures.path_in(folder), part_in(folder)
    if missing > 0:
        write_atomically(part, signature.encode())
        return Outcome(part, statement, missing, of)
    write_atomically(file, signature.encode())
    part.unlink(missing_ok=True)
    return Outcome(file, statement, 0, of)


def sign_published(folder: Path, keys: Sequence[SigningKey]) -> Callable[[], None]:
    """What signs a registry after a model was published into it. The registry is locked, and not changed yet.

    Raises:
        UsageError: it is signed and there are no keys, it is not and there are some, or they are not its keys.
    """
    chain = chain_of(folder)
    if not chain and not keys:
        return lambda: None
    if not chain:
        raise UsageError(f"{safe_text(folder)} is not signed yet; `zoo registry sign` signs it for the first time")
    last = chain[-1][1]
    if not keys:
        raise UsageError(
            f"{safe_text(folder)} is signed as '{last.registry}', and clients refuse it unsigned; give --sign FILE"
        )
    _refuse_strangers(keys, last.keys, last.registry)

    def sign() -> None:
        if digest_of(registries.read_bytes(folder / REGISTRY)) == last.sha256:
            return
        done = sign_locked(folder, keys, Change())
        if done.missing:
            warn("%s waits for %d more of %s (`zoo registry sign`)", safe_text(done.file), done.missing,
                 ", ".join(done.of))  # fmt: skip

    return sign


def _refuse_strangers(keys: Sequence[SigningKey], known: Collection[str], registry: str) -> None:
    if strangers := {key.public for key in keys} - set(known):
        raise UsageError(f"{', '.join(sorted(strangers))} is not a key of '{registry}'; --trust makes it one")


def chain_of(folder: Path) -> list[tuple[Signed, Statement]]:
    """The statements of a folder's registry.sig; none if it is not signed.

    Raises:
        IntegrityError: the last one is not signed by its own keys.
    """
    file = signatures.path_in(folder)
    try:
        data = read_file(file, MOST_BYTES)
    except NotFoundError:
        return []
    chain = list(signatures.statements(signatures.parse(data, safe_text(file)), safe_text(file)))
    signed, last = chain[-1]
    if len(signed.signers(last.keys)) < last.threshold:
        raise IntegrityError(f"{safe_text(file)} is not signed by its own keys; restore it from a copy")
    return chain


def part_in(folder: Path) -> Path:
    """Where a statement waits for more signatures."""
    return signatures.path_in(folder).with_name("registry.sig.part")


def decode(signed: Signed) -> Statement:
    """What a statement says."""
    ((_, statement),) = signatures.statements(Signature(format=FORMAT, statements=(signed,)), "registry.sig")
    return statement


def _next(data: bytes, before: Statement | None, keys: Sequence[SigningKey], change: Change) -> Statement:
    name = change.name or (before.registry if before else None)
    if name is None:
        raise UsageError("the first signature of a registry needs --name, what it calls itself")
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"'{safe_text(name)}' is not a registry name: use lower-case letters, digits, '.', '_' and '-'"
        )
    if before and name != before.registry:
        raise UsageError(f"it is signed as '{before.registry}', which cannot change; clients refuse another name")
    trusted = change.keys or (before.keys if before else tuple(dict.fromkeys(key.public for key in keys)))
    threshold = change.threshold or (before.threshold if before else 1)
    if threshold > len(trusted):
        raise UsageError(f"{threshold} of {len(trusted)} keys cannot sign; give a lower --threshold or more --trust")
    return Statement(
        registry=name,
        serial=before.serial + 1 if before else 1,
        expires=int(time.time()) + change.days * DAY,
        size=len(data),
        sha256=digest_of(data),
        keys=tuple(dict.fromkeys(trusted)),
        threshold=threshold,
    )


def _waiting(folder: Path, wanted: Statement) -> Signed | None:
    """The statement that waits for more signatures, if it says what is wanted: nobody signs for other keys unseen."""
    part = part_in(folder)
    try:
        found = signatures.parse(read_file(part, MOST_BYTES), safe_text(part))
        *_, (signed, statement) = signatures.statements(found, safe_text(part))
    except (NotFoundError, InvalidFileError):
        return None
    soon = time.time() < statement.expires <= time.time() + MOST_DAYS * DAY
    return signed if soon and msgspec.structs.replace(statement, expires=wanted.expires) == wanted else None


def _changes_keys(before: Statement, after: Statement) -> bool:
    return (set(before.keys), before.threshold) != (set(after.keys), after.threshold)
