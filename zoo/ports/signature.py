"""What `help(model.generate)` and an editor show: the signature and the docstring of a task, made from its ports."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Mapping
from typing import Any

from ..hookspecs import Port, Task
from ..text import safe_text
from .kind import shape_text
from .kinds import kind_of

MOST_NAMES = 20
"""Class names in a docstring."""


def signature_of(task: Task, returns: Any) -> inspect.Signature:
    """The inputs as keyword parameters, with their defaults; a seed that is drawn if it is missing has None.

    Just `**ports` if an input has a name that Python does not allow for a parameter, such as `lambda`.
    """
    if any(map(keyword.iskeyword, task.inputs)):
        ports = inspect.Parameter("ports", inspect.Parameter.VAR_KEYWORD, annotation=Any)
        return inspect.Signature([ports], return_annotation=returns)
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(port), annotation=_annotation(port))
        for name, port in task.inputs.items()
    ]
    return inspect.Signature(parameters, return_annotation=returns)


def _default(port: Port) -> Any:
    if port.default is not None:
        return kind_of(port).default(port)
    return None if kind_of(port).drawn else inspect.Parameter.empty


def _annotation(port: Port) -> Any:
    takes = kind_of(port).annotation(port)
    return takes | None if kind_of(port).drawn else takes


def docstring_of(task: Task, example: str) -> str:
    """The summary, a line for each input and output with shape, range, default and class names, and an example."""
    inputs = [_line(name, port, takes=True) for name, port in task.inputs.items()]
    outputs = [_line(name, port) for name, port in task.outputs.items()]
    parts = [
        safe_text(task.summary).rstrip(".") + "." if task.summary else "",
        "\n    ".join(["Args:", *inputs]) if inputs else "",
        "\n    ".join(["Returns:", *outputs]),
        f"Example:\n    {example}",
    ]
    return "\n\n".join(part for part in parts if part)


def _line(name: str, port: Port, *, takes: bool = False) -> str:
    """`label: what to draw; int64 [batch], -1 .. 9, default -1; Trouser, Bag`."""
    kind = kind_of(port)
    dtype = f"{port.dtype} {shape_text(port.shape)}" if port.shape else port.dtype
    facts = ", ".join([dtype, *kind.limits(port)])
    if takes and kind.drawn:
        facts += ", drawn if it is missing"
    names = ", ".join(map(safe_text, port.classes[:MOST_NAMES]))
    more = len(port.classes) - MOST_NAMES
    names += f" and {more} more" if more > 0 else ""
    return f"{name}: " + "; ".join(part for part in (safe_text(port.summary), facts, names) if part)


def call_text(task: Task) -> str:
    """`(seed=None, steps=20 (1 .. 1000)) -> image [batch, 28, 28, 1]`: what follows a task's name in a model's repr."""
    return f"({', '.join(_brief(n, p) for n, p in task.inputs.items())}) -> {_outputs(task.outputs)}"


def _brief(name: str, port: Port) -> str:
    kind = kind_of(port)
    if kind.drawn:
        return f"{name}=None"
    text = name if port.default is None else f"{name}={kind.default(port)!r}"
    text += f" {shape_text(port.shape)}" if port.shape[1:] and not kind.repeats else ""
    return f"{text} ({ranges})" if (ranges := kind.range_text(port)) else text


def _outputs(ports: Mapping[str, Port]) -> str:
    return ", ".join(f"{name} {shape_text(port.shape)}" if port.shape else name for name, port in ports.items())


def example_of(name: str, task: Task) -> str:
    """A call that works as it is, as Python: the arguments that the task needs come from the model's own example."""
    known = {n: repr(p.classes[-1]) for n, p in task.inputs.items() if p.classes}
    known |= {n: repr(p.examples[0]) for n, p in task.inputs.items() if p.examples}
    known |= {n: "7" for n, p in task.inputs.items() if kind_of(p).drawn}
    needs_more = any(p.default is None and n not in known for n, p in task.inputs.items())
    needs_more |= any(map(keyword.iskeyword, known))
    arguments = f'**model.example("{name}")' if needs_more else ", ".join(f"{n}={v}" for n, v in known.items())
    call = f"model.{name}({arguments})"
    first = next(iter(task.outputs))
    return f"{call}.images[0]" if kind_of(task.outputs[first]).shown == "pictures" else f'{call}["{first}"]'
