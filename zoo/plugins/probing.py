"""Probes plugins: each in its own process (`zoo.plugins.child`), with a time limit, cached until it changes."""

import contextlib
import hashlib
import os
import sys
from importlib import metadata
from pathlib import Path

import msgspec

from ..errors import ZooError
from ..hookspecs import Family, Target
from .finding import Fault, Plugin, installed, roots

ALLOWANCE_SECONDS = 10.0
"""Time limit for importing a plugin and describing its families; ZOO_PLUGIN_SECONDS overrides it."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin said about itself in its own process."""

    plugin: Plugin
    import_seconds: float | None = None  # of processor time
    families: dict[str, Family] = {}
    targets: dict[str, Target] = {}
    hooks: tuple[str, ...] = ()  # the names of the hooks that it implements


def probe_all() -> list[Probe]:
    """A probe of every installed plugin, in the order of `installed()`."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(probe, installed()))


def set_aside(probes: list[Probe]) -> list[str]:
    """One line for each plugin that is not used."""
    return [p.plugin.set_aside for p in probes if p.plugin.problem]


def probe(plugin: Plugin) -> Probe:
    """What the plugin says about itself, from the cache if nothing has changed; never raises for its faults."""
    if plugin.problem:
        return Probe(plugin=plugin)
    key, cache = _fingerprint(plugin), _cache_file(plugin)
    with contextlib.suppress(OSError, msgspec.DecodeError):
        entry = _CACHE_ENTRIES.decode(cache.read_bytes())
        if entry.key == key:
            return entry.probe
    try:
        result = _probe_in_child(plugin)
    except Fault as fault:
        return Probe(plugin=msgspec.structs.replace(plugin, problem=fault.line(plugin.distribution)))
    _remember(cache, _CacheEntry(key=key, probe=result))
    return result


def _probe_in_child(plugin: Plugin) -> Probe:
    """Runs `zoo.plugins.child` on the plugin.

    Raises:
        Fault: no answer: the child was killed, exited, or took too long. Not cached, since it may be the machine's
        fault.
    """
    from subprocess import TimeoutExpired

    from ..system.processes import describe_end, run_isolated

    allowance = float(os.environ.get("ZOO_PLUGIN_SECONDS", ALLOWANCE_SECONDS))
    try:
        child = run_isolated("zoo.plugins.child", msgspec.json.encode(plugin).decode(), seconds=allowance)
    except TimeoutExpired as e:
        raise Fault(f"it was not loaded within {allowance:g} s") from e
    try:
        return _PROBES.decode(child.stdout)
    except msgspec.DecodeError as e:
        raise Fault(f"it {describe_end(child.returncode)} while it was loaded") from e


class _CacheEntry(msgspec.Struct, frozen=True):
    key: str
    probe: Probe


# Created here, before any thread: msgspec crashes if several threads are the first to decode a type.
_PROBES = msgspec.json.Decoder(Probe)
_CACHE_ENTRIES = msgspec.json.Decoder(_CacheEntry)


def _fingerprint(plugin: Plugin) -> str:
    """A key that changes whenever the probe's answer may: with the plugin, zoo, Python, or installed distributions."""
    zoo = Path(__file__).parents[1]
    parts = [repr(plugin), sys.version, sys.prefix, *_stamps(*zoo.rglob("*.py"))]
    with contextlib.suppress(metadata.PackageNotFoundError):
        distribution = metadata.distribution(plugin.distribution)
        parts.append(distribution.read_text("RECORD") or distribution.read_text("METADATA") or "")
        parts += _stamps(Path(str(distribution.locate_file(""))))  # a missing dependency may have been installed since
    for root in roots(plugin.module.split(".")[0]):
        parts += _stamps(*root.rglob("*.py")) if root.is_dir() else _stamps(root)  # sources may be edited in place
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _stamps(*paths: Path) -> list[str]:
    """Path, time of change in ns, and size in bytes, of existing files."""
    stamps = []
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            stamps.append(f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}")
    return stamps


def _cache_file(plugin: Plugin) -> Path:
    from ..system.places import home

    return home() / "probes" / f"{plugin.distribution}.{plugin.module}.json"


def _remember(file: Path, entry: _CacheEntry) -> None:
    """Caches a probe. If the store cannot be written, the next command only has to probe again."""
    from ..system.files import write_atomically

    with contextlib.suppress(OSError, ZooError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, msgspec.json.encode(entry))
