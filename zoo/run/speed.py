"""How long a model takes for a picture: the figure that registries list (`zoo list`), measured when it is published."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..names import graph_file
from ..ports.inputs import complete
from ..runtime import open_session
from .batches import part_of

if TYPE_CHECKING:
    from .model import Model

ENOUGH = 1.0
"""Seconds after which no further picture is measured."""

MOST = 5  # pictures


def seconds_a_picture(model: Model) -> float:
    """Processor seconds on one core for one picture: the default task on the CPU, with its defaults.

    The other inputs are those of the first element of `model.example`. It is processor time in one thread, so other
    programs hardly change it; opening the graph and the first call do not count, unless that call takes long.

    Raises:
        ZooError: ONNX Runtime is not installed, or the graph fails.
    """
    name, task = model.manifest.task(None)
    given = part_of(task.inputs, model.example(name), slice(0, 1))
    inputs = complete(name, task, {port: array for port, array in given.items() if task.inputs[port].default is None})
    session = open_session(model.folder / graph_file(name), "cpu", threads=1)
    taken: list[float] = []
    while len(taken) < MOST and sum(taken) < ENOUGH:
        before = time.process_time()
        session.run(inputs)
        taken.append(time.process_time() - before)
    return float(f"{max(min(taken), 1e-6):.2g}")
