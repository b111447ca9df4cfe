"""What a task gives in Python: a dict of arrays, which can also be looked at."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..hookspecs import Task
from ..ports.kind import Kind, shape_text
from ..ports.kinds import drawn, kind_of

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image


class Outputs(dict[str, Any]):
    """The outputs of a call by name, arrays with the batch axis. A notebook shows its pictures.

    Attributes:
        seed: int64 [batch], the seeds that were given or drawn: the call with them gives the same again. None for a
            task without a seed.
    """

    seed: np.ndarray | None = None
    _task: Task | None = None

    @classmethod
    def of(cls, task: Task, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Outputs:
        """The outputs of a task for these inputs."""
        made = cls(outputs)
        made._task = task
        if names := drawn(task.inputs):
            made.seed = inputs[names[0]]
        return made

    @property
    def images(self) -> list[PIL.Image.Image]:
        """The pictures of the first output that has any, one for each element of the batch; else an empty list."""
        task = self._task
        found = (
            (kind_of(port).images(self[name]) for name, port in task.outputs.items() if name in self) if task else ()
        )
        return next((images for images in found if images), [])

    def _repr_png_(self) -> bytes | None:
        """What `images` are, in a grid, the small ones enlarged."""
        return next((png for name, kind in self._kinds() if (png := kind.png(self[name]))), None)

    def _kinds(self) -> Iterator[tuple[str, Kind]]:
        ports = self._task.outputs if self._task else {}
        return ((name, kind_of(port)) for name, port in ports.items() if name in self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """The text, and the pictures if there are any, for a notebook."""
        png = self._repr_png_()
        shown = {"text/plain": repr(self)}
        return shown | {"image/png": base64.b64encode(png).decode("ascii")} if png else shown

    def __repr__(self) -> str:
        """`<zoo.Outputs image: uint8 [1, 28, 28, 1]; seed 7>`; arrays of a few values are shown whole."""
        parts = [f"{name}: {_brief(value)}" for name, value in self.items()]
        if self.seed is not None:
            parts.append("seed " + ", ".join(map(str, self.seed.flat[:4])) + (", …" if self.seed.size > 4 else ""))
        return f"<zoo.Outputs {'; '.join(parts)}>"


def _brief(value: Any) -> str:
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or shape is None:
        return repr(value)
    return f"{dtype} {shape_text(shape)}" + (f" = {value.tolist()}" if value.size <= 4 else "")
