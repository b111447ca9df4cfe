"""A loop whose length is known only when the graph runs."""

from collections.abc import Callable

import torch
from torch import Tensor

Carried = tuple[Tensor, ...]


def while_loop(more: Callable[..., Tensor], body: Callable[..., Carried], carried: Carried) -> Carried:
    """`torch.while_loop` during an export, which gives an ONNX Loop; otherwise the same in Python.

    Outside an export, torch would compile the loop at every call, which takes seconds.

    Args:
        more: from the carried tensors to bool []: whether to continue.
        body: from the carried tensors to the next ones, of the same shape and dtype; new tensors, not its arguments.
        carried: the tensors that the loop starts with.
    """
    if torch.compiler.is_exporting():
        return torch.while_loop(more, body, carried)
    while more(*carried):
        carried = body(*carried)
    return carried
