"""A loop whose length is known only when the graph runs."""

from collections.abc import Callable

import torch
from torch import Tensor

Carried = tuple[Tensor, ...]


def while_loop(more: Callable[..., Tensor], body: Callable[..., Carried], carried: Carried) -> Carried:
    """`torch.while_loop` where a graph is exported, which gives an ONNX Loop; else the same in Python.

    Outside of an export torch would compile the loop at every call, which takes seconds.

    Args:
        more: of the carried tensors, bool []: whether to go on.
        body: of the carried tensors, the next ones, alike in shape and dtype; new tensors, none of its arguments.
        carried: what the loop starts with.
    """
    if torch.compiler.is_exporting():
        return torch.while_loop(more, body, carried)
    while more(*carried):
        carried = body(*carried)
    return carried
