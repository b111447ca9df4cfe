"""Whether a registry's catalogue is signed by the keys that this client knows, and is the newest one that it can be.

What is known of a signed registry is kept in the store next to its last copy, where nothing that is pulled can write:
its keys, name and serial, and when it was read. It is pinned at first use, by the keys that the user gave or else by
those that are there, and then changes only by a registry.sig (`zoo.formats.signature`) that the known keys accept.
Every refusal has its own reason; whoever asked then uses the last copy, if there is one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ..errors import IntegrityError, StoreError
from ..formats import signature as signatures
from ..formats import strictyaml
from ..formats.fields import Struct, digest_of
from ..formats.signature import Key, Signed, Statement
from ..names import Name, Sha256, Size
from ..system.files import write_atomically
from ..text import safe_text, warn
from .transport import AbsentError, read_small

FORMAT = 1
DAY = 86400
MOST_DAYS = 366  # that a signature may be valid: a clock that is years behind would else take any
MOST_LEAP = 10**6  # of the serial in one step: the highest possible one would stop all later ones
READS = 3  # a publisher may replace one of the two files in between
WAIT_SECONDS = 0.3


class Known(Struct, frozen=True, kw_only=True):
    """What is known of a signed registry: the file next to its last copy."""

    format: int = FORMAT
    registry: Name  # what it calls itself
    keys: tuple[Key, ...]
    threshold: Annotated[int, Meta(ge=1)]
    serial: int
    expires: int
    read: int  # when it was last accepted: Unix time, seconds
    statement: Sha256  # of what was signed
    signature: Sha256  # of the registry.sig
    size: Size  # of the registry.yaml
    sha256: Sha256

    def is_news(self, before: Known | None) -> bool:
        """Whether it is worth keeping, after what was known before."""
        return before is None or self.signature != before.signature or self.read > before.read + DAY


def known(path: Path) -> Known | None:
    """What is known of a registry; None if it never was signed.

    Raises:
        StoreError: the file is damaged. To start again would be to trust anybody.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Known)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise StoreError(
            f"{safe_text(path)}, the keys of a registry, cannot be read: {safe_text(e)[:200]}; remove the registry and"
            " add it again with --key"
        ) from None
    if found.format != FORMAT:
        raise StoreError(f"{safe_text(path)} has the format {found.format}; this version of zoo reads {FORMAT}")
    return found


def keep(new: Known, path: Path) -> bool:
    """Keeps what is known. False if another process has kept something newer, which stays. The caller has a lock."""
    there = known(path)
    if there and there.serial > new.serial:
        return False
    write_atomically(path, msgspec.json.encode(new))
    return True


def read(url: str, before: Known | None, keys: Sequence[str] = ()) -> tuple[bytes, Known | None]:
    """A registry's bytes, and what is known of it from now on; None if it is not signed and never was.

    Args:
        url: of the registry.yaml.
        before: what was known.
        keys: public keys, all of which must have signed; for the first use.

    Raises:
        IntegrityError: it is not what the known keys say, or older than what was seen.
        InvalidFileError: the signature is not one.
        TransportError: a file cannot be read.
    """
    place = signatures.url_of(url)
    source = signatures.source_of(place)
    for attempt in range(READS):
        try:
            data = read_small(place, signatures.MOST_BYTES)
        except AbsentError as e:
            if before:
                raise IntegrityError(
                    f"it was signed, and is not any more ({e}): whoever serves it may have taken the signature away"
                ) from None
            if keys:
                raise IntegrityError(f"a key was given, but it is not signed ({e})") from None
            return read_small(url, strictyaml.MAX_BYTES), None
        now = _now(before)
        new = _checked(data, source, before, keys, now)
        catalogue = read_small(url, strictyaml.MAX_BYTES)
        if (len(catalogue), digest_of(catalogue)) == (new.size, new.sha256):
            return catalogue, new
        if attempt + 1 < READS:
            time.sleep(WAIT_SECONDS)
    raise IntegrityError(f"its catalogue does not have the size and SHA-256 that {source} signs")


def warn_of_age(name: str, known: Known) -> None:
    """Warns if a registry's last copy, which is used, has expired."""
    if _now(known) > known.expires:
        warn(
            "the last copy of the registry '%s' expired on %s, so there may be newer models; `zoo list` reads it again",
            name, day(known.expires),
        )  # fmt: skip


def day(seconds: int) -> str:
    """A date: `2027-02-27`."""
    try:
        return time.strftime("%Y-%m-%d", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):  # a year that the system does not know
        return f"{seconds} s after 1970"


def _now(before: Known | None) -> int:
    """Unix time, seconds. It never goes back behind what was seen, since that would make an expired catalogue valid."""
    clock = int(time.time())
    if before and clock < before.read - DAY:
        warn(
            "this machine's clock says %s, but the registry '%s' was read on %s: the later date counts",
            day(clock), before.registry, day(before.read),
        )  # fmt: skip
    return max(clock, before.read) if before else clock


def _checked(data: bytes, source: str, before: Known | None, keys: Sequence[str], now: int) -> Known:
    if before and digest_of(data) == before.signature:  # it was checked, and cryptography need not be imported
        _refuse_times(before.expires, now)
        return msgspec.structs.replace(before, read=now)
    chain = list(signatures.statements(signatures.parse(data, source), source))
    signed, last = chain[-1]
    if before:
        _refuse_steps(before, last)
        _check_chain(chain, before.keys, before.threshold, before)
    elif keys:
        since = next((n for n, (signed, _) in enumerate(chain) if signed.signers(keys) == set(keys)), None)
        if since is None:
            raise IntegrityError(f"{source} is not signed by {_listed(keys)}: it has {_listed(last.keys)}")
        _check_chain(chain[since:], keys, len(set(keys)))
    else:
        _check_chain(chain[-1:], last.keys, last.threshold)
    _refuse_times(last.expires, now)
    return Known(
        registry=last.registry,
        keys=last.keys,
        threshold=last.threshold,
        serial=last.serial,
        expires=last.expires,
        read=now,
        statement=digest_of(signed.statement),
        signature=digest_of(data),
        size=last.size,
        sha256=last.sha256,
    )


def _refuse_steps(before: Known, last: Statement) -> None:
    """Refuses what does not follow from what was known; signatures come later."""
    if last.registry != before.registry:
        raise IntegrityError(f"it is the registry '{last.registry}', and was '{before.registry}'")
    if last.serial < before.serial:
        raise IntegrityError(f"its serial is {last.serial}, and was {before.serial}: an older catalogue")
    if last.serial - before.serial > MOST_LEAP:
        raise IntegrityError(
            f"its serial leaps from {before.serial} to {last.serial}, by more than {MOST_LEAP:,}, which would stop all"
            " later ones"
        )


def _check_chain(
    chain: Sequence[tuple[Signed, Statement]], keys: Collection[str], threshold: int, before: Known | None = None
) -> None:
    """Walks from the keys that are trusted to those of the last statement; each step needs the old and the new ones."""
    for signed, statement in chain:
        if before and statement.serial <= before.serial:
            if statement.serial == before.serial and digest_of(signed.statement) != before.statement:
                raise IntegrityError(f"there are two catalogues with the serial {statement.serial}: it was another one")
            continue
        _require(signed, keys, threshold, f"serial {statement.serial}: of the known keys")
        _require(signed, statement.keys, statement.threshold, f"serial {statement.serial}: of its own keys")
        keys, threshold = statement.keys, statement.threshold


def _require(signed: Signed, keys: Collection[str], threshold: int, what: str) -> None:
    count = len(signed.signers(keys))
    if count < threshold:
        raise IntegrityError(f"{what}, {count} signed validly, and {threshold} must: {_listed(keys)}")


def _refuse_times(expires: int, now: int) -> None:
    if now > expires:
        raise IntegrityError(
            f"its signature expired on {day(expires)} (it is {day(now)}): whoever serves it may keep newer ones"
            " back, or its publisher has not signed it again (`zoo registry sign`)"
        )
    if expires > now + MOST_DAYS * DAY:
        raise IntegrityError(
            f"its signature expires on {day(expires)}, more than {MOST_DAYS} days from {day(now)}: is this machine's"
            " clock right?"
        )


def _listed(keys: Collection[str]) -> str:
    return ", ".join(keys)
