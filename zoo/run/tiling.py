"""Runs large pictures in tiles, for tasks with a bounded receptive field (`Task.tile`).

Each tile is run with all the surrounding pixels that it depends on, and only the part that is fully determined is kept.
So the result is that of one call, up to the rounding of sums, without seams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..hookspecs import Port, Task
from ..ports.kinds import kind_of
from ..ports.tokens import sizes_of

if TYPE_CHECKING:
    import numpy as np

Run = Callable[[Mapping[str, "np.ndarray"]], "dict[str, np.ndarray]"]


def check_tile(name: str, task: Task, side: int) -> None:
    """Raises UsageError for a task that does not support tiles, and for tiles smaller than a token."""
    if task.tile is None:
        raise UsageError(f"{name} does not support --tile: in this model every position depends on the whole picture")
    if side < task.tile.multiple:
        raise UsageError(f"--tile is {side}; it must be at least {task.tile.multiple}")


def run_in_tiles(run: Run, task: Task, inputs: Mapping[str, np.ndarray], side: int) -> dict[str, np.ndarray]:
    """A task's outputs, computed in tiles of `side` pixels, rounded down to whole tokens.

    Args:
        run: the task itself, for checked inputs.
    """
    import numpy as np

    tile = task.tile
    assert tile is not None
    side = side // tile.multiple * tile.multiple

    def unit(port: Port) -> int | None:
        """Pixels per row of the port; None if it has no rows."""
        return kind_of(port).pixels_a_step(tile)

    units = {name: unit(port) for name, port in task.inputs.items()}
    # Pixels of the picture that is cut; for tokens, including the padding that they cover.
    name, step = next((name, step) for name, step in units.items() if step)
    height, width = (length * step for length in inputs[name].shape[1:3])
    sizes = sizes_of(task.inputs)

    outputs: dict[str, np.ndarray] = {}
    for top, bottom, first, last in _spans(height, side, tile.context, tile.multiple):
        for left, right, start, end in _spans(width, side, tile.context, tile.multiple):
            part = {
                name: array[:, first // u : -(-last // u), start // u : -(-end // u)] if (u := units[name]) else array
                for name, array in inputs.items()
            }
            part |= {name: np.array([last - first, end - start], np.int64) for name in sizes}
            for name, result in run(part).items():
                if (u := unit(task.outputs[name])) is None:
                    outputs.setdefault(name, np.array([height, width], np.int64))  # `size`: the one other output
                    continue
                if name not in outputs:
                    shape = (len(result), -(-height // u), -(-width // u), *result.shape[3:])
                    outputs[name] = np.empty(shape, result.dtype)
                rows, columns = slice(top // u, -(-bottom // u)), slice(left // u, -(-right // u))
                inner = result[:, rows.start - first // u : rows.stop - first // u]
                outputs[name][:, rows, columns] = inner[:, :, columns.start - start // u : columns.stop - start // u]
    for name in sizes:
        tall, wide = inputs[name]
        outputs = {n: a[:, :tall, :wide] if unit(task.outputs[n]) == 1 else a for n, a in outputs.items()}
    return outputs


def _spans(length: int, side: int, context: int, multiple: int) -> Iterator[tuple[int, int, int, int]]:
    """Begin and end of each tile along an axis, then those of the part that is fed to the task, in pixels."""
    around = -(-context // multiple) * multiple
    for begin in range(0, length, side):
        end = min(begin + side, length)
        yield begin, end, max(0, begin - around), min(length, end + around)
