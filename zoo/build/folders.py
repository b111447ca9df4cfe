"""Folders of pictures as people have them: which are classes or parts of the data set, and what is passed over.

docs/data.md describes the rules.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import InvalidFileError, NotFoundError, UsageError
from ..media.sources import PICTURES
from ..ports.label import repeated
from ..system.leftovers import left_behind
from ..text import safe_text
from .arrays import Column
from .captions import Table, columns, table

PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
"""Folders of a data set's parts, in lower case."""


@dataclass(frozen=True)
class Layout:
    """The pictures of a folder."""

    folder: Path  # the folder itself, or that of the requested part
    part: bool  # whether `folder` is a part
    pictures: list[tuple[Path, int]]  # with their labels, indices into `classes`; -1: no label
    classes: tuple[str, ...]
    passed_over: str  # `; passed over: 3 left by systems and tools (.DS_Store, …)`, or nothing
    columns: Mapping[str, Column]  # captions, and other named values of the pictures


def layout(folder: Path, split: str) -> Layout:
    """Lists the pictures of a folder, or of its part `split`: `train` or `test`.

    Raises:
        UsageError: a subfolder can be a class or a part, or the names of two classes are the same but for their case.
        NotFoundError: there are parts, but not the requested one.
        InvalidFileError: there are no pictures.
    """
    given, top = folder, _Listing.of(folder)
    outside: list[Path] = []
    inside = {path: _Listing.of(path) for path in top.folders}
    looked_at = [top]
    if (part := _part(folder, split, inside)) is not None:
        outside += top.pictures
        folder, top = part, inside[part]
        inside = {path: _Listing.of(path) for path in top.folders}
        looked_at.append(top)
    known = table(folder, top.others)
    if known:
        top, inside = top.without(known), {path: listing.without(known) for path, listing in inside.items()}
    with_files = {parent for path in known.files for parent in path.parents} if known else set()
    of_files = [path for listing in (top, *inside.values()) for path in listing.unnamed]
    classes = [path for path, listing in inside.items() if listing.pictures]
    if twice := repeated([path.name for path in classes]):
        raise UsageError(f"{safe_text(folder)}: {twice}; rename one of the folders, or put their pictures together")
    looked_at += [inside[path] for path in classes]
    pictures = [(path, label) for label, name in enumerate(classes) for path in inside[name].pictures]
    if classes:
        outside += top.pictures
    else:
        pictures = [(path, -1) for path in top.pictures]
    others = [path for listing in looked_at for path in listing.others]
    found, used = columns(folder, known, [path for path, _ in pictures], others)
    reasons = {
        "left by systems and tools": [path for listing in looked_at for path in listing.left],
        "of other kinds": [path for path in others if path not in used],
        "next to the folders that were read": outside,
        "without pictures": [path for path in inside if path not in classes and path not in with_files],
        "next to files of the table": of_files,
        "inside class folders": [path for name in classes for path in inside[name].folders if path not in with_files],
    }
    passed_over = _said({why: [str(path.relative_to(given)) for path in paths] for why, paths in reasons.items()})
    if not pictures:
        raise InvalidFileError(f"{safe_text(folder)} has no pictures ({', '.join(sorted(PICTURES))}){passed_over}")
    return Layout(folder, part is not None, pictures, tuple(path.name for path in classes), passed_over, found)


def first_of(names: Iterable[str], most: int) -> str:
    """`a, b, c, …`, safe for a terminal."""
    names = list(names)
    return safe_text(", ".join(names[:most]) + (", …" if len(names) > most else ""))


def _said(names: Mapping[str, list[str]]) -> str:
    parts = [f"{len(some):,} {reason} ({first_of(some, 3)})" for reason, some in names.items() if some]
    return f"; passed over: {', '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class _Listing:
    """What is directly in a folder, sorted by name."""

    pictures: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)  # by systems and tools
    others: list[Path] = field(default_factory=list)
    unnamed: list[Path] = field(default_factory=list)  # pictures in a folder of masks that no row has

    def without(self, known: Table) -> "_Listing":
        """Without the files that a table names next to pictures, such as masks. A folder of such files has no pictures,
        unless the table is about some of them."""
        rest = [path for path in self.pictures if path not in known.files]
        if len(rest) < len(self.pictures) and not known.pictures.intersection(rest):
            return replace(self, pictures=[], unnamed=rest)
        return replace(self, pictures=rest)

    @classmethod
    def of(cls, folder: Path) -> "_Listing":
        listing = cls()
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    path = folder / entry.name
                    if left_behind(entry.name):
                        listing.left.append(path)
                    elif entry.is_dir():
                        listing.folders.append(path)
                    elif path.suffix.lower() in PICTURES and (entry.is_file() or entry.is_symlink()):
                        listing.pictures.append(path)  # reading a broken link is an error that names it
                    else:
                        listing.others.append(path)
        except OSError as e:
            raise InvalidFileError(f"{safe_text(folder)} cannot be read: {e.strerror}") from None
        return listing


def _part(folder: Path, split: str, inside: dict[Path, _Listing]) -> Path | None:
    """The subfolder with the requested part of the data set; None if the subfolders are classes.

    A folder called `train` is a part if it contains the class folders, or if nothing but other parts is next to it.
    Else it is a class. `val` is the test part where there is no `test`.

    Raises:
        UsageError: it can be either.
        NotFoundError: there are parts, but not the requested one.
    """
    parts = {path: kind for path in inside if (kind := PARTS.get(path.name.casefold()))}
    if not parts:
        return None

    def contains_classes(path: Path) -> bool:
        return not inside[path].pictures and any(_Listing.of(inner).pictures for inner in inside[path].folders)

    others = [path for path, listing in inside.items() if path not in parts and listing.pictures]
    nested = [path for path in parts if contains_classes(path)]
    if others and not nested:
        return None
    kinds = set(parts.values())
    wanted = [path for path in parts if parts[path] == split]
    if not wanted and split == "test":
        wanted = [path for path in parts if parts[path] == "val"]
    certain = nested or ("train" in kinds and len(kinds) > 1)
    if others or not certain or len(wanted) > 1:
        either = (wanted or nested or list(parts))[0]
        raise UsageError(
            f"{safe_text(folder)} is ambiguous: '{safe_text(either.name)}' can be a class or a part of the data;"
            f" give --data {safe_text(either)}, or rename it"
        )
    if not wanted:
        raise NotFoundError(f"{safe_text(folder)} has no folder '{split}'")
    return wanted[0]
