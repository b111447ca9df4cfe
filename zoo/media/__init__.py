"""Files to arrays, and back: pictures, safetensors and .npy arrays. The only place that knows pixel ranges.

Plugins use the names below; the rest is in `files.py`, `grid.py`, `pictures.py` and `tensors.py`.
"""

import warnings
from importlib import import_module
from typing import Any

from .files import STDIN, InputFile, Note, read_input
from .grid import Grid
from .pictures import decode_picture, encode_png, read_pictures

__all__ = ["STDIN", "Grid", "InputFile", "Note", "decode_picture", "encode_png", "read_input", "read_pictures"]

_MOVED = {"shown_name": "zoo.media.files", "check_masks": "zoo.media.pictures", "decode_png": "zoo.media.pictures"}
"""Names of contract 1 and 2, kept with a warning."""


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module 'zoo.media' has no attribute '{name}'")
    warnings.warn(f"zoo.media.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(import_module(_MOVED[name]), name)
