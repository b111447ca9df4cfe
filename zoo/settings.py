"""Reads users' configs and training settings with a typed schema.

A family declares its config and its training settings as msgspec Structs; `read` turns a user's values into one, and a
mistake into one line that names the field, its value and what is allowed.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, inspect

from .errors import UsageError
from .text import did_you_mean, safe_text

T = TypeVar("T")


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of every training. A family's own settings are a subclass with `forbid_unknown_fields=True`."""

    steps: Annotated[int, Meta(ge=1, le=10**9)]
    batch_size: Annotated[int, Meta(ge=1, le=10**6)]  # pictures per step, over all processes
    learning_rate: Annotated[float, Meta(gt=0, le=100)]  # the peak
    seed: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    accumulate: Annotated[int, Meta(ge=1, le=10**6)] = 1  # parts in which a batch is computed, to save memory


class AveragedSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of `zoo.build.optim.AveragedTrainer`."""

    warmup_steps: Annotated[int, Meta(ge=0)] = 100  # of the learning rate
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.998  # of the weights' moving average, which is published
    clip_gradient: Annotated[float, Meta(gt=0)] | None = None  # to this norm


def read(schema: type[T], values: Mapping[str, Any], what: str) -> T:
    """The values as an instance of `schema`, a msgspec Struct or a dataclass.

    Args:
        what: comes before the field in messages, e.g. `vqvae config`.

    Raises:
        UsageError: `vqvae config: codec.num_codes is 1; it must be a whole number from 2 to 65536`.
    """
    try:
        return msgspec.convert(values, schema)
    except msgspec.ValidationError as e:
        raise UsageError(f"{what}: {_explain(str(e), schema, values)}") from None


_AT = re.compile(r" - at `\$(?P<path>.*)`\Z", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)


def _explain(message: str, schema: type, values: Any) -> str:
    """msgspec's message in the user's words; unchanged if the schema has types that `_allowed` does not know."""
    at = _AT.search(message)
    reason = message[: at.start()] if at else message
    steps = [name or int(index) for name, index in _STEP.findall(at["path"] if at else "")]
    kind: Any = inspect.type_info(schema)
    for step in steps:
        kind = _inside(kind, step)
        values = None if kind is None else values[step]
    path = ".".join(map(str, steps))
    if (field := _FIELD.match(reason)) and (fields := getattr(kind, "fields", None)):
        name, known = field[2], [f.encode_name for f in fields]
        full = safe_text(f"{path}.{name}" if path else name)
        if field[1] == "missing required":
            return f"{full} is missing"
        return f"there is no '{full}'" + (did_you_mean(name, known) or f"; there are {', '.join(known)}")
    if not (allowed := _allowed(kind)):
        return f"{safe_text(path)}: {safe_text(reason)}"
    return f"{safe_text(path) or 'it'} is {safe_text(repr(values))[:100]}; it must be {allowed}"


def _inside(kind: Any, step: str | int) -> Any:
    """The type of a field or item; None if the schema uses anything but Structs and lists there."""
    if isinstance(step, int):
        return getattr(kind, "item_type", None)
    found = next((f.type for f in getattr(kind, "fields", ()) if f.encode_name == step), None)
    if isinstance(found, inspect.UnionType):  # T | None: optional
        found = next((t for t in found.types if not isinstance(t, inspect.NoneType)), None)
    return found


def _allowed(kind: Any) -> str:
    """The values that a type allows, in words; empty for any other type."""
    match kind:
        case inspect.LiteralType(values=values):
            return " or ".join(map(str, values))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(multiple_of=factor):
            multiple = f", a multiple of {factor}" if factor else ""
            return f"a whole number{_range(kind)}{multiple}"
        case inspect.FloatType():
            return f"a number{_range(kind)}"
        case inspect.VarTupleType(min_length=low, max_length=high) | inspect.ListType(min_length=low, max_length=high):
            return f"a list of {low or 0} to {high or 'any number of'} values"
        case inspect.StructType(fields=fields):
            return f"a mapping with the fields {', '.join(f.encode_name for f in fields)}"
        case inspect.StrType(max_length=longest, pattern=pattern):
            length = f" of at most {longest} characters" if longest else ""
            return f"text{length}" + (f" that matches {pattern}" if pattern else "")
        case _:
            return ""


def _range(kind: Any) -> str:
    """` from 0 to below 1`, ` above 0 to 100`, or the empty string."""
    low = f" from {kind.ge}" if kind.ge is not None else f" above {kind.gt}" if kind.gt is not None else ""
    high = f" to {kind.le}" if kind.le is not None else f" to below {kind.lt}" if kind.lt is not None else ""
    return low + high
