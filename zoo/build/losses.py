"""What a trainer's losses must be; a line that says so if they are not."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import PluginError

EXPECTED = (
    "it must return the losses by name, {'loss': …}, numbers or tensors of one element, with the one to minimise first"
)


def named_losses(given: Any, giver: str) -> Mapping[str, float | torch.Tensor]:
    """The losses that a trainer's method returned.

    Args:
        giver: the method, for the message: `step`.

    Raises:
        PluginError: not a mapping of names to single numbers, or an empty one.
    """
    if not isinstance(given, Mapping):
        raise PluginError(f"the trainer's {giver} returned {_kind(given)}; {EXPECTED}")
    if not given:
        raise PluginError(f"the trainer's {giver} returned no losses; {EXPECTED}")
    for name, loss in given.items():
        if not isinstance(name, str):
            raise PluginError(f"the trainer's {giver} returned a loss named {name!r}; {EXPECTED}")
        if isinstance(loss, torch.Tensor):
            if loss.numel() != 1:
                raise PluginError(
                    f"the loss '{name}' of the trainer's {giver} has the shape {list(loss.shape)}; it must be a single"
                    " number: take its mean"
                )
        elif not _is_number(loss):
            raise PluginError(f"the loss '{name}' of the trainer's {giver} is {_kind(loss)}; {EXPECTED}")
    return given


def minimised(losses: Mapping[str, float | torch.Tensor], giver: str) -> torch.Tensor:
    """The first loss, on which `backward` can be called.

    Raises:
        PluginError: it does not depend on any weight.
    """
    name, loss = next(iter(losses.items()))
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        raise PluginError(
            f"the first loss of the trainer's {giver}, '{name}', has no gradient: it must be a tensor that depends on"
            " the weights, neither detached nor computed under no_grad"
        )
    return loss


def _is_number(loss: Any) -> bool:
    """Whether it is what `float` takes, such as NumPy's numbers, and not a text or a truth value."""
    if isinstance(loss, (str, bytes, bytearray, bool, np.bool_)):
        return False
    try:
        float(loss)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
