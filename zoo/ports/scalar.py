"""Scalars: guidance, temperature, strength, float32 [batch]."""

from __future__ import annotations

from ..hookspecs import Port, Task
from .kind import Kind, Option


class Scalar(Kind):
    name = "scalar"
    dtype = "float32"
    shape = "[batch]"
    meaning = "guidance, temperature, strength, sigma"
    ranks = (0, 1)
    repeats = True
    number = float
    asks = "NUMBER"
    codec = "floats"
    field = "number"

    def option(self, name: str, port: Port, task: Task) -> Option:
        return Option(name, self.help(name, port, self.range_text(port)), type=float)
