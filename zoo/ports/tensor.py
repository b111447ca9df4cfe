"""Tensors: features, probabilities, latents, noise: float32 of any shape, .npy in files."""

from __future__ import annotations

from typing import Any

from ..hookspecs import Port, Task
from ..media.files import read_input
from ..media.tensors import read_npy
from .kind import Kind, Option, Read, Source, shape_text


class Tensor(Kind):
    name = "tensor"
    dtype = "float32"
    shape = "any shape"
    fields = ("noise",)
    meaning = "features, probabilities, latents"
    codec = "floats"

    def option(self, name: str, port: Port, task: Task) -> Option:
        limits = f"a .npy file, {port.dtype} {shape_text(port.shape)}"
        return Option(name, self.help(name, port, limits), metavar="FILE", file=True)

    def read(self, given: Any, source: Source) -> Read:
        file = read_input(given)
        return Read({source.name: read_npy(file)}, [file])

    def host_sample(self, port: Port) -> str:
        return "tensor.npy"
