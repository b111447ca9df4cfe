"""Sound: float32 [batch, samples, channels], -1 .. 1. Files are not supported yet; Python takes and returns arrays."""

from __future__ import annotations

from ..hookspecs import Port, Task
from .kind import Kind


class Audio(Kind):
    name = "audio"
    dtype = "float32"
    shape = "[batch, samples, channels]"
    meaning = "sound, -1 .. 1; only in Python"
    ranks = (3,)
    codec = "floats"

    def option(self, name: str, port: Port, task: Task) -> None:
        return None
