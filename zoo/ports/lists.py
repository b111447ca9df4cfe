"""Lists of numbers on a command line: `1,2,4`, `0..7`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UsageError
from ..text import safe_text
from .kind import MAX_BATCH


def number_list(name: str, text: str, kind: type[int] | type[float]) -> Sequence[Any] | None:
    """The numbers of `1,2,4` or `0..7`, both ends included; None if the text is neither.

    Raises:
        UsageError: a part that is not a number, an empty range, or more numbers than a command takes.
    """
    if "," not in text and ".." not in text:
        return None
    found: list[Any] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        try:
            some = range(int(first), int(last) + 1) if dots else [kind(first)]
            length = some.stop - some.start if isinstance(some, range) else 1  # `len` has a limit
        except ValueError:
            shown = f"{name} {safe_text(text)[:80]}"
            raise UsageError(
                f"{shown}: '{safe_text(part)[:80]}' is not a number or a range A..B of whole numbers"
            ) from None
        if length < 1:
            raise UsageError(f"{name} {part}: the range is empty; give the smaller number first")
        if len(found) + length > MAX_BATCH:
            raise UsageError(f"{name} {safe_text(text)[:80]} is more than {MAX_BATCH:,} values, the most of one call")
        found += some
    return found
