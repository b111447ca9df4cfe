"""A foreign checkpoint's tensors on their way to our names, and what is missing, left over or misshapen."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import InvalidFileError
from ..text import safe_text

MAX_TOLD = 12


class Keys:
    """Takes tensors out of a checkpoint one by one; `finish` compares with the module that they are for."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.left = dict(tensors)
        self.taken: dict[str, Tensor] = {}  # our name: tensor
        self.asked: dict[str, tuple[Tensor | None, str, int]] = {}
        """The checkpoint's name: its tensor, ours that it is for, and of how many equal parts of that it is one."""

    def has(self, source: str) -> bool:
        """Whether anything of a layer is there."""
        return f"{source}.weight" in self.left or f"{source}.bias" in self.left

    def take(self, source: str, target: str, parts: int = 1) -> Tensor | None:
        """A tensor by its full name, for our `target` or one of so many parts of it; None where it is missing."""
        tensor = self.left.pop(source, None)
        self.asked[source] = (tensor, target, parts)
        return tensor

    def put(self, target: str, tensor: Tensor) -> None:
        """Sets a tensor of the target, whatever it came from."""
        self.taken[target] = tensor

    def move(self, source: str, target: str, *, bias: bool = True) -> None:
        """A layer's weight and bias as they are; a 1x1 convolution is a matrix where `target` is one."""
        for part in ("weight", "bias") if bias else ("weight",):
            self.move_tensor(f"{source}.{part}", f"{target}.{part}")

    def move_tensor(self, source: str, target: str) -> None:
        """One tensor as it is, under another name; nothing where the source lacks it."""
        tensor = self.take(source, target)
        if tensor is not None:
            self.put(target, tensor)

    def join(self, sources: list[str], target: str) -> None:
        """Several layers, one above the other, as one: q, k and v."""
        for part in ("weight", "bias"):
            tensors = [self.take(f"{source}.{part}", f"{target}.{part}", len(sources)) for source in sources]
            found = [tensor for tensor in tensors if tensor is not None]
            if len(found) == len(sources) and all(tensor.shape == found[0].shape for tensor in found):
                self.put(f"{target}.{part}", torch.cat(found))

    def finish(self, module: nn.Module, *, unused: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """The module's `state_dict`, and the tensors that it has no use for.

        Args:
            module: may be on torch's meta device.
            unused: beginnings of names that may be left over.

        Raises:
            InvalidFileError: names every tensor that is missing, left over, or of another shape, with both shapes.
        """
        own = module.state_dict()
        spare = tuple(name for name in self.left if name.startswith(unused)) if unused else ()
        wrong = []
        for source, (tensor, target, parts) in self.asked.items():
            shape = list(own[target].shape) if target in own else None
            if shape is not None:
                shape[0] //= parts
            if tensor is None:
                wrong.append(f"{source}{'' if shape is None else f' {shape}'} is missing")
            elif shape is None:
                wrong.append(f"{source} {list(tensor.shape)} has no place")
            elif _matrix(tensor, len(shape)) != shape:
                wrong.append(f"{source} is {list(tensor.shape)} where {shape} belongs")
        wrong += [f"{name} {list(self.left[name].shape)} has no place" for name in self.left if name not in spare]
        if not wrong:
            wrong = [f"{name} has no counterpart" for name in sorted(own.keys() ^ self.taken.keys())]
        if wrong:
            told = "; ".join(wrong[:MAX_TOLD]) + (f"; and {len(wrong) - MAX_TOLD} more" if wrong[MAX_TOLD:] else "")
            raise InvalidFileError(f"the checkpoint does not fit its config: {safe_text(told)}")
        return {name: tensor.reshape(own[name].shape).contiguous() for name, tensor in self.taken.items()}, spare


def _matrix(tensor: Tensor, dimensions: int) -> list[int]:
    """A tensor's shape without the ones by which it has more than so many dimensions: those of a 1x1 convolution."""
    shape = list(tensor.shape)
    while len(shape) > dimensions and shape[-1] == 1:
        shape.pop()
    return shape
