"""Renames a foreign checkpoint's tensors to our names, and reports what is missing, unexpected or misshapen.

The importer of a network with a class embedding, to which our model adds a row for "no label":

    keys = Keys(request.tensors)
    keys.move("stem", "conv_in")
    keys.join(["attention.q", "attention.k", "attention.v"], "attention.qkv")
    keys.move_tensor("classes.weight", "label.weight", more=torch.zeros(1, config["width"]))
    with torch.device("meta"):
        module = build_module(BuildRequest(family=request.family, config=config))
    state_dict, unused = keys.finish(module, unused=("loss.", "*.mask"))
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InvalidFileError
from ..text import safe_text

MAX_TOLD = 12

_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def with_present_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' files of 2022 call attention's layers query, key, value and proj_attn; it renames them on loading."""
    result = {}
    for name, tensor in tensors.items():
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        result[name] = tensor
    return result


class _Asked(NamedTuple):
    """A tensor that was taken, or is missing."""

    tensor: Tensor | None
    target: str  # our name for it
    parts: int = 1  # ours has so many equal parts, of which this is one
    more: int = 0  # rows that ours has in addition


class Keys:
    """Takes tensors from a checkpoint one by one; `finish` compares them with the target module."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.left = dict(tensors)
        self.taken: dict[str, Tensor] = {}  # our name: tensor
        self.asked: dict[str, _Asked] = {}  # by the checkpoint's name

    def has(self, source: str) -> bool:
        """Whether any tensor of a layer exists."""
        return f"{source}.weight" in self.left or f"{source}.bias" in self.left

    def take(self, source: str, target: str, parts: int = 1) -> Tensor | None:
        """A tensor by its full name, for our `target` or for one of its `parts`; None if it is missing."""
        tensor = self.left.pop(source, None)
        self.asked[source] = _Asked(tensor, target, parts)
        return tensor

    def put(self, target: str, tensor: Tensor) -> None:
        """Sets a tensor of the target, from any source."""
        self.taken[target] = tensor

    def move(self, source: str, target: str, *, bias: bool = True) -> None:
        """Copies a layer's weight and bias; a 1x1 convolution becomes a matrix if `target` is one."""
        for part in ("weight", "bias") if bias else ("weight",):
            self.move_tensor(f"{source}.{part}", f"{target}.{part}")

    def move_tensor(self, source: str, target: str, *, more: Tensor | None = None) -> None:
        """Copies one tensor under another name; does nothing if the source does not have it.

        Args:
            more: rows to put after its own, [rows, …], as for a class that an embedding of the checkpoint lacks.
        """
        tensor = self.take(source, target)
        if more is not None:
            self.asked[source] = self.asked[source]._replace(more=len(more))
        if tensor is None:
            return
        if more is not None and tensor.shape[1:] == more.shape[1:]:
            tensor = torch.cat([tensor, more.to(tensor)])
        self.put(target, tensor)

    def join(self, sources: list[str], target: str) -> None:
        """Stacks several layers, such as q, k and v, into one."""
        for part in ("weight", "bias"):
            tensors = [self.take(f"{source}.{part}", f"{target}.{part}", len(sources)) for source in sources]
            found = [tensor for tensor in tensors if tensor is not None]
            if len(found) == len(sources) and all(tensor.shape == found[0].shape for tensor in found):
                self.put(f"{target}.{part}", torch.cat(found))

    def finish(self, module: nn.Module, *, unused: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """The module's `state_dict`, and the tensors that it does not use.

        Args:
            module: may be on torch's meta device.
            unused: names that may be unused, as prefixes (`loss.`) or, with a `*`, as patterns (`*.mask`).

        Raises:
            InvalidFileError: names every tensor that is missing, unexpected, or of another shape, with both shapes.
        """
        own = module.state_dict()
        spare = tuple(name for name in self.left if any(_matches(name, entry) for entry in unused))
        wrong = []
        for source, (tensor, target, parts, more) in self.asked.items():
            shape = list(own[target].shape) if target in own else None
            if shape:
                shape[0] = shape[0] // parts - more
            if tensor is None:
                wrong.append(f"{source}{'' if shape is None else f' {shape}'} is missing")
            elif shape is None:
                wrong.append(f"{source} {list(tensor.shape)} is unexpected")
            elif _matrix(tensor, len(shape)) != shape:
                wrong.append(f"{source} is {list(tensor.shape)}, not {shape}")
        wrong += [f"{name} {list(self.left[name].shape)} is unexpected" for name in self.left if name not in spare]
        if not wrong:
            wrong = [f"{name} has no counterpart" for name in sorted(own.keys() ^ self.taken.keys())]
        if wrong:
            told = "; ".join(wrong[:MAX_TOLD]) + (f"; and {len(wrong) - MAX_TOLD} more" if wrong[MAX_TOLD:] else "")
            raise InvalidFileError(f"the checkpoint does not fit its config: {safe_text(told)}")
        return {name: tensor.reshape(own[name].shape).contiguous() for name, tensor in self.taken.items()}, spare


def _matches(name: str, entry: str) -> bool:
    return fnmatchcase(name, entry) if "*" in entry else name.startswith(entry)


def _matrix(tensor: Tensor, dimensions: int) -> list[int]:
    """A tensor's shape without trailing ones beyond a number of dimensions, such as those of a 1x1 convolution."""
    shape = list(tensor.shape)
    while len(shape) > dimensions and shape[-1] == 1:
        shape.pop()
    return shape
