"""Labels: the class of a picture, int64 [batch]; -1 means no label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..hookspecs import Port, Task
from ..text import did_you_mean, safe_text
from .given import text_in
from .integers import Integers
from .kind import Number, Option, Read, RealInputs, Source
from .lists import number_list

if TYPE_CHECKING:
    import numpy as np

ALL = "all"
MOST_LISTED = 12
"""Class names in a message."""


class Label(Integers):
    name = "label"
    shape = "[batch]"
    ranks = (1,)
    fields = ("classes",)
    meaning = "a class, from 0; -1: no label"
    repeats = True
    asks = "NAME|NUMBER"
    field = "choice"
    shown = "names"

    def problem(self, port: Port) -> str:
        return super().problem(port) or repeated(port.classes)

    def bounds(self, port: Port) -> tuple[Number | None, Number | None]:
        low, high = port.minimum, port.maximum
        if port.classes:
            low, high = (0 if low is None else low), (len(port.classes) - 1 if high is None else high)
        return low, high

    def from_value(self, name: str, port: Port, value: Any) -> np.ndarray:
        return super().from_value(name, port, numbers(name, port, value))

    def annotation(self, port: Port) -> Any:
        one = str | int if port.classes else int
        return one | Sequence[one]

    def from_request(self, name: str, port: Port, value: Any) -> Any:
        return text_in(name, value)

    def schema(self, port: Port) -> dict[str, Any]:
        one = {"oneOf": [super().schema(port), {"type": "string", "enum": list(port.classes)}]}
        return one if port.classes else super().schema(port)

    def to_json(self, port: Port, array: np.ndarray) -> Any:
        """Numbers with their class names, if the port has names."""
        if not port.classes:
            return array.tolist()
        return [{"number": n, "name": port.classes[n] if 0 <= n < len(port.classes) else ""} for n in array.tolist()]

    def option(self, name: str, port: Port, task: Task) -> Option:
        values = self.range_text(port)
        limits = f"a class name, or {values}" if port.classes else values
        return Option(name, self.help(name, port, limits), metavar="NAME|NUMBER", multiple=True)

    def read(self, given: Any, source: Source) -> Read:
        return Read({source.name: numbers(source.name, source.port, given)})

    def several(self, name: str, port: Port, given: Any, *, always: bool = False) -> list[Any] | None:
        """The classes of texts of which one is a list."""
        if not isinstance(given, tuple):
            return super().several(name, port, given)
        parts = [listed(name, port, text) if isinstance(text, str) else None for text in given]
        if not always and all(part is None for part in parts):
            return None
        both = zip(parts, given, strict=True)
        return [value for part, text in both for value in (part or [numbers(name, port, text)])]

    def captions(self, name: str, port: Port, values: list[Any]) -> list[str]:
        return [class_name(name, port, value) for value in values] if max(values) >= 0 else []

    def top(self, port: Port) -> int:
        return len(port.classes) - 1 if port.classes else 1

    def host_sample(self, port: Port) -> str:
        return "7" if port.maximum is None or port.maximum >= 7 else "0"

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> np.ndarray:
        """Every class in turn."""
        import numpy as np

        index = np.arange(len(inputs.pictures)) + inputs.first
        return index % (int(port.maximum or 0) + 1)


def number(name: str, port: Port, text: str) -> int:
    """A label from its class name (in any case) or its number; a class named `7` wins over the number 7."""
    wanted = _folded(text)
    for value, known in enumerate(port.classes):
        if _folded(known) == wanted:
            return value
    if wanted.removeprefix("-").isascii() and wanted.removeprefix("-").isdigit():
        return int(wanted)
    if not port.classes:
        raise UsageError(f"{name} '{safe_text(text)}' is not a number; this model's classes have no names")
    hint = did_you_mean(wanted, map(_folded, port.classes))
    raise UsageError(f"{name} '{safe_text(text)}' is not a class of this model{hint or '; ' + _listed(port)}")


def _folded(name: str) -> str:
    """What two names of one class have in common."""
    return name.strip().casefold()


def repeated(classes: Sequence[str]) -> str:
    """`the classes 3 and 7 are both called 'sneaker'`; empty if a name, in any case, says which class is meant."""
    first: dict[str, int] = {}
    for value, name in enumerate(classes):
        before = first.setdefault(_folded(name), value)
        if before != value:
            other = classes[before]
            called = (
                f"both called '{safe_text(name)}'"
                if other == name
                else (f"called '{safe_text(other)}' and '{safe_text(name)}', which zoo does not tell apart")
            )
            return f"the classes {before} and {value} are {called}"
    return ""


def class_name(name: str, port: Port, value: int) -> str:
    """The name of a class, for people: `Sneaker`, `label 7` without names, `no label`."""
    if value < 0:
        return f"no {name}"
    return port.classes[value] if value < len(port.classes) else f"{name} {value}"


def listed(name: str, port: Port, text: str) -> list[int] | None:
    """The classes of `all`, `sneaker,bag`, `0..4` or a mixture; None if the text is a single class.

    The text is a single class if a class has this name, commas included.
    """
    if _folded(text) in set(map(_folded, port.classes)):
        return None
    if _folded(text) == ALL:
        most = Label().bounds(port)[1]
        if most is None:
            raise UsageError(f"{name} {ALL}: this model does not state how many classes it has")
        return list(range(int(most) + 1))
    if "," not in text and ".." not in text:
        return None
    found: list[int] = []
    for part in text.split(","):
        numbers = number_list(name, part, int) if ".." in part else None
        found += numbers or [number(name, port, part)]
    return found


def numbers(name: str, port: Port, value: Any) -> Any:
    """The value with class names replaced by numbers."""
    if isinstance(value, str):
        return number(name, port, value)
    if isinstance(value, (list, tuple)):
        return [number(name, port, v) if isinstance(v, str) else v for v in value]
    if getattr(getattr(value, "dtype", None), "kind", "") == "U":  # an array of names
        return numbers(name, port, value.tolist())
    return value


def labels_of(ports: Mapping[str, Port]) -> list[str]:
    """The names of the ports that are labels."""
    return [name for name, port in ports.items() if port.kind == Label.name]


def highest(ports: Iterable[Port]) -> int | None:
    """The highest label of the first port that is a label and has a maximum."""
    return next((int(port.maximum) for port in ports if port.kind == Label.name and port.maximum), None)


def _listed(port: Port) -> str:
    shown = ", ".join(safe_text(c) for c in port.classes[:MOST_LISTED])
    more = len(port.classes) - MOST_LISTED
    return f"there are {shown}" + (f" and {more} more" if more > 0 else "")
