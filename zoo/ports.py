"""A task's inputs, checked and completed: what a caller gave against what the ports say.

Graphs have no optional inputs and check nothing. So every default is filled in here, every scalar spread over the
batch, and every type, shape and range looked at before ONNX Runtime is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .hookspecs import Port, Task
from .text import did_you_mean, safe_text

if TYPE_CHECKING:
    import numpy as np

MAX_SEED = 2**53 - 1  # the largest integer that every host language holds exactly
MAX_PIXELS = 40_000_000
"""Of a picture whose port states no `maximum_pixels`."""

_PER_PICTURE = ("label", "seed", "count", "scalar")  # kinds whose single value may stand for the whole batch


def bounds(port: Port) -> tuple[int | float | None, int | float | None]:
    """Smallest and largest value, inclusive; None where there is no bound."""
    low, high = port.minimum, port.maximum
    if port.kind == "seed":
        low, high = (0 if low is None else low), (MAX_SEED if high is None else high)
    if port.kind == "label" and port.classes:
        low, high = (0 if low is None else low), (len(port.classes) - 1 if high is None else high)
    return low, high


def range_text(port: Port) -> str:
    """`0 .. 511`, `1 or more`, `at most 8`; empty without bounds."""
    low, high = bounds(port)
    if low is None:
        return "" if high is None else f"at most {high}"
    return f"{low} or more" if high is None else f"{low} .. {high}"


def complete(task_name: str, task: Task, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The graph's inputs out of what a caller gave: arrays, numbers, class names; defaults are filled in.

    A single number for a `label`, `seed` or `scalar` port stands for the whole batch.

    Raises:
        UsageError: an unknown or missing port, or a value of the wrong type, shape or range.
    """
    import numpy as np

    for name in values:
        if name not in task.inputs:
            known = ", ".join(task.inputs)
            raise UsageError(
                f"{task_name} has no input '{safe_text(name)}'; it takes {known}{did_you_mean(name, task.inputs)}"
            )
    arrays: dict[str, np.ndarray] = {}
    for name, port in task.inputs.items():
        value = values.get(name, port.default)
        if value is None:
            raise UsageError(f"{task_name} needs {name}: {describe(port)}")
        arrays[name] = _as_array(name, port, value)

    dimensions = _dimensions(task.inputs, arrays)
    for name, port in task.inputs.items():
        if arrays[name].ndim == 0 and port.shape and port.kind in _PER_PICTURE:
            shape = tuple(dimensions.get(d, 1) if isinstance(d, str) else d for d in port.shape)
            arrays[name] = np.full(shape, arrays[name])
    check(task.inputs, arrays)
    return arrays


def check(ports: Mapping[str, Port], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses arrays that are not exactly what the ports say: dtype, shape, size of pictures, range of values.

    Raises:
        UsageError: names the port, what it has and what it must have.
    """
    for name, port in ports.items():
        if name not in arrays:
            raise UsageError(f"the input {name} is missing")
        array = arrays[name]
        if array.dtype != port.dtype:
            raise UsageError(f"{name} is {array.dtype}; it must be {port.dtype}")
        _check_shape(name, port, array)
        if port.kind in ("image", "mask"):
            check_picture_size(name, port, *array.shape[1:3])
        _check_values(name, port, array)
    for name, port in ports.items():
        dimensions = _dimensions({n: p for n, p in ports.items() if n != name}, arrays)
        for dimension, length in zip(port.shape, arrays[name].shape, strict=True):
            if dimensions.get(dimension, length) != length:
                raise UsageError(f"{name} has {dimension} {length}; the other inputs have {dimensions[dimension]}")


def check_picture_size(name: str, port: Port, height: int, width: int) -> None:
    """Refuses a picture smaller or larger than the port takes."""
    smallest, most = port.minimum_size or 1, port.maximum_pixels or MAX_PIXELS
    if min(height, width) < smallest:
        raise UsageError(f"{name} is {width}x{height} pixels; it must be at least {smallest}x{smallest}")
    if height * width > most:
        raise UsageError(f"{name} is {width}x{height}, {height * width:,} pixels; it may have at most {most:,}")


def label_number(name: str, port: Port, text: str) -> int:
    """A label out of its class name (case does not matter) or its number; a class that is called `7` wins over 7."""
    wanted = text.strip().casefold()
    for number, known in enumerate(port.classes):
        if known.casefold() == wanted:
            return number
    if wanted.removeprefix("-").isascii() and wanted.removeprefix("-").isdigit():
        return int(wanted)
    if not port.classes:
        raise UsageError(f"{name} '{safe_text(text)}' is no number; this model's classes have no names")
    hint = did_you_mean(wanted, [c.casefold() for c in port.classes])
    raise UsageError(f"{name} '{safe_text(text)}' is no class of this model{hint or '; ' + _classes(port)}")


def _classes(port: Port) -> str:
    shown = ", ".join(safe_text(c) for c in port.classes[:12])
    return f"there are {shown}" + (f" and {len(port.classes) - 12} more" if len(port.classes) > 12 else "")


def describe(port: Port) -> str:
    """`int64 [batch], 0 .. 2`."""
    limits = range_text(port)
    shape = f" [{', '.join(map(str, port.shape))}]" if port.shape else ""
    return f"{port.dtype}{shape}" + (f", {limits}" if limits else "")


def _as_array(name: str, port: Port, value: Any) -> np.ndarray:
    """An array of the port's dtype, where nothing is lost by it."""
    import numpy as np

    if port.kind == "label":
        value = label_numbers(name, port, value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UsageError(f"{name} is {value}; it must be {range_text(port) or 'an int64'}")
    try:
        array = np.asarray(value)
    except ValueError:
        raise UsageError(f"{name} has rows of different lengths; give an array") from None
    if array.dtype == port.dtype:
        return array
    if port.dtype == "uint8":
        raise UsageError(f"{name} is {array.dtype}; pictures are uint8, 0 .. 255")
    if array.dtype.kind not in ("iu" if port.dtype == "int64" else "iuf"):
        raise UsageError(f"{name} is {safe_text(_type_name(array, value))}; it must be {describe(port)}")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise UsageError(f"{name} is {array.max()}, more than an int64 holds")
    return array.astype(port.dtype)


def label_numbers(name: str, port: Port, value: Any) -> Any:
    """The value with its class names turned into numbers."""
    if isinstance(value, str):
        return label_number(name, port, value)
    if isinstance(value, (list, tuple)):
        return [label_number(name, port, v) if isinstance(v, str) else v for v in value]
    return value


def _type_name(array: np.ndarray, value: Any) -> str:
    return type(value).__name__ if array.dtype == object or array.ndim == 0 else str(array.dtype)


def _dimensions(ports: Mapping[str, Port], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The length of each named dimension, as the first array of full rank has it."""
    found: dict[str, int] = {}
    for name, port in ports.items():
        if arrays[name].ndim == len(port.shape):
            for dimension, length in zip(port.shape, arrays[name].shape, strict=True):
                if isinstance(dimension, str):
                    found.setdefault(dimension, length)
    return found


def _check_shape(name: str, port: Port, array: np.ndarray) -> None:
    fits = array.ndim == len(port.shape) and all(
        isinstance(d, str) or d == n for d, n in zip(port.shape, array.shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, port.shape))
        actual = ", ".join(map(str, array.shape))
        hint = ""
        if array.ndim == len(port.shape) - 1 and port.shape and port.shape[0] == "batch":
            no_batch = all(isinstance(d, str) or d == n for d, n in zip(port.shape[1:], array.shape, strict=True))
            hint = f": add the batch axis, {name}[None]" if no_batch else ""
            if not no_batch and port.shape[-1] == 1:
                hint = f": add the channel axis, {name}[..., None]"
        raise UsageError(f"{name} has the shape [{actual}]; it must be [{expected}]{hint}")
    if 0 in array.shape:
        dimension = port.shape[array.shape.index(0)]
        raise UsageError(f"{name} is empty ({dimension} is 0)")


def _check_values(name: str, port: Port, array: np.ndarray) -> None:
    import numpy as np

    if port.dtype == "float32" and not np.isfinite(array).all():
        raise UsageError(f"{name} holds NaN or infinity")
    low, high = bounds(port)
    held = np.dtype(port.dtype).type  # 0.1 in the manifest is not quite the float32 that stands for it
    below = low is not None and array.min() < held(low)
    above = high is not None and array.max() > held(high)
    if below or above:
        value = (array.min() if below else array.max()).item()
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        raise UsageError(f"{name} is {shown}; it must be {range_text(port)}")
