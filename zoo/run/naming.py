"""Names of outputs that follow the inputs: `out/{stem}.png`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ..errors import UsageError
from ..hookspecs import Task
from ..ports.kinds import drawn
from ..ports.label import labels_of
from ..text import safe_text

PLACEHOLDERS = "stem index i label seed".split()  # noqa: SIM905  # words, not kinds of ports
"""What a template may contain: the input's name without folder and ending, the number of the picture from 0 (`i` is the
same), the class that was given or that the task gives, and the picture's seed."""

_PLACEHOLDER = re.compile(r"\{([^{}/]*)\}")


def placeholders(out: str | None) -> list[str]:
    """The placeholders in a name, without their braces, known or not."""
    return _PLACEHOLDER.findall(out or "")


def any_for_several(words: Iterable[str]) -> bool:
    """Whether a word for pictures stands for several: a folder, a pattern, a list or an array."""
    from ..media.sources import is_many

    return any(map(is_many, words))


def check_placeholders(out: str | None, task: Task, *, files: bool) -> None:
    """Refuses a name with a placeholder that zoo does not know, or that the task cannot fill.

    Args:
        files: the task's pictures come from files.
    """
    check_braces(out)
    for name in placeholders(out):
        known = [n for n in PLACEHOLDERS if n not in _unfit(task, files)]
        if name not in known:
            listed = ", ".join(f"{{{n}}}" for n in known)
            raise UsageError(f"--out contains {{{safe_text(name)}}}; here it may contain {listed}")


def check_only_numbered(out: str | None) -> None:
    """Refuses a name with another placeholder than `{i}`, for a task that takes one file."""
    if other := next((name for name in placeholders(out) if name != "i"), None):
        raise UsageError(f"--out contains {{{safe_text(other)}}}; here it may contain {{i}}")


def refuse_placeholders(out: str) -> None:
    """Refuses a name with a placeholder for what is a single file."""
    check_braces(out)
    if found := next((name for name in placeholders(out) if name in PLACEHOLDERS), None):
        raise UsageError(f"--out is one file here; leave out {{{found}}}")


def check_braces(out: str | None) -> None:
    """Refuses a brace that is not part of a placeholder: `{stem.png`."""
    if re.search("[{}]", _PLACEHOLDER.sub("", out or "")):
        listed = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise UsageError(f"--out {safe_text(out)[:300]} has a brace without its pair; placeholders are {listed}")


def _unfit(task: Task, files: bool) -> set[str]:
    unfit = set() if files else {"stem"}
    unfit |= set() if drawn(task.inputs) else {"seed"}
    return unfit if label_of(task) else unfit | {"label"}


def label_of(task: Task) -> tuple[bool, str] | None:
    """The port that fills `{label}`: whether it is an output, and its name; None if there is none."""
    for given, ports in ((False, task.inputs), (True, task.outputs)):
        if names := labels_of(ports):
            return given, names[0]
    return None


def fill(out: str, values: Mapping[str, object]) -> str:
    """The name with its placeholders filled in. A value never adds a folder or hides a file."""
    return _PLACEHOLDER.sub(lambda found: _part(str(values[found[1]])), out)


def _part(value: str) -> str:
    cleaned = re.sub(r"[/\\\x00-\x1f]", "_", value)
    return re.sub(r"^\.+", "_", cleaned) or "_"


def refuse_same(names: Sequence[str], shown: Sequence[str]) -> None:
    """Refuses two pictures whose outputs would have the same name.

    Args:
        shown: what each picture is called in the message.
    """
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        other = first.setdefault(name, number)
        if other != number:
            raise UsageError(
                f"--out gives {safe_text(shown[other])} and {safe_text(shown[number])} the same name,"
                f" {safe_text(name)}; add {{index}}"
            )
