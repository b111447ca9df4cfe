"""Files given by a user: read whole, within a limit, with their digest."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidFileError, UsageError
from ..system.paths import cannot_read, read_file, user_path
from ..text import safe_text, stand_in

Note = Callable[[str], None]


STDIN = "-"


MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class InputFile:
    """A file's contents: its name without folders, its bytes, their digest, and the path that was given."""

    name: str
    data: bytes
    sha256: str
    path: str = ""

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
    if not data:
        raise InvalidFileError(f"{shown_name(source)} is empty")
    if len(data) > MAX_FILE_BYTES:
        raise InvalidFileError(f"{shown_name(source)} has more than {MAX_FILE_BYTES >> 20} MiB; give a smaller file")
    if known := stand_in(data):
        raise InvalidFileError(f"{shown_name(source)} is not the file itself, but {known}")
    return InputFile(name, data, hashlib.sha256(data).hexdigest(), source)


def refuse_stdin_twice(sources: Sequence[Any]) -> None:
    """Refuses names of files, or other values, of which more than one is `-`."""
    if sources.count(STDIN) > 1:
        raise UsageError("'-' (stdin) can be read only once; give a file for the other")


def shown_name(name: str) -> str:
    """A file's name for a message; `-` is shown as stdin."""
    return "stdin" if name == STDIN else safe_text(name)
