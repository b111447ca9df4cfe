"""Tensors: features, probabilities, latents, noise: float32 of any shape, .npy in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InvalidFileError
from ..hookspecs import Port, Task
from ..media.files import InputFile, read_input
from ..media.tensors import read_npy, read_safetensors
from ..text import safe_text
from .kind import Kind, Option, Read, Source, shape_text

if TYPE_CHECKING:
    import numpy as np


class Tensor(Kind):
    name = "tensor"
    dtype = "float32"
    shape = "any shape"
    fields = ("noise",)
    meaning = "features, probabilities, latents"
    codec = "floats"
    sample = "tensor.npy"

    def option(self, name: str, port: Port, task: Task) -> Option:
        limits = f"a .npy or .safetensors file, {port.dtype} {shape_text(port.shape)}"
        endings = (".npy", ".safetensors")
        return Option(name, self.help(name, port, limits), metavar="FILE", file=True, endings=endings)

    def read(self, given: Any, source: Source) -> Read:
        file = read_input(given)
        return Read({source.name: _array(file, source.name)}, [file])

    def host_sample(self, port: Port) -> str:
        return "tensor.npy"


def _array(file: InputFile, name: str) -> np.ndarray:
    """The array of a `.npy` file; of a `.safetensors` file the tensor with the port's name, or its only one."""
    if file.data[8:9] != b"{":  # a safetensors file starts with the length of its JSON header, in 8 bytes
        return read_npy(file)
    arrays, _ = read_safetensors(file)
    if name in arrays or len(arrays) == 1:
        return arrays[name] if name in arrays else next(iter(arrays.values()))
    has = f"it has {safe_text(', '.join(arrays))[:200]}" if arrays else "it is empty"
    raise InvalidFileError(f"{file.shown} has no tensor {name}; {has}")
