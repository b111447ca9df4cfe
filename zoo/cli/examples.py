"""Command lines that users can copy: how to run a task of a model."""

import shlex
from collections.abc import Iterator

from ..hookspecs import Port, Task
from ..ports.kinds import kind_of
from ..text import safe_text

MOST_CLASSES = 20
"""Class names in the help of a task."""


def examples(model: str, name: str, task: Task) -> Iterator[str]:
    """The `zoo run` lines of a task: one that works without any file, then one with the user's own files.

    Args:
        model: as the user named it.
    """
    from ..run.call import option_name

    files: list[str] = []
    values: list[str] = []
    for port_name, port in task.inputs.items():
        kind = kind_of(port)
        option = kind.option(port_name, port, task)
        if option is None:
            return  # only Python can run it
        given = option_name(option.name)
        if option.file:
            if port.default is None and (file := f"{given} {kind.sample}") not in files:
                files.append(file)
        elif port.classes:
            values.append(f"{given} {shlex.quote(safe_text(port.classes[len(port.classes) // 2]))}")
        elif port.examples:
            values.append(f"{given} {shlex.quote(safe_text(port.examples[0]))}")
        elif kind.drawn or (port.default is None and kind.sample == "0"):
            values.append(f"{given} {_nearest_to_0(port)}")
        elif port.default is None and kind.sample:
            values.append(f"{given} {kind.sample}")
    start, out = f"zoo run {shlex.quote(safe_text(model))} {name}", _out(task)
    if files:
        yield " ".join([start, "--example", *out])
    yield " ".join([start, *files, *values, *out])


def _nearest_to_0(port: Port) -> int | float:
    """The number nearest to 0 that the port takes."""
    value = 0 if port.minimum is None else max(0, port.minimum)
    value = value if port.maximum is None else min(value, port.maximum)
    return int(value) if port.dtype == "int64" else value


def _out(task: Task) -> list[str]:
    """`--out` with a fitting name, unless the outputs are printed."""
    for kind in map(kind_of, task.outputs.values()):
        if not kind.form.printed:
            return [f"--out {kind.sample if kind.form.shared else 'out' + kind.form.suffixes[0]}"]
    return []


def class_names(task: Task) -> Iterator[str]:
    """One line for each input that takes a class by name: the names."""
    for name, port in task.inputs.items():
        if port.classes:
            yield f"Classes of --{name.replace('_', '-')}: {listed(port)}."


def listed(port: Port) -> str:
    """The names of a port's classes, up to MOST_CLASSES."""
    more = len(port.classes) - MOST_CLASSES
    return ", ".join(map(safe_text, port.classes[:MOST_CLASSES])) + (f" and {more} more" if more > 0 else "")
