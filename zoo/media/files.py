"""Files given by a user: read whole, within a limit, with their digest."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidFileError, UsageError
from ..system.leftovers import left_behind
from ..system.paths import cannot_read, read_file, user_path
from ..text import safe_text, stand_in

Note = Callable[[str], None]


STDIN = "-"


MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class InputFile:
    """A file's contents: its name without folders, its bytes, their digest, and the path that was given.

    Of a folder that is one value, such as the frames of a video, it has the files as `parts` and no bytes; its name
    ends in a slash, and its digest is that of theirs.
    """

    name: str
    data: bytes
    sha256: str
    path: str = ""
    parts: tuple[InputFile, ...] = ()

    @property
    def shown(self) -> str:
        """The file for a message: the whole path; `-` is shown as stdin."""
        return shown_name(self.path or self.name)


def read_input(source: str | InputFile) -> InputFile:
    """The bytes of a file, or of stdin for `-`; at most 256 MiB. A file that was read already is returned as it is."""
    if isinstance(source, InputFile):
        return source
    if source == STDIN:
        name = STDIN
        try:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as e:
            raise cannot_read("stdin", e) from None
    else:
        path = user_path(source)
        name, data = path.name, read_file(path, MAX_FILE_BYTES, pipes=True)
    return checked_input(name, data, source)


def checked_input(name: str, data: bytes, source: str) -> InputFile:
    """An input from its bytes: the contents of a file, or of a part of one.

    Args:
        source: what a message calls it.

    Raises:
        InvalidFileError: it is empty, has more than 256 MiB, or is what a tool put in the place of the file.
    """
    if not data:
        raise InvalidFileError(f"{shown_name(source)} is empty")
    if len(data) > MAX_FILE_BYTES:
        raise InvalidFileError(f"{shown_name(source)} has more than {MAX_FILE_BYTES >> 20} MiB; give a smaller file")
    if known := stand_in(data):
        raise InvalidFileError(f"{shown_name(source)} is not the file itself, but {known}")
    return InputFile(name, data, hashlib.sha256(data).hexdigest(), source)


def files_in(folder: str, endings: Collection[str]) -> list[Path]:
    """The files directly in a folder that have one of these endings, in the order of their names, numbers in them by
    their value: `2.png` comes before `10.png`. What systems leave behind is left out.

    Raises:
        NotFoundError, InvalidFileError: the folder cannot be read.
    """
    path = user_path(folder)
    try:
        names = [entry.name for entry in os.scandir(path)]
    except OSError as e:
        raise cannot_read(folder, e) from None
    wanted = [n for n in names if Path(n).suffix.lower() in endings and not left_behind(n)]
    return [path / name for name in sorted(wanted, key=_by_numbers)]


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """What sorts names by the numbers in them: text and digits alternate, from text on."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), part) if index % 2 else (0, part) for index, part in enumerate(parts)]


def read_folder(folder: str, endings: Collection[str], check: Callable[[int], None] = lambda number: None) -> InputFile:
    """The files directly in a folder that have one of these endings, as one input of at most 256 MiB.

    Args:
        check: called with their number before any is read.

    Raises:
        NotFoundError, InvalidFileError: the folder cannot be read or has none of them, or a file cannot be read.
    """
    paths, parts, size = files_in(folder, endings), list[InputFile](), 0
    if not paths:
        raise InvalidFileError(f"the folder {shown_name(folder)} has no frames ({', '.join(sorted(endings))})")
    check(len(paths))
    for path in paths:
        parts.append(read_input(str(path)))
        if (size := size + len(parts[-1].data)) > MAX_FILE_BYTES:
            raise InvalidFileError(f"the files in {shown_name(folder)} have more than {MAX_FILE_BYTES >> 20} MiB")
    digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    return InputFile(f"{user_path(folder).resolve().name}/", b"", digest, folder, tuple(parts))


def refuse_stdin_twice(sources: Sequence[Any]) -> None:
    """Refuses names of files, or other values, of which more than one is `-`."""
    if sources.count(STDIN) > 1:
        raise UsageError("'-' (stdin) can be read only once; give a file for the other")


def shown_name(name: str) -> str:
    """A file's name for a message; `-` is shown as stdin."""
    return "stdin" if name == STDIN else safe_text(name)
