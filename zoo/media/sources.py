"""Many pictures from what people have: files, folders, patterns, lists, `.npz`, `.npy` and IDX files.

`find` lists them without reading a pixel; each is read when its turn comes, so that memory does not depend on their
number. An array in a file is read from front to back, one picture at a time.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from weakref import ref

from ..errors import InvalidFileError, NotFoundError, UsageError
from ..system.leftovers import left_behind
from ..system.paths import cannot_read, read_file, reason, user_path
from ..text import safe_text, stand_in
from .files import STDIN, InputFile, read_folder, read_input, refuse_stdin_twice
from .pictures import MAX_PIXELS, PICTURE_ENDINGS
from .tensors import read_npy_header

if TYPE_CHECKING:
    import zipfile

PICTURES = set(PICTURE_ENDINGS)
"""The endings of the pictures that are taken from a folder."""

MAX_LIST_BYTES = 256 << 20

MAX_OPEN = 8
"""Arrays whose files are open at the same time."""

MAX_STACK = 10_000_000
"""The most pictures of an array."""

MAX_EXPANSION = 1032
"""How much longer than its file an array may be: a byte of deflate stands for at most so many."""

_STAND_IN_BYTES = 2048
"""The start of a file that shows whether it is a git-lfs pointer or a web page."""

_STACK = re.compile(r"\.np[yz]$|\.npz:\w+$|idx3-ubyte(\.gz)?$")
_PATTERN = re.compile(r"[*?[]")
_LIST = "@"


@dataclass(frozen=True, slots=True)
class Item:
    """One picture: a file, or one of a stack in a file; or one video: a file, or a folder of frames."""

    path: str
    stack: Stack | None = None
    index: int = 0  # in the stack
    file: InputFile | None = None  # if it was read already
    frames: Collection[str] = ()  # of a folder that is one video: the endings of its frames

    @property
    def shown(self) -> str:
        """What a table or a message calls it: the path as given; `digits.npz[17]`."""
        return self.path if self.stack is None else f"{self.path}[{self.index}]"

    @property
    def stem(self) -> str:
        """For names of outputs: `shoe` of `in/shoe.png`; `digits-17` of `digits.npz[17]`."""
        name = os.path.basename(self.path.rstrip("/"))  # noqa: PTH119 - ten times as fast as Path, for each of 100,000
        if self.stack is None:
            return os.path.splitext(name)[0]  # noqa: PTH122
        return f"{name.partition('.')[0]}-{self.index}"

    @property
    def file_path(self) -> str:
        """The file that it is in."""
        return self.path if self.stack is None else self.stack.file_path

    def read(self) -> InputFile:
        """The picture's bytes; one of a stack becomes a PNG."""
        if self.frames:
            return self.file or read_folder(self.path, self.frames)
        return read_input(self.file or self.path) if self.stack is None else self.stack.read(self.index)


def is_many(word: str) -> bool:
    """Whether a word on a command line stands for several pictures: a folder, pattern, list or array."""
    if word == STDIN:
        return False
    if word.startswith(_LIST) or _STACK.search(word):
        return True
    path = user_path(word)
    return path.is_dir() or (_PATTERN.search(word) is not None and not path.exists())


def find(
    words: Iterable[str], lists: Sequence[str] = (), endings: Collection[str] = PICTURES, frames: Collection[str] = ()
) -> list[Item]:
    """The pictures that `each` gives, as a list."""
    return list(each(words, lists, endings, frames))


def each(
    words: Iterable[str], lists: Sequence[str] = (), endings: Collection[str] = PICTURES, frames: Collection[str] = ()
) -> Iterator[Item]:
    """The pictures that words on a command line stand for, in that order, one by one: of a folder and its subfolders,
    only the names in one folder are in memory at a time.

    Args:
        words: files; folders (with their subfolders, sorted by name, dot files and other kinds of files left out);
            patterns such as `'in/*.png'`; `@FILE`: a list, one word a line; `.npz`, `.npy` and IDX files.
        lists: further lists; `-` is stdin.
        endings: of the files that are taken from a folder.
        frames: of the files in a folder that is one item, if it has none of those.

    Raises:
        NotFoundError, InvalidFileError, UsageError: a folder or pattern without pictures, or a file with arrays that
            are not pictures.
    """
    words = [*words, *(_LIST + file for file in lists)]
    refuse_stdin_twice([word.removeprefix(_LIST) for word in words])
    for word in words:
        listed = word.startswith(_LIST)
        for item in _listed(word[len(_LIST) :], endings, frames) if listed else _found(word, endings, frames):
            if item.path == STDIN and _LIST + STDIN in words:
                refuse_stdin_twice([STDIN, STDIN])
            yield item


def _listed(file: str, endings: Collection[str], frames: Collection[str]) -> Iterator[Item]:
    if file == STDIN:
        data = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
    else:
        data = read_file(user_path(file), MAX_LIST_BYTES, pipes=True)
    name = "stdin" if file == STDIN else safe_text(file)
    if len(data) > MAX_LIST_BYTES:
        raise InvalidFileError(f"the list {name} has more than {MAX_LIST_BYTES >> 20} MiB")
    if known := stand_in(data):
        raise InvalidFileError(f"the list {name} is not the file itself, but {known}")
    if b"\0" in data:
        raise InvalidFileError(f"the list {name} is not text: it must have one path a line")
    lines = [os.fsdecode(line.rstrip(b"\r")) for line in data.split(b"\n") if line.strip()]
    if not lines:
        raise InvalidFileError(f"the list {name} is empty")
    for line in lines:
        yield from _found(line, endings, frames)


def _found(word: str, endings: Collection[str], frames: Collection[str]) -> Iterator[Item]:
    if word == STDIN:
        yield Item(word)
        return
    if _PATTERN.search(word) and not os.path.lexists(user_path(word, out=True)):
        paths = sorted(_matching(os.path.expanduser(word)))  # noqa: PTH111 - a pattern is not a path
        if not paths:
            raise NotFoundError(f"no file matches {safe_text(word)}")
        for path in paths:
            if not os.path.isdir(path):  # noqa: PTH112
                yield from _found(path, endings, frames)
    elif _STACK.search(word):
        yield from _stacked(word)
    elif user_path(word).is_dir():
        yield from _in_folder(word, endings, frames)
    else:
        yield Item(word)


def _matching(pattern: str) -> set[str]:
    """What a pattern matches. As in a shell, `**` is any number of folders, without links, which may form circles."""
    import glob

    pattern += "/*" if os.path.basename(pattern) == "**" else ""  # noqa: PTH119
    before, deep, rest = pattern.partition("**/")
    if not deep or (before and not before.endswith("/")):
        return set(glob.glob(pattern))  # noqa: PTH207 - a pattern may start anywhere
    found: set[str] = set()
    for top in glob.glob(before) if before else [os.curdir]:  # noqa: PTH207
        for place, folders, _ in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            start = place if before else place.removeprefix(os.curdir).removeprefix("/")
            found |= _matching(os.path.join(glob.escape(start), rest))  # noqa: PTH118
    return found


def _in_folder(folder: str, endings: Collection[str], frames: Collection[str]) -> Iterator[Item]:
    def refuse(error: OSError) -> None:
        raise cannot_read(error.filename, error)

    found = False
    for place, folders, files in os.walk(user_path(folder), onerror=refuse):
        folders[:] = sorted(name for name in folders if not left_behind(name))
        names = [name for name in sorted(files) if not left_behind(name)]
        items = [Item(os.path.join(place, n)) for n in names if os.path.splitext(n)[1].lower() in endings]  # noqa: PTH118, PTH122
        if not items and any(os.path.splitext(n)[1].lower() in frames for n in names):  # noqa: PTH122
            items = [Item(place, frames=frames)]
        found = found or bool(items)
        yield from items
    if not found:
        what = "pictures" if PICTURES.issuperset(endings) else "files"
        endings = {*endings, *frames}
        raise InvalidFileError(f"the folder {safe_text(folder)} has no {what} ({', '.join(sorted(endings))})")
    return found


def _stacked(word: str) -> Iterator[Item]:
    stack = Stack(word)
    for index in range(len(stack)):
        yield Item(word, stack, index)


class Stack:
    """The pictures in an `.npy`, `.npz` or IDX file: uint8 [number, height, width] or [number, height, width, 1 or 3].

    Args:
        path: `x.npy`, `x.npz`, `x.npz:NAME` for one of several arrays, `t10k-images-idx3-ubyte` or the same with `.gz`.

    Raises:
        NotFoundError, InvalidFileError, UsageError: one line.
    """

    def __init__(self, path: str):
        self.path = path
        self._lock = threading.Lock()
        self._open_files = ExitStack()
        with self._readable():
            if known := stand_in(read_file(user_path(self.file_path), _STAND_IN_BYTES)):
                raise InvalidFileError(f"{safe_text(self.file_path)} is not the file itself, but {known}")
            self._file: BinaryIO | None
            self._file, self.shape, fortran = self._open()
            if fortran:
                raise ValueError("it is in Fortran order; save it with np.ascontiguousarray")
            self._start = self._file.tell()
            self.close()
        if len(self.shape) not in (3, 4) or (len(self.shape) == 4 and self.shape[-1] not in (1, 3)) or 0 in self.shape:
            shape = ", ".join(map(str, self.shape))
            raise InvalidFileError(
                f"{safe_text(path)} contains [{shape}]; pictures are uint8 [number, height, width], or that with a"
                " fourth dimension of 1 or 3 channels"
            )
        if len(self.shape) == 3 and self.shape[-1] in (1, 3):
            shape = ", ".join(map(str, self.shape))
            raise InvalidFileError(
                f"{safe_text(path)} contains [{shape}], which looks like one picture; save it with a first dimension of"
                " 1: array[None]"
            )
        self._each = prod(self.shape[1:])
        self._check_size()

    def __len__(self) -> int:
        return self.shape[0]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file until the next picture is read."""
        self._open_files.close()
        self._file = None

    def _reopened(self) -> BinaryIO:
        """The file; of many, only those that were read last stay open."""
        if self._file is None:
            self._file = self._open()[0]
            _OPEN.append(ref(self))
            if len(_OPEN) > MAX_OPEN and (other := _OPEN.pop(0)()):
                other.close()
        return self._file

    def _check_size(self) -> None:
        """Refuses what a header states but no such file contains, before there is an entry for each picture."""
        number, height, width = self.shape[:3]
        with self._readable():
            if height * width > MAX_PIXELS:
                raise ValueError(f"its pictures have {width}x{height} pixels; at most {MAX_PIXELS:,} are allowed")
            if number > MAX_STACK:
                raise ValueError(f"it states {number:,} pictures; at most {MAX_STACK:,} are allowed")
            if number * self._each > user_path(self.file_path).stat().st_size * MAX_EXPANSION:
                raise ValueError(f"it states {number:,} pictures of {width}x{height}, but is too short for them")

    @property
    def file_path(self) -> str:
        """The path without the name of an array."""
        name, _, array = self.path.partition(".npz:")
        return f"{name}.npz" if array else self.path

    def check_length(self) -> None:
        """Refuses an array that ends early, if its file is not compressed; else this shows when it is read."""
        if not self.path.endswith(".npy") and not self.path.endswith("ubyte"):
            return
        with self._readable():
            there = user_path(self.path).stat().st_size - self._start
            if there < self._each * len(self):
                raise ValueError(f"it ends in the middle of picture {there // self._each}")

    def read(self, index: int) -> InputFile:
        """One picture as a PNG, made without compression."""
        import numpy as np
        from PIL import Image

        with self._readable(), self._lock:
            file = self._reopened()
            file.seek(self._start + index * self._each)
            data = file.read(self._each)
            if len(data) < self._each:
                raise ValueError(f"it ends in the middle of picture {index}")
        pixels = np.frombuffer(data, np.uint8).reshape(self.shape[1:])
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(buffer, "PNG", compress_level=0)
        png, name = buffer.getvalue(), f"{Path(self.path).name}[{index}]"
        return InputFile(name, png, hashlib.sha256(png).hexdigest(), f"{self.path}[{index}]")

    def _open(self) -> tuple[BinaryIO, tuple[int, ...], bool]:
        """The file, at the first byte of the array; its shape; whether it is in Fortran order."""
        import gzip
        import zipfile

        import numpy as np

        array = self.path.partition(".npz:")[2]
        file: BinaryIO
        if array or self.path.endswith(".npz"):
            archive = zipfile.ZipFile(user_path(self.file_path))
            self._open_files.enter_context(archive)
            entry = archive.open(f"{array or self._only(archive)}.npy")
            # typing calls a zip's entry IO[bytes]; it reads and seeks like a BinaryIO.
            file = self._open_files.enter_context(entry)  # type: ignore[assignment]
        elif self.path.endswith(".npy"):
            file = self._open_files.enter_context(user_path(self.path).open("rb"))
        else:
            opens = gzip.open if self.path.endswith(".gz") else open
            # "rb" of either gives a file of bytes, which the union of the two functions does not say.
            file = self._open_files.enter_context(opens(user_path(self.path), "rb"))  # type: ignore[assignment]
            magic = file.read(4)
            if magic != b"\0\0\x08\x03":
                raise ValueError("it does not start with the bytes 0, 0, 8, 3")
            return file, tuple(int.from_bytes(file.read(4), "big") for _ in range(3)), False
        shape, fortran, dtype = read_npy_header(file)
        if dtype != np.uint8:
            raise InvalidFileError(f"{safe_text(self.path)} contains {dtype}; pictures are uint8, 0 .. 255")
        return file, shape, fortran

    def _only(self, archive: zipfile.ZipFile) -> str:
        """The array with the pictures: `images`, the only one, or the only one that ends in `_images`."""
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        parts = [name for name in names if name.endswith("_images")] or names
        if not names:
            raise ValueError("it has no arrays")
        if "images" in names or len(parts) == 1:
            return "images" if "images" in names else parts[0]
        options = " or ".join(f"{self.path}:{name}" for name in parts[:4])
        raise UsageError(f"{safe_text(self.path)} has several arrays; name one: {safe_text(options)}")

    def _readable(self) -> _Readable:
        return _Readable(self.path)


_OPEN: list[ref[Stack]] = []
"""The stacks whose files are open, the one opened last at the end."""


class _Readable:
    """Turns what reading an array may raise into one line."""

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        import zipfile
        import zlib

        if isinstance(error, FileNotFoundError):
            raise NotFoundError(f"{safe_text(self.path)} does not exist") from None
        if isinstance(error, KeyError):
            raise NotFoundError(f"{safe_text(self.path)}: there is no such array") from None
        kinds = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
        if isinstance(error, kinds) or type(error).__name__ == "LZMAError":
            raise InvalidFileError(f"{safe_text(self.path)} cannot be read: {reason(error)[:200]}") from None
