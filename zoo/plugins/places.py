"""Finds lines in a plugin's own code, for messages: `zoo_tiny/model.py:12`."""

import inspect
import re
from pathlib import Path
from types import FunctionType
from typing import Any

from ..text import safe_text
from .finding import roots


def of_error(error: BaseException | None, owner: object) -> str:
    """The innermost line of the owner's package in an error's traceback; empty if there is none.

    Code that ran earlier, during tracing, may be in the error's notes, in the format of a traceback.

    Args:
        owner: a module's dotted name, or any object of a class that the package defines.
    """
    place, step = "", error.__traceback__ if error else None
    while step:
        place = _relative(step.tb_frame.f_code.co_filename, step.tb_lineno, owner) or place
        step = step.tb_next
    if not place:
        for file, line in re.findall(r'File "([^"\n]+)", line (\d+)', "\n".join(getattr(error, "__notes__", ()))):
            place = _relative(file, int(line), owner) or place
    return place


def of_code(function: Any, owner: object) -> str:
    """Where a function begins; empty if it is not in the owner's package."""
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType):
        return ""
    return _relative(function.__code__.co_filename, function.__code__.co_firstlineno, owner)


def _relative(file: str, line: int, owner: object) -> str:
    module = owner if isinstance(owner, str) else type(owner).__module__
    for root in roots(module.split(".")[0]):
        if Path(file).is_relative_to(root):
            return f"{safe_text(Path(file).relative_to(root.parent))}:{line}"
    return ""
