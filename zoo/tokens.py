"""Tokens files: the codes of a picture, with its size and the digest of the model whose codes they are.

A tokens file is safetensors: one tensor a port (`tokens`, or one a level), `size` (int64 [2]: height and width), and
one metadata entry `zoo` with the model's digest, since codes mean nothing to another codebook. A `.npy` array of codes
is taken too; it knows no size, so the picture comes out in the padded size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from . import tensors
from .errors import InvalidFileError
from .hookspecs import Task
from .media import STDIN, InputFile, Note, shown_name
from .text import safe_text

if TYPE_CHECKING:
    import numpy as np

METADATA_KEY = "zoo"
NPY_MAGIC = b"\x93NUMPY"
WHOLE = 1 << 31
"""A size that no picture has: `decode` crops to `size`, so it gives all that the tokens give."""


def read_tokens(file: InputFile, task: Task, digest: str, model: str, note: Note) -> dict[str, np.ndarray]:
    """The `tokens` and `size` inputs of a task out of a tokens file.

    Args:
        task: whose ports are filled.
        digest, model: of the model that is to decode, its digest and its name for messages.

    Raises:
        InvalidFileError: no tokens file, one that another model made, or one that lacks a port.
    """
    import numpy as np

    shown = shown_name(file.name)
    levels = [name for name, port in task.inputs.items() if port.kind == "tokens"]
    sizes = [name for name, port in task.inputs.items() if port.kind == "size"]
    if file.data.startswith(NPY_MAGIC):
        if len(levels) > 1:
            raise InvalidFileError(f"{shown} holds one array; this model's tokens are {', '.join(levels)}")
        arrays = {levels[0]: read_npy(file)}
    else:
        arrays, metadata = _read_safetensors(file)
        _check_maker(metadata, shown, digest, model, note)
        if missing := [name for name in levels if name not in arrays]:
            raise InvalidFileError(f"{shown} lacks the tensor {missing[0]}; it has {safe_text(', '.join(arrays))}")
    filled = {name: arrays[name] for name in levels}
    for name in sizes:
        if name not in arrays:
            note(f"{shown} knows no picture size: the picture comes out in the size of its tokens, padding included")
        filled[name] = arrays.get(name, np.array([WHOLE, WHOLE], np.int64))
    return filled


def encode_tokens(arrays: Mapping[str, np.ndarray], made_by: Mapping[str, Any], suffix: str) -> bytes:
    """The bytes of a tokens file.

    Args:
        arrays: tokens, and size where there is one.
        made_by: `digest` and `model`, kept as the metadata.
        suffix: `.npy` for the one array of tokens alone; anything else is safetensors.
    """
    if suffix == ".npy":
        return encode_npy(next(array for name, array in arrays.items() if name != "size"))
    return encode_safetensors(arrays, made_by)


def encode_npy(array: np.ndarray) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def encode_safetensors(arrays: Mapping[str, np.ndarray], made_by: Mapping[str, Any]) -> bytes:
    with TemporaryDirectory(prefix="zoo-") as folder:
        path = Path(folder) / "out.safetensors"
        tensors.save(path, arrays, {METADATA_KEY: json.dumps(made_by)})
        return path.read_bytes()


def read_npy(file: InputFile) -> np.ndarray:
    """The array of a `.npy` file. Nothing is ever unpickled."""
    import numpy as np

    try:
        return np.load(io.BytesIO(file.data), allow_pickle=False)
    except Exception as e:  # a header is a Python literal: parsing it raises many things
        reason = safe_text(str(e) or type(e).__name__).splitlines()[0]
        raise InvalidFileError(f"{shown_name(file.name)} cannot be read as .npy: {reason[:200]}") from None


def _read_safetensors(file: InputFile) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with TemporaryDirectory(prefix="zoo-") as folder:
        path = Path(folder) / ("stdin" if file.name == STDIN else "tokens")
        path.write_bytes(file.data)
        try:
            return tensors.load(path), tensors.read_metadata(path)
        except InvalidFileError as e:
            raise InvalidFileError(str(e).replace(str(path), shown_name(file.name))) from None


def _check_maker(metadata: Mapping[str, str], shown: str, digest: str, model: str, note: Note) -> None:
    try:
        made_by = json.loads(metadata.get(METADATA_KEY, "{}"))
        maker, made_digest = made_by.get("model", "?"), made_by.get("digest")
    except (ValueError, AttributeError, RecursionError):
        raise InvalidFileError(f"{shown}: its metadata '{METADATA_KEY}' is not what zoo writes") from None
    if made_digest is None:
        note(f"{shown} does not say which model made its tokens: they are taken for {model}'s")
    elif made_digest != digest:
        raise InvalidFileError(
            f"{shown} holds tokens of {safe_text(maker)[:100]} ({safe_text(made_digest)[:12]}…);"
            f" {model} ({digest[:12]}…) cannot decode another model's"
        )
