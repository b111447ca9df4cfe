"""Files to arrays, and back: pictures, safetensors and .npy arrays. The only place that knows pixel ranges.

Plugins use the names below; the rest is in `files.py`, `pictures.py` and `tensors.py`.
"""

from .files import STDIN, InputFile, Note, read_input
from .pictures import Grid, decode_picture, encode_png, read_pictures

__all__ = ["STDIN", "Grid", "InputFile", "Note", "decode_picture", "encode_png", "read_input", "read_pictures"]
