"""Values as Python programs have them: arrays, nested lists, tensors of torch, pictures of Pillow, paths.

Neither torch nor Pillow is imported to recognise theirs: whoever made such a value has imported it.
"""

from __future__ import annotations

import sys
from base64 import b64decode
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..hookspecs import Port
from ..media.files import InputFile, read_input
from ..media.pictures import convert_picture, decode_picture
from ..text import one_line, safe_text, warn

if TYPE_CHECKING:
    import numpy as np


FILE_SCHEMA = {"oneOf": [{"type": "string", "contentEncoding": "base64"}, {"type": "array"}]}
"""JSON Schema of `files_of`."""


def files_of(name: str, value: Any) -> list[InputFile] | None:
    """The files in a value of a request: bytes, text in base64, or a list of such; None if it is an array.

    Raises:
        UsageError: text that is not base64.
    """
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, (bytes, str)) for one in values):
        return None
    files = []
    for i, one in enumerate(values):
        shown = name if len(values) == 1 else f"{name}[{i}]"
        try:
            data = one if isinstance(one, bytes) else b64decode(one.partition("base64,")[2] or one, validate=True)
        except ValueError:
            raise UsageError(f"{shown} is not base64: send a file's bytes in base64") from None
        files.append(InputFile(shown, data, ""))
    return files


def text_in(name: str, value: Any) -> Any:
    """A value of a request whose bytes are UTF-8.

    Raises:
        UsageError: they are not.
    """
    if isinstance(value, list) and any(isinstance(one, bytes) for one in value):
        return [text_in(name, one) for one in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8") from None


def numbers_of(name: str, value: Any, dtype: str) -> np.ndarray:
    """An array from the nested lists of a request, if its numbers are of that dtype or fit into it.

    Raises:
        UsageError: rows of different lengths, something else than numbers, or numbers that do not fit.
    """
    import numpy as np

    array = as_array(name, value)
    wanted = np.dtype(dtype)
    if array.dtype == wanted or not array.size:
        return array.astype(wanted)
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[wanted.kind]
    if array.dtype.kind not in kinds:
        raise UsageError(f"{name} has values that are not {dtype}")
    if wanted.kind in "iu" and not np.iinfo(wanted).min <= array.min() <= array.max() <= np.iinfo(wanted).max:
        raise UsageError(f"{name} has values from {array.min()} to {array.max()}, which do not fit into {dtype}")
    with np.errstate(over="ignore"):  # an infinity is refused where ranges are checked
        return array.astype(wanted)


def as_array(name: str, value: Any) -> np.ndarray:
    """An array, a number, a nested list, or a tensor of torch, which may be on a GPU or need a gradient.

    Raises:
        UsageError: rows of different lengths, or a tensor of a type that NumPy does not have.
    """
    import numpy as np

    try:
        return np.asarray(_without_torch(value))
    except ValueError:
        raise UsageError(f"{name} has rows of different lengths; give an array") from None
    except (TypeError, RuntimeError) as e:  # bfloat16; a tensor without data
        raise UsageError(f"{name} cannot be made an array: {one_line(e)}") from None


def _without_torch(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_without_torch(v) for v in value] if any(hasattr(v, "detach") for v in value) else value
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def pictures(name: str, port: Port, value: Any, *, mask: bool = False) -> np.ndarray:
    """A batch of pictures, uint8 [batch, height, width, channels].

    Args:
        value: a batch; one picture [height, width, channels], or [height, width] if the port has one channel; a path; a
            picture of Pillow; or a list of pictures of these kinds, all of one size. What `zoo run` does to a picture
            file (upright, on white, the port's channels and fixed size) is done to paths and Pillow's pictures, with a
            warning for each change; an array is never changed.
        mask: as for `zoo.media.pictures.decode_picture`.

    Raises:
        UsageError, InvalidFileError: one line.
    """
    if isinstance(value, (list, tuple)) and any(_is_picture(v) for v in value):
        several = [_picture(f"{name}[{i}]", port, v, mask) for i, v in enumerate(value)]
        return _stack(name, several)
    if _is_picture(value):
        array = _picture(name, port, value, mask)
        return array[None] if array.ndim == 3 and _fits(array.shape, port) else array
    return _right_type(name, port, as_array(name, value))


def _is_picture(value: Any) -> bool:
    return isinstance(value, (str, PurePath)) or hasattr(value, "shape") or _is_pillow(value)


def _is_pillow(value: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _picture(shown: str, port: Port, value: Any, mask: bool) -> np.ndarray:
    """One picture, [height, width, channels]; an array with other dimensions stays, for the check of shapes."""
    if isinstance(value, (str, PurePath)):
        return decode_picture(read_input(str(value)), shown, port, _warn, mask=mask)
    if _is_pillow(value):
        return convert_picture(value, shown, port, _warn, mask=mask)
    array = _right_type(shown, port, as_array(shown, value))
    return array[..., None] if array.ndim == 2 and port.shape[-1] == 1 else array


def _right_type(name: str, port: Port, array: np.ndarray) -> np.ndarray:
    if array.dtype != port.dtype:
        raise UsageError(f"{name} is {array.dtype}; pictures are {port.dtype}, 0 .. 255")
    return array


def _fits(shape: tuple[int, ...], port: Port) -> bool:
    return all(isinstance(d, str) or d == n for d, n in zip(port.shape[1:], shape, strict=True))


def _stack(name: str, several: Sequence[np.ndarray]) -> np.ndarray:
    import numpy as np

    first = several[0]
    for i, array in enumerate(several):
        if array.ndim != 3:
            raise UsageError(
                f"{name}[{i}] has the shape {list(array.shape)}; a picture of a list is [height, width, channels]"
            )
        if array.shape != first.shape:
            raise UsageError(
                f"{name}[{i}] has the shape {list(array.shape)} and {name}[0] {list(first.shape)};"
                " all pictures of one call must have the same size"
            )
    return np.stack(several)


def _warn(line: str) -> None:
    warn("%s", safe_text(line))
