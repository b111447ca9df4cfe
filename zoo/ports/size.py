"""Sizes: height and width of the picture behind tokens, int64 [2]; `decode` crops to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..hookspecs import Port, Task
from ..media.pictures import MAX_PIXELS
from ..text import safe_text
from .integers import Integers
from .kind import Form, Option, Read, RealInputs, Source
from .tokens import SIZE, TOKENS, TOKENS_FILE, tokens_of

if TYPE_CHECKING:
    import numpy as np


class Size(Integers):
    name = SIZE
    shape = "[2]"
    ranks = (1,)
    last = (2,)
    of_shapes = True
    meaning = "height and width of the picture behind tokens"
    asks = "HEIGHTxWIDTH"
    sample = ""

    def form_in(self, port: Port, ports: Mapping[str, Port]) -> Form:
        """In a task with tokens, it goes into their file."""
        return TOKENS_FILE if tokens_of(ports) else self.form

    def option(self, name: str, port: Port, task: Task) -> Option:
        limits = "HEIGHTxWIDTH" + ("; default: the tokens file's" if tokens_of(task.inputs) else "")
        return Option(name, self.help(name, port, limits), metavar="HEIGHTxWIDTH")

    def annotation(self, port: Port) -> Any:
        return Sequence[int]

    def read(self, given: Any, source: Source) -> Read:
        return Read({source.name: _parse(source.name, given) if isinstance(given, str) else given})

    def missing(self, name: str, port: Port, task: Task) -> tuple[str, str]:
        return (TOKENS, "FILE") if tokens_of(task.inputs) else (name, self.asks)

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        import numpy as np

        low, high = int(port.minimum or 1), int(min(port.maximum or 32, 32))
        return rng.integers(low, high, shape, dtype=np.int64, endpoint=True)

    def host_sample(self, port: Port) -> str:
        return "28,28"

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> Any:
        return inputs.encoded.get(name)


def _parse(name: str, text: str) -> list[int]:
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise UsageError(f"{name} is '{safe_text(text)}'; it must look like HEIGHTxWIDTH, 28x28")
    size = [int(height[:20]), int(width[:20])]  # as text, Python refuses thousands of digits
    if (pixels := size[0] * size[1]) > MAX_PIXELS:
        raise UsageError(f"{name} is {size[0]}x{size[1]}, {pixels:,} pixels; it may be at most {MAX_PIXELS:,}")
    return size
