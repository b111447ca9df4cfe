"""Files given by a user: read whole, within a limit, with their digest."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidFileError, NotFoundError
from ..text import safe_text

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


def read_input(source: str) -> InputFile:
    """The bytes of a file, or of stdin for `-`; at most 256 MiB."""
    try:
        if source == STDIN:
            data, name = sys.stdin.buffer.read(MAX_FILE_BYTES + 1), STDIN
        else:
            name = Path(source).name
            with Path(source).open("rb") as f:
                data = f.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{safe_text(source)} does not exist") from None
    except (OSError, ValueError) as e:  # ValueError: a zero byte in the name
        raise InvalidFileError(f"{safe_text(source)} cannot be read: {getattr(e, 'strerror', None) or e}") from None
    if not data:
        raise InvalidFileError(f"{shown_name(source)} is empty")
    if len(data) > MAX_FILE_BYTES:
        raise InvalidFileError(f"{shown_name(source)} has more than {MAX_FILE_BYTES >> 20} MiB; give a smaller file")
    return InputFile(name, data, hashlib.sha256(data).hexdigest(), source)


def shown_name(name: str) -> str:
    """A file's name for a message; `-` is shown as stdin."""
    return "stdin" if name == STDIN else safe_text(name)
