"""The known registries: those given with a call, the default one, those of plugins, and those that were added.

Added registries are listed in `registries.yaml` in the store. The last copy of a remote one is kept next to it, so that
only `zoo list` and `zoo pull` use the network. A registry that cannot be read is reported in one line and skipped,
since it must not break a command about another one.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import IntegrityError, InvalidFileError, NotFoundError, StoreError, TransportError, UsageError, ZooError
from ..formats import registry as registries_
from ..formats import strictyaml
from ..formats.fields import Struct, digest_of
from ..formats.registry import DEFAULT, REGISTRY, Registry
from ..formats.strictyaml import MAX_BYTES
from ..names import NAME, Name
from ..system import places
from ..system.files import write_atomically
from ..system.paths import read_file, user_path
from ..system.places import home
from ..system.urls import path_of, shown, split
from ..text import did_you_mean, safe_text, warn
from .store import Store

FORMAT = 1


class Added(Struct, frozen=True, kw_only=True):
    """registries.yaml: the registries that were added, by name."""

    format: int = FORMAT
    registries: dict[Name, str] = {}  # name: URL of its registry.yaml


def registries(extra: Sequence[str] = (), *, refresh: bool = False) -> list[Registry]:
    """The registries, in the order in which they are searched.

    Args:
        extra: URLs or folders given with this call. They come first, and it is an error if one cannot be read.
        refresh: read remote registries again instead of using their last copies, except if the network is down.

    Raises:
        ZooError: a registry in `extra` cannot be read.
    """
    standing = _standing(_added_or_nothing())
    found = [_read(_name_of(place, standing), place_url(place), refresh=refresh) for place in extra]
    for name, url in standing.items():
        if any(name == registry.name for registry in found):
            continue
        try:
            found.append(registries_.read_default() if name == DEFAULT else _read(name, url, refresh=refresh))
        except ZooError as e:
            warn("skipping the registry '%s': %s", name, safe_text(e))
    return found


def added() -> dict[str, str]:
    """The added registries: name to the URL of the registry.yaml."""
    path = _list_path()
    try:
        data = read_file(path, MAX_BYTES)
    except NotFoundError:
        return {}
    except InvalidFileError as e:
        raise StoreError(str(e)) from None
    return strictyaml.load(data, str(path), Added).registries


def add(name: str, place: str) -> Registry:
    """Adds a registry, after reading it once.

    Args:
        place: a folder, or the URL of a folder or of a registry.yaml.

    Raises:
        UsageError: the name is invalid or taken.
        ZooError: the registry cannot be read.
    """
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"'{safe_text(name)}' is not a registry name: use lower-case letters, digits, '.', '_' and '-'"
        )
    url, known = place_url(place), added()
    taken = _standing(known)
    if taken.get(name, url) != url:
        raise UsageError(f"there is already a registry '{name}': {shown(taken[name])}")
    found = _read(name, url, refresh=True)
    _write_list(known | {name: url})
    return found


def remove(name: str) -> None:
    """Removes an added registry, its last copy, and the record of its versions' digests. Pulled models stay.

    Raises:
        NotFoundError: no such registry was added.
    """
    known = added()
    if name not in known:
        raise NotFoundError(f"no registry '{safe_text(name)}' was added{did_you_mean(name, known)}")
    _write_list({other: url for other, url in known.items() if other != name})
    _kept_path(name, known[name]).unlink(missing_ok=True)
    from .prune import forget  # not needed for listing

    forget(Store(), name)


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


def _standing(known: dict[str, str]) -> dict[str, str]:
    """Name to URL of the registries that every call uses; if two have the same name, the second is skipped, with a
    warning."""
    from ..plugins import registries as of_plugins

    standing = {DEFAULT: (places.default_folder() / REGISTRY).absolute().as_uri()}
    owners = {DEFAULT: "zoo"}
    for plugin in of_plugins():
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


def _read(name: str, url: str, *, refresh: bool) -> Registry:
    if split(url).scheme == "file":
        return registries_.read(path_of(url).parent, name)
    kept = _kept(name, url)
    if kept and not refresh:
        return kept
    try:
        return _fetch(name, url, kept)
    except (TransportError, InvalidFileError, IntegrityError) as e:
        if kept is None:
            raise
        warn("using the last copy of the registry '%s': %s", name, safe_text(e))
        return kept


def _fetch(name: str, url: str, kept: Registry | None) -> Registry:
    """Reads a remote registry and keeps a copy. One that changes a published version is refused."""
    from .transport import read_small

    data = read_small(url, MAX_BYTES)
    fetched = registries_.parse(data, name, url)
    if kept:
        _refuse_changes(kept, fetched)
        if fetched.document == kept.document:
            return fetched
    try:
        path = _kept_path(name, url)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except (OSError, StoreError) as e:  # listing must work even if the store cannot be written
        warn("the registry '%s' was read, but no copy can be kept: %s", name, safe_text(e))
    return fetched


def _refuse_changes(kept: Registry, fetched: Registry) -> None:
    for name, model in fetched.document.models.items():
        before = kept.document.models[name].versions if name in kept.document.models else {}
        for number, version in model.versions.items():
            if number in before and before[number].digest != version.digest:
                raise IntegrityError(
                    f"{fetched.name}/{name}:{number} had the digest {before[number].digest}; the registry now says"
                    f" {version.digest}; a published version never changes"
                )


def _kept(name: str, url: str) -> Registry | None:
    try:
        return registries_.parse(_kept_path(name, url).read_bytes(), name, url)
    except (OSError, InvalidFileError):
        return None


def _kept_path(name: str, url: str) -> Path:
    """The path of a remote registry's copy. Its name depends on the URL, so another URL's copy is never used for it."""
    return home() / "registries" / f"{name}-{_short_hash(url)}.yaml"


def _short_hash(text: str) -> str:
    return digest_of(text.encode())[:8]


def _list_path() -> Path:
    return home() / "registries.yaml"


def _write_list(known: dict[str, str]) -> None:
    path = _list_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"cannot write {safe_text(path)}: {e.strerror}") from None
    secret = any("?" in url for url in known.values())  # a query may be a token
    write_atomically(path, strictyaml.dump(Added(registries=dict(sorted(known.items())))), private=secret)
