"""Writes a call's outputs: pictures as PNG, tokens as a tokens file, other arrays as .npy, .safetensors or text.

There is one file per kind of output. `--out` names the first; the others get that name with their port's name added.
Without `--out`, the name consists of model, task and seed, and nothing is overwritten; a file named with `--out` is
overwritten, as by other tools.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoreError, UsageError
from ..hookspecs import Task
from ..media.files import STDIN
from ..ports.kind import Form
from ..ports.kinds import kind_of
from ..system.files import write_atomically
from ..system.paths import user_path, write_special
from ..system.processes import CLOSED
from ..text import safe_text
from .again import public_reference, write_recipe
from .call import Call, Result
from .model import Model
from .naming import check_braces, refuse_placeholders

STDOUT = "-"
NUMBERED = "{i}"
MOST_SHOWN = 1000
"""The most numbers that are printed; more go to a file."""


Write = Callable[[str, bytes], list[str]]


@dataclass(frozen=True)
class Artifact:
    """Outputs that share a file."""

    form: Form
    ports: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """Where a call's outputs went."""

    paths: list[str]  # written files; none for stdout
    values: dict[str, Any]  # small outputs to print, as JSON, by port


def artifacts_of(task: Task) -> list[Artifact]:
    """How a task's outputs become files: first outputs with their own file, then one file per shared form."""
    found: list[Artifact] = []
    shared: dict[Form, list[str]] = {}
    for name, port in task.outputs.items():
        form = kind_of(port).form_in(port, task.outputs)
        if form.shared:
            shared.setdefault(form, []).append(name)
        else:
            found.append(Artifact(form, (name,)))
    order = sorted(shared, key=lambda form: form.printed)
    return found + [Artifact(form, tuple(shared[form])) for form in order]


def check_out(task_name: str, task: Task, out: str | None) -> None:
    """Refuses an --out that cannot be written, before anything is run.

    Raises:
        UsageError: a name that does not fit the task's outputs.
        StoreError: the folder does not exist or cannot be written.
    """
    artifacts = artifacts_of(task)
    first = artifacts[0]
    if out is None:
        if not first.form.printed:
            _check_folder(Path())
        return
    if out == STDOUT and len(artifacts) > 1:
        raise UsageError(f"{task_name} gives more than one file; --out - needs a task that gives only one")
    _check_name(out, task_name, first)


def lost_in(task: Task, out: str | None) -> str:
    """What files named `out` do not keep of a task's outputs, in a line; empty if nothing."""
    suffix = Path(out or "").suffix.lower()
    return next((a.form.named(suffix).loses for a in artifacts_of(task)[:1] if suffix and not a.form.shared), "")


def refuse_to_overwrite(out: str | None, call: Call, count: int) -> None:
    """Refuses an --out that is a file which the call has read, whatever links lead to it.

    Args:
        count: of the outputs; `{i}` counts them.
    """
    given = [file.path for files in call.files.values() for file in files if file.path not in ("", STDIN)]
    read = [path for path in map(user_path, given) if path.is_file()]
    if out is None or out == STDOUT or not read:
        return
    for name in [out.replace(NUMBERED, str(i)) for i in range(count if NUMBERED in out else 1)]:
        path = user_path(name, out=True)
        if path.is_file() and any(map(path.samefile, read)):
            raise UsageError(f"--out would overwrite {safe_text(name)}, which is read; give another name")


def check_again_out(out: str, form: Form) -> None:
    """Like `check_out`, for the single output of a recipe."""
    refuse_placeholders(out)
    _check_name(out, "this", Artifact(form, ()))


def _check_name(out: str, task_name: str, artifact: Artifact) -> None:
    if out == STDOUT:
        if "stdout" in CLOSED:
            raise UsageError("--out - writes to stdout, which is closed")
        if not artifact.form.printed and sys.stdout.isatty():
            raise UsageError("--out - writes bytes, but stdout is a terminal: redirect it to a file or a pipe")
        return
    check_braces(out)
    path, shown = user_path(out.replace(NUMBERED, "0"), out=True), safe_text(out)
    if path.is_dir() or not path.name:
        raise UsageError(f"--out {shown} is a folder; give a file name in it")
    allowed = artifact.form.suffixes
    if path.suffix.lower() not in allowed and not _special(path):
        raise UsageError(
            f"--out {shown}: {task_name} gives {artifact.form.name}; the name must end in {' or '.join(allowed)}"
        )
    artifact.form.check_name(task_name, artifact.ports, path.suffix.lower())
    _check_folder(path.parent)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise StoreError(f"the folder {safe_text(folder)} does not exist; create it first, or give another --out")
    if not os.access(folder, os.W_OK):
        raise StoreError(f"the folder {safe_text(folder)} cannot be written; give another --out")


def write_outputs(model: Model, call: Call, result: Result, out: str | None, write: Write | None = None) -> Written:
    """Writes a call's outputs to `out`, which `check_out` has accepted.

    Args:
        write: writes a file's bytes, and returns the paths written.
    """
    write = write or write_file
    _, task = model.manifest.task(call.task)
    paths: list[str] = []
    shown: dict[str, Any] = {}
    for number, artifact in enumerate(artifacts_of(task)):
        arrays = {name: result.outputs[name] for name in artifact.ports}
        first = number == 0
        small = sum(array.size for array in arrays.values()) <= MOST_SHOWN and (out is None or not first)
        if artifact.form.printed and (small or out == STDOUT):
            shown |= {name: kind_of(task.outputs[name]).to_json(task.outputs[name], a) for name, a in arrays.items()}
            continue
        if out == STDOUT:
            target = STDOUT
        elif out is None:
            target = str(_free_name(model, call, artifact, first))
        else:
            target = out if first else _beside(out, artifact)
        if not artifact.form.shared:
            paths += _write_batch(model, call, result, artifact, target, write)
            continue
        made_by = {"digest": model.digest, "model": public_reference(model), "task": call.task}
        paths += write(target, artifact.form.encode(arrays, made_by, _suffix(target)))
    return Written(paths, shown)


def _write_batch(model: Model, call: Call, result: Result, artifact: Artifact, target: str, write: Write) -> list[str]:
    """The whole batch in one file, or one file per element if the name contains `{i}`."""
    [port] = artifact.ports
    form = artifact.form.named(_suffix(target)).viewed(call.view)
    batch = result.outputs[port]
    if NUMBERED not in target:
        return write(target, form.encode_batch(batch, write_recipe(model, call, result, port)))
    paths = []
    for i in range(len(batch)):
        data = form.encode_batch(batch[i : i + 1], write_recipe(model, call, result, port, i))
        paths += write(target.replace(NUMBERED, str(i)), data)
    return paths


def write_file(target: str, data: bytes, *, synced: bool = True) -> list[str]:
    """Writes bytes to a file, replacing it in one step, or to stdout; returns the written paths."""
    if target == STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return []
    path = user_path(target, out=True)
    if _special(path):  # /dev/stdout, a named pipe: nothing to replace
        write_special(path, data)
    else:
        write_atomically(path, data, synced=synced)
    return [str(path)]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - several times as fast as Path, for each of many files


def _special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _beside(out: str, artifact: Artifact) -> str:
    """`--out x.png` and tokens: `x-tokens.safetensors`; a second picture port: `x-<port>.png`."""
    path = Path(out.replace(NUMBERED, ""))
    name = artifact.form.name if artifact.form.shared else artifact.ports[0]
    return str(path.with_name(f"{path.stem.rstrip('-')}-{name}{artifact.form.suffixes[0]}"))


def _free_name(model: Model, call: Call, artifact: Artifact, first: bool) -> Path:
    """`vqvae-fashion-reconstruct.png`, with the seed if there is one, and `-2`, `-3`, … if the name is taken."""
    parts = [model.manifest.name, call.task]
    parts += [] if call.seed is None else [str(call.seed)]
    parts += [] if first else [artifact.ports[0]]
    return free_path("-".join(parts), artifact.form.suffixes[0])


def free_path(stem: str, suffix: str) -> Path:
    """`compare.png` in the current folder, or `compare-2.png`, … if the name is taken."""
    path, number = Path(stem + suffix), 1
    while path.exists():
        number += 1
        path = Path(f"{stem}-{number}{suffix}")
    return path
