"""A foreign checkpoint's tensors on their way to our names, and what is missing, left over or misshapen."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..errors import InvalidFileError
from ..text import safe_text

MAX_TOLD = 12


class Keys:
    """Takes tensors out of a checkpoint one by one; `finish` compares with the module that they are for."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.left = dict(tensors)
        self.taken: dict[str, Tensor] = {}  # our name: tensor
        self.sources: dict[str, str] = {}  # our name: the checkpoint's
        self.missing: list[str] = []

    def has(self, source: str) -> bool:
        """Whether a layer's weight is there."""
        return f"{source}.weight" in self.left

    def put(self, target: str, source: str, tensor: Tensor) -> None:
        self.taken[target], self.sources[target] = tensor, source

    def take(self, name: str) -> Tensor | None:
        """A tensor by its full name; None, and a note, where the checkpoint lacks it."""
        if name not in self.left:
            self.missing.append(name)
        return self.left.pop(name, None)

    def move(self, source: str, target: str, *, bias: bool = True) -> None:
        """A layer's weight and bias as they are."""
        for part in ("weight", "bias") if bias else ("weight",):
            tensor = self.take(f"{source}.{part}")
            if tensor is not None:
                self.put(f"{target}.{part}", f"{source}.{part}", tensor)

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
        wrong = [f"{name} is missing" for name in self.missing]
        wrong += [f"{name} has no place" for name in self.left if name not in spare]
        wrong += [
            f"{self.sources[name]} is {list(tensor.shape)} where {list(own[name].shape)} belongs"
            for name, tensor in self.taken.items()
            if name in own and tensor.shape != own[name].shape
        ]
        if not wrong and (odd := own.keys() ^ self.taken.keys()):
            wrong = [f"{name} has no counterpart" for name in sorted(odd)]
        if wrong:
            told = "; ".join(wrong[:MAX_TOLD]) + (f"; and {len(wrong) - MAX_TOLD} more" if wrong[MAX_TOLD:] else "")
            raise InvalidFileError(f"the checkpoint does not fit its config: {safe_text(told)}")
        return {name: tensor.contiguous() for name, tensor in self.taken.items()}, spare
