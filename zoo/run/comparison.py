"""What "the same" means: compares a runtime's outputs with the expected ones.

Pixels: 99.9 % of them within one level, none off by more than two. Tokens and other integers: equal, except for tokens
that tie (golden cases avoid ties if possible). Floats: absolute plus relative tolerance. Each model has its own numbers
in its manifest. docs/bundle.md gives the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Literal

from ..hookspecs import Port, Tolerance
from ..ports.kind import BATCH, shape_text
from ..ports.kinds import kind_of

if TYPE_CHECKING:
    import numpy as np

Verdict = Literal["identical", "within", "differs"]


@dataclass(frozen=True)
class Comparison:
    """One output compared with what it should be."""

    verdict: Verdict
    text: str  # what differs and by how much, as a table cell
    worst: float  # the largest difference: levels, integers, or the floats' own unit; inf for another shape or NaN
    share_equal: float  # of the elements, 0 .. 1


def compare(port: Port, expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> Comparison:
    """Compares an output of a task with the expected one, by the rule for its kind.

    Args:
        port: of the output; pixels are compared in levels, other integers exactly, floats within the tolerance.
        expected: the output of torch, or of an earlier run.
        actual: the output to judge.
    """

    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        text = f"{actual.dtype} {shape_text(actual.shape)}, expected {expected.dtype} {shape_text(expected.shape)}"
        return Comparison("differs", text, float("inf"), 0.0)
    if actual.tobytes() == expected.tobytes():
        return Comparison("identical", "identical", 0.0, 1.0)

    share_equal = float((actual == expected).mean())
    worst, within, text = kind_of(port).compare(port, expected, actual, tolerance)
    return Comparison("within" if within else "differs", text, float(worst), share_equal)


def compare_task(
    ports: Mapping[str, Port],
    expected: Mapping[str, np.ndarray],
    actual: Mapping[str, np.ndarray],
    tolerance: Tolerance,
    margins: np.ndarray | None = None,
) -> dict[str, Comparison]:
    """Compares all outputs of a call.

    A single different token changes a whole picture and says nothing about the decoder, so pictures are compared only
    if all their tokens agree; the row of the tokens reports the share that did. If choices tie, any output may differ,
    but not by NaN or infinity where none was expected. If they tie in all elements of the batch, most elements must
    agree all the same: rounding flips few choices, and a wrong graph gives wrong outputs everywhere.

    Args:
        margins: float32 [batch], how close to a tie the choices behind each element of the batch are: tokens, or
            whatever is drawn; None: none is close.
    """
    import numpy as np

    agree: np.ndarray | None = None  # [batch], if there are tokens
    for name, port in ports.items():
        if kind_of(port).decides and expected[name].shape == actual[name].shape:
            rows = (expected[name] == actual[name]).reshape(len(expected[name]), -1).all(axis=1)
            agree = rows if agree is None else agree & rows

    clear = None if margins is None else margins > tolerance.token_margin  # [batch]

    result: dict[str, Comparison] = {}
    for name, port in ports.items():
        e, a = expected[name], actual[name]
        if port.shape[:1] != (BATCH,) or e.shape != a.shape:
            result[name] = compare(port, e, a, tolerance)
            continue
        rows = np.ones(len(e), bool)
        if kind_of(port).follows and agree is not None and len(agree) == len(e):
            rows = agree
        comparison = compare(port, e[rows], a[rows], tolerance)
        if not rows.all():
            note = f" (compared {int(rows.sum())} of {len(rows)}, whose tokens agree)"
            comparison = replace(comparison, text=comparison.text + note)
        excusable = isfinite(comparison.worst)  # no tie explains NaN or infinity where none was expected
        if comparison.verdict == "differs" and excusable and clear is not None and len(clear) == len(e):
            if clear.any():
                excused = compare(port, e[rows & clear], a[rows & clear], tolerance).verdict != "differs"
                note = f"; only where choices tie ({int(clear.sum())} of {len(clear)} have no tie)" if excused else ""
            else:
                agreeing = [compare(port, e[[i]], a[[i]], tolerance).verdict != "differs" for i in np.flatnonzero(rows)]
                excused = 2 * sum(agreeing) > len(agreeing)
                note = f"; choices tie in every element, and {sum(agreeing)} of {len(agreeing)} agree"
            verdict = "within" if excused else "differs"
            comparison = replace(comparison, verdict=verdict, text=comparison.text + note)
        result[name] = comparison
    return result


def worst_of(comparisons: Mapping[str, Comparison]) -> Verdict:
    """`differs` if any does, else `within` if any is, else `identical`."""
    verdicts = {comparison.verdict for comparison in comparisons.values()}
    return "differs" if "differs" in verdicts else "within" if "within" in verdicts else "identical"
