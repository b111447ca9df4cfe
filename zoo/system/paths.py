"""Paths that users give: expanded, looked up without surprises, and read without waiting.

Every path of a command line, of a reference or of a registry passes `user_path`; every file that a user names is read
by `read_file`. So a folder, a device, a named pipe, a loop of links or a name of 300 bytes is one line everywhere.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from pathlib import Path

from ..errors import InvalidFileError, NotFoundError, StoreError, UsageError, ZooError
from ..text import safe_text

PIPE_SECONDS = 5.0
"""How long a named pipe may take to get its writer."""

_CHUNK = 1 << 20
_MOST_SHOWN = 400  # characters
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")  # of one letter, it is a drive


def user_path(text: str | os.PathLike[str], *, out: bool = False) -> Path:
    """A path that a user gave, with `~` expanded. It may not exist; then what is in its way is found later.

    Args:
        out: the path is written, not read.

    Raises:
        UsageError: an empty text, a NUL, the home folder of an unknown user, or a URL.
        InvalidFileError, or StoreError for `out`: the system refuses to look it up: a loop of links, a name that is too
            long, a folder that must not be searched.
    """
    given = os.fspath(text)
    if not given:
        raise UsageError("a path is empty; '.' is the current folder")
    if "\0" in given:
        raise UsageError(f"'{shown(given)}' is not a path: it contains a NUL")
    if _URL.match(given):
        from .urls import shown as shown_url

        raise UsageError(f"{shown_url(given)} is a URL; give a file or folder on this machine")
    try:
        path = Path(given).expanduser()
    except RuntimeError:
        raise UsageError(f"{shown(given)}: there is no such user; a name that starts with ~ is ./~name") from None
    try:
        path.lstat() if out else path.stat()
    except (OSError, ValueError) as e:  # ValueError: a name that this system cannot encode
        if getattr(e, "errno", None) not in _MISSING:
            raise (cannot_write if out else cannot_read)(path, e) from None
    return path


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a plain file; for a name that the system refuses there is none, where `Path.is_file` raises."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder, as `is_file` for files."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def read_file(path: Path, most: int, *, pipes: bool = False) -> bytes:
    """The bytes of a file, at most `most` + 1, so that a caller sees that there are more.

    Args:
        pipes: named pipes and devices are read too; a pipe that nobody writes into is empty.

    Raises:
        NotFoundError: there is no such file.
        InvalidFileError: it cannot be read, or is not a plain file.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            mode = os.fstat(file).st_mode
            if stat.S_ISDIR(mode):
                raise InvalidFileError(f"{shown(path)} is a folder, not a file")
            if not stat.S_ISREG(mode) and not pipes:
                raise InvalidFileError(f"{shown(path)} is not a plain file")
            return _read(file, most, stat.S_ISFIFO(mode), special=not stat.S_ISREG(mode))
        finally:
            os.close(file)
    except (OSError, ValueError) as e:
        raise cannot_read(path, e) from None


def write_special(path: Path, data: bytes) -> None:
    """Writes into a device, or into a named pipe, which must have got its reader within some seconds.

    Raises:
        StoreError: it cannot be written, or nobody reads the pipe.
        BrokenPipeError: the reader has gone.
    """
    end = time.monotonic() + PIPE_SECONDS
    try:
        while True:
            try:
                file = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
                break
            except OSError as e:
                if e.errno != errno.ENXIO or time.monotonic() > end:
                    raise
                time.sleep(0.02)
        os.set_blocking(file, True)
        with os.fdopen(file, "wb") as f:
            f.write(data)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise cannot_write(path, e) from None


def _read(file: int, most: int, pipe: bool, *, special: bool) -> bytes:
    """Reads to the end. A pipe opened before its writer looks as if it had ended, so its first byte is awaited."""
    first, end = b"", time.monotonic() + PIPE_SECONDS
    while pipe and not first:
        try:
            first = os.read(file, _CHUNK)
        except BlockingIOError:  # there is a writer
            break
        if not first and time.monotonic() > end:
            return b""
        time.sleep(0 if first else 0.02)
    if special and hasattr(os, "set_blocking"):
        os.set_blocking(file, True)
    data = bytearray(first)
    while len(data) <= most and (chunk := os.read(file, min(_CHUNK, most + 1 - len(data)))):
        data += chunk
    return bytes(data[: most + 1])


def cannot_read(path: object, error: OSError | ValueError) -> ZooError:
    """The error for a file or folder that the system does not let us read."""
    if getattr(error, "errno", None) in _MISSING:
        return NotFoundError(f"{shown(path)} does not exist")
    return InvalidFileError(f"{shown(path)} cannot be read: {reason(error)}")


def cannot_write(path: object, error: OSError | ValueError) -> ZooError:
    """The error for a file or folder that the system does not let us write."""
    return StoreError(f"cannot write {shown(path)}: {reason(error)}")


def shown(path: object) -> str:
    """A path for a message: safe for a terminal, and without the middle if it is very long."""
    text = safe_text(path)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN // 2]}…{text[-_MOST_SHOWN // 2 :]}"


def reason(error: BaseException) -> str:
    """The system's words for an error: `Permission denied`."""
    lines = safe_text(getattr(error, "strerror", None) or error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
