"""The known registries: those given with a call, the default one, those of plugins, and those that were added.

Added registries are listed in `registries.yaml` in the store. The last copy of each is kept next to it, so that only
`zoo list` and `zoo pull` use the network, and with it what was ever seen of it (history.py), so that one that goes
backwards is noticed. A registry that cannot be read is reported in one line and skipped,
since it must not break a command about another one.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import IntegrityError, InvalidFileError, NotFoundError, StoreError, TransportError, UsageError, ZooError
from ..formats import registry as registries_
from ..formats import strictyaml
from ..formats.fields import Struct, digest_of
from ..formats.registry import DEFAULT, REGISTRY, Registry
from ..formats.strictyaml import MAX_BYTES
from ..names import NAME, Name
from ..system import places
from ..system.files import make_folder, write_atomically
from ..system.paths import read_file, user_path
from ..system.places import home
from ..system.urls import path_of, shown, split
from ..text import did_you_mean, safe_text, warn
from . import default, history
from .history import History
from .store import Store

if TYPE_CHECKING:
    from ..plugins import PluginRegistry
    from .signed import Known

FORMAT = 1
LOCK_SECONDS = 60.0  # the longest wait for other processes that change the list of registries


class Added(Struct, frozen=True, kw_only=True):
    """registries.yaml: the registries that were added, by name."""

    format: int = FORMAT
    registries: dict[Name, str] = {}  # name: URL of its registry.yaml
    in_process: tuple[Name, ...] = ()  # those whose models run in the process that asked


def registries(
    extra: Sequence[str] = (), *, refresh: bool = False, allow_rollback: bool = False, offline: bool = False
) -> list[Registry]:
    """The registries, in the order in which they are searched.

    Args:
        extra: URLs or folders given with this call. They come first, and it is an error if one cannot be read.
        refresh: read remote registries again instead of using their last copies, except if the network is down.
        allow_rollback: also use a registry that lists less than it did before; otherwise its last copy is used.
        offline: skip a remote registry of which no copy was kept; one in `extra` is read.

    Raises:
        ZooError: a registry in `extra` cannot be read.
    """
    from ..plugins import registries as of_plugins

    known, brought = _added_or_nothing(), of_plugins()
    standing = _standing(known, brought)
    found = [
        _read(_name_of(place, standing), place_url(place), refresh=refresh, allow_rollback=allow_rollback)
        for place in extra
    ]
    for name, url in standing.items():
        if any(name == registry.name for registry in found):
            continue
        try:
            if name == DEFAULT:
                found += default.parts(brought)
            elif name in known and offline and split(url).scheme != "file":
                found.append(_last_copy(name, url))
            elif name in known:
                found.append(_read(name, url, refresh=refresh, allow_rollback=allow_rollback))
            else:  # inside a plugin's package
                found.append(registries_.read(path_of(url).parent, name))
        except ZooError as e:
            warn("skipping the registry '%s': %s", name, safe_text(e))
    return found


def added() -> dict[str, str]:
    """The added registries: name to the URL of the registry.yaml."""
    return _read_list().registries


def in_process(name: str, url: str) -> bool:
    """Whether a registry was added with `--in-process`: its models run in the process that asked."""
    try:
        found = _read_list()
    except ZooError:  # `registries` has reported it
        return False
    return name in found.in_process and found.registries.get(name) == url


def add(name: str, place: str, *, in_process: bool = False, keys: Sequence[str] = ()) -> Registry:
    """Adds a registry, after reading it once. Adding it again changes only the mark.

    Args:
        place: a folder, or the URL of a folder or of a registry.yaml.
        in_process: its models run in the process that asked, like the built-in ones, not in a worker process.
        keys: public keys, all of which must have signed it; else the keys of a signed one are kept as they are.

    Raises:
        UsageError: the name is invalid or taken, or other keys were kept for it.
        IntegrityError: it is not signed by these keys, or another registry calls itself the same and has other keys.
        ZooError: the registry cannot be read.
    """
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"'{safe_text(name)}' is not a registry name: use lower-case letters, digits, '.', '_' and '-'"
        )
    url = place_url(place)
    _refuse_taken(name, url, added())
    _refuse_other_keys(name, url, keys)
    found = _read(name, url, refresh=True, keys=keys)
    with _changing():
        known = added()
        _refuse_taken(name, url, known)  # another process may have added it in the meantime
        before = set(_read_list().in_process)
        marked = before - {name} | ({name} if in_process else set())
        if known.get(name) != url or marked != before:
            _write_list(known | {name: url}, marked)
    return found


def _refuse_taken(name: str, url: str, known: dict[str, str]) -> None:
    from ..plugins import registries as of_plugins

    taken = _standing(known, of_plugins())
    if taken.get(name, url) != url:
        raise UsageError(f"there is already a registry '{name}': {shown(taken[name])}")


def _refuse_other_keys(name: str, url: str, keys: Sequence[str]) -> None:
    there = signature(name, url) if keys else None
    if there and not set(keys) <= set(there.keys):
        raise UsageError(
            f"the registry '{name}' is known with other keys: {', '.join(there.keys)}; if its publisher replaced them,"
            f" `zoo registry remove {name}` forgets them"
        )


def _refuse_namesake(name: str, found: "Known") -> None:
    """Two registries that call themselves the same have the same publisher: mirrors, with the same keys."""
    for other, url in added().items():
        there = signature(other, url) if other != name else None
        if there and there.registry == found.registry and not set(there.keys) & set(found.keys):
            raise IntegrityError(
                f"it calls itself '{found.registry}', as the registry '{other}' does, which has other keys:"
                f" {', '.join(there.keys)}"
            )


def signature(name: str, url: str) -> "Known | None":
    """What is known of a signed registry; None for one that never was signed.

    Raises:
        StoreError: the file that says so is damaged.
    """
    path = _signed_path(name, url)
    if not path.exists():
        return None
    from .signed import known

    return known(path)


def remove(name: str) -> None:
    """Removes an added registry, its last copy, and the record of its versions' digests and keys. Pulled models stay.

    Raises:
        NotFoundError: no such registry was added.
    """
    _refuse_unknown(name, added())
    with _changing():
        known = added()
        _refuse_unknown(name, known)
        marked = set(_read_list().in_process) - {name}
        _write_list({other: url for other, url in known.items() if other != name}, marked)
    for path_for in (_kept_path, _history_path, _signed_path):
        path = path_for(name, known[name])
        path.unlink(missing_ok=True)
    from .prune import forget  # not needed for listing

    forget(Store(), name)


def _refuse_unknown(name: str, known: dict[str, str]) -> None:
    if name not in known:
        raise NotFoundError(f"no registry '{safe_text(name)}' was added{did_you_mean(name, known)}")


def place_url(place: str) -> str:
    """The URL of the registry.yaml for a folder, file or URL that a user gave. A query, e.g. a token, is kept.

    Raises:
        UsageError: it is neither a path nor a URL that can be a registry.
    """
    if re.match(r"(https?|file):/?(?!/)", place, re.IGNORECASE):
        raise UsageError(f"'{shown(place)}' is not a registry; a URL starts with http://, https:// or file://")
    if "://" not in place:
        path = user_path(place).absolute()
        return (path if path.name == REGISTRY else path / REGISTRY).as_uri()
    try:
        parts = split(place)
        if parts.scheme == "file":
            return place_url(str(path_of(place)))
    except InvalidFileError as e:
        raise UsageError(str(e)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"'{shown(place)}' is not a registry; give a folder, or a URL with http, https or file")
    if "@" in parts.netloc:
        raise UsageError(f"{shown(place)}: a URL must not contain a user name or password")
    path = parts.path if parts.path.endswith((".yaml", ".yml")) else parts.path.rstrip("/") + f"/{REGISTRY}"
    return parts._replace(path=path, fragment="").geturl()


def _standing(known: dict[str, str], brought: "Sequence[PluginRegistry]") -> dict[str, str]:
    """Name to URL of the registries that every call uses; if two have the same name, the second is skipped, with a
    warning.

    Args:
        known: those that were added.
        brought: those of installed distributions. The default one's parts are `zoo.store.default`'s.
    """
    standing = {DEFAULT: (places.default_folder() / REGISTRY).absolute().as_uri()}
    owners = {DEFAULT: "zoo"}
    for plugin in brought:
        if plugin.name == DEFAULT:
            continue
        if plugin.folder is None:
            warn("skipping the registry '%s' of %s: it does not exist", plugin.name, plugin.distribution)
        elif owner := owners.get(plugin.name):
            warn("skipping the registry '%s' of %s: %s has that name", plugin.name, plugin.distribution, owner)
        else:
            owners[plugin.name] = plugin.distribution
            standing[plugin.name] = place_url(str(plugin.folder))
    for name, url in known.items():
        if owner := owners.get(name):
            warn("skipping the added registry '%s': %s has that name", name, owner)
        else:
            standing[name] = url
    return standing


def _added_or_nothing() -> dict[str, str]:
    try:
        return added()
    except ZooError as e:
        warn("skipping the added registries: %s", safe_text(e))
        return {}


def _name_of(place: str, standing: dict[str, str]) -> str:
    """The name of a registry given with a call: the name it was added under, else a fixed one derived from its URL."""
    url = place_url(place)
    for name, standing_url in standing.items():
        if standing_url == url:
            return name
    parts = split(url)
    stem = parts.hostname or path_of(url).parent.name or "root"
    return f"{re.sub(r'[^a-z0-9-]', '-', stem.lower()).strip('-')[:40] or 'registry'}-{_short_hash(url)}"


def _read(name: str, url: str, *, refresh: bool, allow_rollback: bool = False, keys: Sequence[str] = ()) -> Registry:
    local = split(url).scheme == "file"
    if local and name == DEFAULT:
        return registries_.read(path_of(url).parent, name)
    if not local and not refresh and (kept := _kept_with_age(name, url)):
        return kept
    before = signature(name, url)
    try:
        data, signed = _read_now(url, before, keys)
        found = registries_.parse(data, name, url)
        past = _history(name, url)
        history.refuse_other_digests(past, found)
        if back := history.steps_back(past, found):
            _refuse_rollback(name, back, allow_rollback)
        if signed and not before:
            _refuse_namesake(name, signed)
    except (TransportError, InvalidFileError, IntegrityError) as e:
        own_file = local and not before and not isinstance(e, IntegrityError)  # its author wants to see what is wrong
        kept = None if own_file or keys else _kept(name, url)
        if kept is None:
            raise
        read = history.when(_kept_path(name, url))
        warn("using the last copy of the registry '%s', read on %s: %s", name, read, safe_text(e))
        return kept
    if signed:
        _tell_keys(name, before, signed, keys)
    news = signed if signed and signed.is_news(before) else None
    if refresh or not local or news:
        _keep(found, data, past, news)
    return found


def _read_now(url: str, before: "Known | None", keys: Sequence[str]) -> "tuple[bytes, Known | None]":
    """The bytes of a registry.yaml, checked if it is signed, and what is then known of it."""
    if split(url).scheme == "file" and not before and not keys and not path_of(url).with_suffix(".sig").exists():
        return registries_.read_bytes(path_of(url)), None
    from .signed import read

    return read(url, before, keys)


def _tell_keys(name: str, before: "Known | None", now: "Known", keys: Sequence[str]) -> None:
    shown_keys = f"{', '.join(now.keys)}{f' ({now.threshold} must sign)' if len(now.keys) > 1 else ''}"
    if before is None and not keys:
        warn("the registry '%s' is signed, and from now on must be, by %s: compare that with what its publisher says",
             name, shown_keys)  # fmt: skip
    elif before and (set(before.keys), before.threshold) != (set(now.keys), now.threshold):
        warn("the registry '%s' has new keys, which the old ones have signed: %s", name, shown_keys)


def _refuse_rollback(name: str, back: list[str], allow: bool) -> None:
    what = f"it lists less than before: {'; '.join(back[:5])}{'; …' if len(back) > 5 else ''}"
    if not allow:
        raise IntegrityError(f"{what}; `zoo list --allow-rollback` accepts that")
    warn("the registry '%s' went backwards, which --allow-rollback accepts: %s", name, what)


def _keep(found: Registry, data: bytes, past: History, signed: "Known | None") -> None:
    """Keeps a copy of a registry, and what was seen of it."""
    path, seen = _kept_path(found.name, found.url), _history_path(found.name, found.url)
    try:
        same = history.extended(past, found) == past and path.is_file() and path.read_bytes() == data
        if same and not signed:
            os.utime(path)  # when it was last read
            return
        with _changing():  # other processes may have seen other things
            if signed and not _keep_signature(found, signed):
                return
            if not same:
                history.write(history.extended(_history(found.name, found.url), found), seen)
            write_atomically(path, data)
    except (OSError, StoreError) as e:  # listing must work even if the store cannot be written
        if found.folder is None:
            warn("the registry '%s' was read, but no copy can be kept: %s", found.name, safe_text(e))


def _keep_signature(found: Registry, signed: "Known") -> bool:
    from .signed import keep

    return keep(signed, _signed_path(found.name, found.url))


def _history(name: str, url: str) -> History:
    path = _history_path(name, url)
    if path.exists():
        return history.read(path)
    kept = _kept(name, url)  # of a version of zoo that kept no history
    return history.extended(History(), kept) if kept else History()


def _kept(name: str, url: str) -> Registry | None:
    try:
        return registries_.parse(_kept_path(name, url).read_bytes(), name, url)
    except (OSError, InvalidFileError):
        return None


def _kept_with_age(name: str, url: str) -> Registry | None:
    """The last copy, with a warning if its signature has expired; for whoever does not ask the network."""
    if (kept := _kept(name, url)) and (known := signature(name, url)):
        from .signed import warn_of_age

        warn_of_age(name, known)
    return kept


def _last_copy(name: str, url: str) -> Registry:
    if kept := _kept_with_age(name, url):
        return kept
    raise NotFoundError("it was not read yet; `zoo list` reads it")


def _kept_path(name: str, url: str) -> Path:
    """The path of a registry's copy. Its name depends on the URL, so another URL's copy is never used for it."""
    return home() / "registries" / f"{name}-{_short_hash(url)}.yaml"


def _history_path(name: str, url: str) -> Path:
    return _kept_path(name, url).with_suffix(".seen.json")


def _signed_path(name: str, url: str) -> Path:
    return _kept_path(name, url).with_suffix(".signed.json")


def _short_hash(text: str) -> str:
    return digest_of(text.encode())[:8]


def _list_path() -> Path:
    return home() / "registries.yaml"


@contextmanager
def _changing() -> Iterator[None]:
    """Lets one process at a time read, change and write the list, or what is kept of a registry.

    Raises:
        StoreError: another process has held the lock for LOCK_SECONDS, or this file system has no locks.
    """
    from filelock import FileLock, Timeout

    path = home() / "registries.lock"
    try:
        make_folder(path.parent / "registries")
        lock = FileLock(path)
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise StoreError(
            f"another process has been changing {safe_text(_list_path())} for {LOCK_SECONDS:g} s"
        ) from None
    except (OSError, NotImplementedError) as e:
        reason = e.strerror if isinstance(e, OSError) else "this file system has no locks"
        raise StoreError(f"cannot lock {safe_text(path)}: {reason}") from None
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()


def _read_list() -> Added:
    path = _list_path()
    try:
        data = read_file(path, MAX_BYTES)
    except NotFoundError:
        return Added()
    except InvalidFileError as e:
        raise StoreError(str(e)) from None
    return strictyaml.load(data, str(path), Added)


def _write_list(known: dict[str, str], marked: Collection[str] = ()) -> None:
    secret = any("?" in url for url in known.values())  # a query may be a token
    listed = Added(registries=dict(sorted(known.items())), in_process=tuple(sorted(marked)))
    write_atomically(_list_path(), strictyaml.dump(listed), private=secret)
