"""The entry points of what is installed, read from the distributions' files.

`importlib.metadata` reads the same. Importing it takes nearly as long as importing click, and `zoo list` and `zoo
--help` need entry points, so it is only used for distributions inside zip archives.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..text import safe_text

_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")  # PEP 508, with an end


class EntryPoint(NamedTuple):
    """A line `name = value` of a group, and the distribution it belongs to."""

    distribution: str  # normalized, as in PEP 503
    version: str
    name: str
    value: str


def entry_points(group: str) -> Iterator[EntryPoint]:
    """The entry points of a group. Metadata that cannot be read is ignored: it does not belong to a plugin."""
    seen = set()
    for metadata, text in _mentioning(group):
        fields = _headers(metadata)
        name, version = fields.get("name", ""), safe_text(fields.get("version", ""))
        if not _DISTRIBUTION.fullmatch(name) or normalized(name) in seen:  # the first one on sys.path counts
            continue
        seen.add(normalized(name))
        for key, value in _section(text, group):
            yield EntryPoint(normalized(name), version, key, value)


def normalized(name: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _mentioning(group: str) -> Iterator[tuple[str, str]]:
    """The texts of METADATA and entry_points.txt of each distribution whose entry points name the group."""
    for entry in sys.path:
        place = Path(entry)  # an empty entry means the working folder
        if place.is_file():
            from importlib import metadata

            with contextlib.suppress(OSError, ValueError, KeyError):  # a file that is not an archive, or a damaged one
                for distribution in metadata.distributions(path=[entry]):
                    text = distribution.read_text("entry_points.txt") or ""
                    if f"[{group}]" in text:
                        yield distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "", text
            continue
        infos: list[Path] = []
        with contextlib.suppress(OSError):
            infos = sorted(path for path in place.iterdir() if path.name.endswith((".dist-info", ".egg-info")))
        for info in infos:
            with contextlib.suppress(OSError, ValueError):
                data = (info / "entry_points.txt").read_bytes()
                if f"[{group}]".encode() in data:
                    about = info / ("METADATA" if info.suffix == ".dist-info" else "PKG-INFO")
                    yield about.read_text(encoding="utf-8"), data.decode("utf-8")


def _headers(metadata: str) -> dict[str, str]:
    """The header fields of a METADATA file, by lower-case name; the first of repeated ones."""
    fields: dict[str, str] = {}
    for line in metadata.splitlines():
        if not line.strip():
            break
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    return fields


def _section(text: str, group: str) -> Iterator[tuple[str, str]]:
    """(name, value) of a group in the text of an entry_points.txt."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif section == group and line and not line.startswith(("#", ";")):
            name, equals, value = line.partition("=")
            if equals:
                yield name.strip(), value.strip()
