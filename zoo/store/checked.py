"""Remembers models whose graphs passed the check, so that a folder's are not parsed again at each run.

A model's digest covers the digests of its graphs and weights, and a folder's files are compared with them each time
before they run (`snapshot.py`); so the same digest means the same bytes, and the check of the same bytes by the same
code has the same result. The folder itself has no say in this: the memory is in the user's store.

checked/<digest of the check's code>/<digest of model.yaml>     a model without findings; the path of its folder
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from .. import __version__
from ..errors import StoreError
from ..formats.fields import digest_of
from ..names import MANIFEST
from ..system.places import home


def passed(digest: str) -> bool:
    """Whether `remember` was called with this digest, by a zoo with the same check."""
    with suppress(OSError, StoreError):  # there may be no home folder, or none that can be read
        return bool(re.fullmatch("[0-9a-f]{64}", digest)) and (_folder() / digest).is_file()
    return False


def remember(digest: str, model: Path) -> None:
    """Records a model whose graphs have no findings; where the store cannot be written, they are checked each time."""
    with suppress(OSError, StoreError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest).write_bytes(os.fsencode(model.absolute()))


def unneeded(store: Path) -> Iterator[Path]:
    """What is remembered by another check than this one, or of a folder that no longer has that model.

    Args:
        store: the folder of the store.
    """
    with suppress(OSError):
        for folder in sorted((store / "checked").iterdir()):
            if folder.name != _code():
                yield folder
                continue
            for entry in sorted(folder.iterdir()):
                if not _is_there(entry):
                    yield entry


def _is_there(entry: Path) -> bool:
    try:
        return digest_of((Path(os.fsdecode(entry.read_bytes())) / MANIFEST).read_bytes()) == entry.name
    except (OSError, ValueError):  # ValueError: a path that cannot be one
        return False


def _folder() -> Path:
    return home() / "checked" / _code()


@cache
def _code() -> str:
    """Changes whenever the check may find something else: with zoo, its own code, or the schemas of onnx.

    Raises:
        OSError: the code cannot be read, so nothing can be remembered.
    """
    zoo = Path(__file__).parents[1]
    parts = [__version__.encode()]
    parts += [file.read_bytes() for file in (*sorted((zoo / "graph").glob("*.py")), zoo / "media" / "tensors.py")]
    onnx = find_spec("onnx")  # this does not import it
    for folder in (onnx.submodule_search_locations or ()) if onnx else ():
        parts.append((Path(folder) / "version.py").read_bytes())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
