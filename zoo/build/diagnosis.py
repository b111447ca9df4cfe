"""Why a task's graph does not give torch's numbers: what its module does that a graph cannot follow."""

import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_NAMES = 5

NOISE = (
    "noise comes from zoo.build.random, with an input of the kind seed, and dropout must be an nn.Dropout, which"
    " `eval()` turns off"
)
"""What to use instead of a random generator."""

_GENERATORS: dict[str, Callable[[], bytes]] = {
    "Python's random": lambda: pickle.dumps(random.getstate()),
    "NumPy's global generator": lambda: pickle.dumps(np.random.get_state(legacy=True)),
    "torch's global generator": lambda: torch.get_rng_state().numpy().tobytes(),
}
"""The sources of random numbers that any code can use without naming a seed, and their states."""


def causes(module: nn.Module, inputs: Mapping[str, np.ndarray]) -> list[str]:
    """What makes torch's numbers for a task differ from its graph's, one line each; empty if nothing was found.

    Args:
        module: of the task. It is called twice with the same inputs.
        inputs: by port, in order.
    """
    module.eval()
    states = {name: state() for name, state in _GENERATORS.items()}
    before = dict(_state(module))
    first, second = _call(module, inputs), _call(module, inputs)
    found = []
    if not all(map(_same, first, second)):
        found.append("torch gives other outputs when it is called again with the same inputs")
    if used := [name for name, state in _GENERATORS.items() if state() != states[name]]:
        found.append(f"forward draws from {' and '.join(used)}: {NOISE}")
    if training := [name or "the task's module" for name, part in module.named_modules() if part.training]:
        found.append(f"in training mode, although `eval()` was called: {_some(training)}")
    changed = [name for name, value in _state(module) if name in before and not _same(before[name], value)]
    if changed:
        found.append(f"changed by each call, but fixed in the graph: {_some(changed)}")
    if temporary := [name for name in non_persistent(module) if name in changed]:
        found.append(f"non-persistent buffers, which the weights do not have either: {_some(temporary)}")
    return found


def non_persistent(module: nn.Module) -> list[str]:
    """The buffers that are not in the `state_dict`."""
    kept = module.state_dict(keep_vars=True).keys()
    return [name for name, _ in module.named_buffers(remove_duplicate=False) if name not in kept]


def first_difference(expected: np.ndarray, actual: np.ndarray) -> str:
    """`[0, 3, 5, 0] is 17, torch gives 16`: the first value of an output that differs."""
    if expected.shape != actual.shape:
        return f"its shape is {list(actual.shape)}, torch gives {list(expected.shape)}"
    at = tuple(map(int, np.unravel_index(int((expected != actual).argmax()), expected.shape)))
    return f"{list(at)} is {actual[at]:.6g}, torch gives {expected[at]:.6g}"


def _call(module: nn.Module, inputs: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    with torch.no_grad():
        result = module(*(torch.from_numpy(array) for array in inputs.values()))
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _state(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Copies of the tensors and plain attributes of a module and its parts, by name."""
    for prefix, part in module.named_modules():
        start = f"{prefix}." if prefix else ""
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            yield f"{start}{name}", tensor.detach().clone()
        for name, value in vars(part).items():
            if isinstance(value, bool | int | float | str) and name != "training":
                yield f"{start}{name}", value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    return type(one) is type(other) and one == other


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


# --- While it is traced -----------------------------------------------------------------------------------------------

_VALUE_DEPENDENT = ("data-dependent", "local_scalar_dense")
"""Words in torch's messages about Python code that needs a tensor's value."""


def hint(message: str) -> str:
    """`; …`, what to do about an error while a task is traced; empty if nothing is known."""
    if "sym_stride" in message:
        return (
            "; in a loop's body, sizes of new tensors, as in normal(seed, x.shape[1:]), must be fixed numbers: fix"
            " them in the ports, or draw before the loop"
        )
    if not any(word in message for word in _VALUE_DEPENDENT):
        return ""
    return (
        "; an `if`, `while`, `range` or slice cannot depend on the values of a tensor: use torch.where, or"
        " zoo.build.loop.while_loop; the size of a tensor can only depend on the shape of an input"
    )
