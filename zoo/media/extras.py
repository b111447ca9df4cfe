"""Packages of zoo's extras, imported where a file needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import UsageError
from ..text import one_line


def need(package: str, extra: str, what: str) -> Any:
    """A package of an extra.

    Args:
        what: what needs it, the start of the message.

    Raises:
        UsageError: it is not installed, or does not load.
    """
    try:
        return import_module(package)
    except ImportError:
        raise UsageError(f"{what} needs {package}: pip install 'genzoo[{extra}]'") from None
    except OSError as e:  # soundfile without its library
        raise UsageError(f"{what} needs {package}, which does not load: {one_line(e)[:200]}") from None
