"""What a call gave, as files: pictures as PNG, tokens as a tokens file, other arrays as .npy, .safetensors or text.

One file each kind of output. `--out` names the first; the others get its name with their port's added. Without `--out`
a name is made from model, task and seed, and never overwrites; a name that was given does, as with other tools.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import StoreError, UsageError
from .hookspecs import Port, Task
from .media import Grid, encode_png
from .model import Model
from .recipe import public_reference, write_recipe
from .registry import write_atomically
from .run import Call, Result
from .text import safe_text
from .tokens import encode_npy, encode_safetensors, encode_tokens

if TYPE_CHECKING:
    import numpy as np

STDOUT = "-"
NUMBERED = "{i}"
MOST_SHOWN = 1000
"""Numbers that are printed; more go to a file."""

# The first is the one that a name made here has; .npy holds one array, so it is never first.
_SUFFIXES = {"pictures": (".png",), "tokens": (".safetensors", ".npy"), "values": (".safetensors", ".npy")}


@dataclass(frozen=True)
class Artifact:
    """Outputs that share a file."""

    kind: Literal["pictures", "tokens", "values"]
    ports: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """What became of a call's outputs."""

    paths: list[str]  # files that were written; none for stdout
    values: dict[str, Any]  # small outputs to be shown, as JSON by port


def artifacts_of(task: Task) -> list[Artifact]:
    """How a task's outputs are laid into files: one each picture port, one for all tokens, one for the rest."""
    found: list[Artifact] = []
    groups: dict[str, list[str]] = {"tokens": [], "values": []}
    has_tokens = any(port.kind == "tokens" for port in task.outputs.values())
    for name, port in task.outputs.items():
        if port.kind in ("image", "mask"):
            found.append(Artifact("pictures", (name,)))
        else:
            groups["tokens" if port.kind == "tokens" or (port.kind == "size" and has_tokens) else "values"].append(name)
    return found + [Artifact(kind, tuple(names)) for kind, names in groups.items() if names]


def check_out(task_name: str, task: Task, out: str | None) -> None:
    """Refuses a place that can't be written, before anything is run.

    Raises:
        UsageError: a name that does not fit what the task gives.
        StoreError: no such folder, or one that cannot be written.
    """
    artifacts = artifacts_of(task)
    first = artifacts[0]
    if out is None:
        if first.kind != "values":
            _check_folder(Path())
        return
    if out == STDOUT and len(artifacts) > 1:
        raise UsageError(f"{task_name} gives more than one file; --out - takes tasks that give one")
    _check_name(out, task_name, first)


def check_picture_out(out: str) -> None:
    """As `check_out`, for one picture."""
    _check_name(out, "this", Artifact("pictures", ()))


def _check_name(out: str, task_name: str, artifact: Artifact) -> None:
    if out == STDOUT:
        if artifact.kind != "values" and sys.stdout.isatty():
            raise UsageError("--out - writes bytes, and stdout is a terminal: send it to a file or a pipe")
        return
    path, shown = Path(out), safe_text(out)
    if path.is_dir() or not path.name:
        raise UsageError(f"--out {shown} is a folder; give a file name in it")
    allowed = _SUFFIXES[artifact.kind]
    if path.suffix.lower() not in allowed and not _special(path):
        raise UsageError(f"--out {shown}: {task_name} gives {artifact.kind}; the name ends in {' or '.join(allowed)}")
    if path.suffix.lower() == ".npy" and artifact.kind == "values" and len(artifact.ports) > 1:
        raise UsageError(f"{task_name} gives {', '.join(artifact.ports)}; .npy holds one array: use .safetensors")
    _check_folder(path.parent)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise StoreError(f"the folder {safe_text(folder)} does not exist; make it first, or give another --out")
    if not os.access(folder, os.W_OK):
        raise StoreError(f"the folder {safe_text(folder)} cannot be written; give another --out")


def write_outputs(model: Model, call: Call, result: Result, out: str | None) -> Written:
    """Writes what a call gave to `out`, which `check_out` accepted."""
    _, task = model.manifest.task(call.task)
    paths: list[str] = []
    shown: dict[str, Any] = {}
    for number, artifact in enumerate(artifacts_of(task)):
        arrays = {name: result.outputs[name] for name in artifact.ports}
        first = number == 0
        small = sum(array.size for array in arrays.values()) <= MOST_SHOWN and (out is None or not first)
        if artifact.kind == "values" and (small or out == STDOUT):
            shown |= {name: shown_value(task.outputs[name], array) for name, array in arrays.items()}
            continue
        if out == STDOUT:
            target = STDOUT
        elif out is None:
            target = str(_free_name(model, call, artifact, first))
        else:
            target = out if first else _beside(out, artifact)
        if artifact.kind == "pictures":
            paths += _write_pictures(model, call, result, artifact.ports[0], target)
            continue
        made_by = {"digest": model.digest, "model": public_reference(model), "task": call.task}
        suffix = Path(target).suffix.lower()
        if artifact.kind == "tokens":
            data = encode_tokens(arrays, made_by, suffix)
        else:
            data = encode_npy(next(iter(arrays.values()))) if suffix == ".npy" else encode_safetensors(arrays, made_by)
        paths += write_file(target, data)
    return Written(paths, shown)


def shown_value(port: Port, array: np.ndarray) -> Any:
    """An output as JSON; a label as its number and class name."""
    if port.kind == "label" and port.classes:
        return [{"number": n, "name": port.classes[n] if 0 <= n < len(port.classes) else ""} for n in array.tolist()]
    return array.tolist()


def _write_pictures(model: Model, call: Call, result: Result, port: str, target: str) -> list[str]:
    """One grid, or one file each where the name holds `{i}`."""
    pictures = result.outputs[port]
    if NUMBERED not in target:
        whole = Grid.of(pictures).join(pictures)
        return write_file(target, encode_png(whole, write_recipe(model, call, result, port)))
    paths = []
    for i, picture in enumerate(pictures):
        paths += write_file(
            target.replace(NUMBERED, str(i)), encode_png(picture, write_recipe(model, call, result, port, i))
        )
    return paths


def write_file(target: str, data: bytes) -> list[str]:
    """Writes bytes to a file, replaced in one step, or to stdout; the paths that were written."""
    if target == STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return []
    path = Path(target)
    if _special(path):  # /dev/stdout, a named pipe: nothing to replace
        try:
            path.write_bytes(data)
        except BrokenPipeError:
            raise
        except OSError as e:
            raise StoreError(f"cannot write {safe_text(path)}: {e.strerror}") from None
    else:
        write_atomically(path, data)
    return [target]


def _special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _beside(out: str, artifact: Artifact) -> str:
    """`--out x.png` and tokens: `x-tokens.safetensors`; a second picture port: `x-<port>.png`."""
    path = Path(out.replace(NUMBERED, ""))
    name = artifact.ports[0] if artifact.kind == "pictures" else artifact.kind
    return str(path.with_name(f"{path.stem.rstrip('-')}-{name}{_SUFFIXES[artifact.kind][0]}"))


def _free_name(model: Model, call: Call, artifact: Artifact, first: bool) -> Path:
    """`vqvae-fashion-reconstruct.png`, with the seed where there is one; `-2`, `-3`, … where the name is taken."""
    parts = [model.manifest.name, call.task]
    parts += [] if call.seed is None else [str(call.seed)]
    parts += [] if first else [artifact.ports[0]]
    suffix = _SUFFIXES[artifact.kind][0]
    stem = "-".join(parts)
    path, number = Path(stem + suffix), 1
    while path.exists():
        number += 1
        path = Path(f"{stem}-{number}{suffix}")
    return path
