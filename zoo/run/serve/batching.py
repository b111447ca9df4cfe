"""Which calls may run as one, and how: their inputs one after the other, and each call's own part of the outputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...hookspecs import Port, Task
from ...ports.kind import BATCH
from ...ports.kinds import kind_of
from ..batches import batch_length, join, part_of

if TYPE_CHECKING:
    import numpy as np

SHARED_BYTES = 1024
"""Larger inputs without a batch axis are not compared."""


def joins(task: Task) -> bool:
    """Whether what a task gives for a batch is what it gives for each element alone, as far as its ports tell.

    The batch must be the first axis of an input and of every output, and no other axis. An output without it could be
    about the batch as a whole; only a size is known not to be, since it follows from the shapes.
    """
    ports = [*task.inputs.values(), *task.outputs.values()]
    return (
        any(BATCH in port.shape for port in task.inputs.values())
        and not any(BATCH in port.shape[1:] for port in ports)
        and all(_has_batch(port) or kind_of(port).of_shapes for port in task.outputs.values())
    )


def key_of(name: str, task: Task, inputs: Mapping[str, np.ndarray]) -> Hashable:
    """Calls with the same key may run as one: equal shapes besides the batch, equal values where there is no batch.
    None: this one runs alone."""
    if not joins(task):
        return None
    key: list[Hashable] = [name]
    for port_name, port in task.inputs.items():
        array = inputs[port_name]
        if _has_batch(port):
            key.append(array.shape[1:])
        elif array.nbytes > SHARED_BYTES:
            return None
        else:
            key.append((array.shape, array.tobytes()))
    return tuple(key)


def joined(task: Task, calls: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The inputs of several calls with one key as those of one call."""
    return join(task.inputs, calls)


def parted(
    task: Task, calls: Sequence[Mapping[str, np.ndarray]], outputs: Mapping[str, np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """The outputs of that call as those of each."""
    parts, start = [], 0
    for inputs in calls:
        part = slice(start, start + batch_length(task.inputs, inputs))
        parts.append(part_of(task.outputs, outputs, part))
        start = part.stop
    return parts


def _has_batch(port: Port) -> bool:
    return port.shape[:1] == (BATCH,)
