"""`model.yaml`: what a bundle says of itself. Read, validate, write.

A bundle is a folder: `model.yaml` (this manifest), the safetensors, `<task>.onnx`, `golden.safetensors`, `README.md`.
The manifest lists path, size and SHA-256 of every other file; the SHA-256 of the manifest's own bytes is the model's
digest. docs/bundle.md describes the format.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from .. import __version__
from ..errors import InvalidFileError, NotFoundError
from ..hookspecs import Metric, Task, Tolerance
from ..names import MANIFEST, FileName, License, Line, Name, PortName, Text, Version, graph_file
from ..ports.kinds import kind_of, problem
from ..text import safe_text
from . import strictyaml
from .fields import File, Struct, check_file_names, compare_files
from .fields import describe_file as describe_file  # part of this module's interface, as `digest` is
from .fields import digest_of as digest  # noqa: F401

FORMAT = 1

BASE_ZOO = "0.1"
"""The first zoo that reads this format. A manifest says what it needs only where that is newer."""


class Training(Struct, frozen=True, kw_only=True):
    """How the weights came to be."""

    command: Text = ""
    data: Text = ""  # name of the data set
    data_license: Text = ""
    data_sha256: Text = ""  # of the arrays that were read, images then labels
    images_seen: int = 0
    steps: int = 0
    seed: int = 0
    seconds: float = 0.0
    note: Text = ""  # what else went into it, e.g. where a loss has its weights from
    parent: Text = ""  # name:version@sha256:digest that the training went on from
    environment: Text = ""  # python, torch, processor


class Drift(Struct, frozen=True, kw_only=True):
    """How far a loop's graph is from torch after so many rounds."""

    count: int  # the value of the task's `count` port
    worst: float  # the largest difference of an output: levels of a picture, else the output's own unit
    share_equal: float  # of the values


class Export(Struct, frozen=True, kw_only=True):
    """How the graphs were made and checked."""

    opset: int
    ir_version: int
    precision: str = "float32"
    checked_with: Text = ""  # versions of torch, onnx, onnxruntime
    drift: dict[PortName, tuple[Drift, ...]] = {}  # for each task with a `count` port, e.g. a sampler's steps


class Manifest(Struct, frozen=True, kw_only=True):
    """A model, complete: enough to run it, and to rebuild its torch module."""

    format: int
    needs_zoo: Annotated[str, Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){0,2}\Z")] = BASE_ZOO  # this version or newer
    name: Name
    version: Version
    family: Name
    summary: Line
    license: License  # of the weights
    license_note: Text = ""
    paper: Text = ""
    config: dict[str, Any]
    classes: tuple[Annotated[str, Meta(max_length=100)], ...] = ()
    default_task: PortName
    tasks: dict[PortName, Task]
    tolerances: dict[str, Tolerance]  # `<precision>/<provider>`: float32/cpu, float32/cuda
    training: Training = Training()
    metrics: tuple[Metric, ...] = ()
    export: Export
    files: dict[FileName, File]

    def task(self, name: str | None) -> tuple[str, Task]:
        """A task by name, or the default one."""
        from ..text import did_you_mean

        name = name or self.default_task
        if name not in self.tasks:
            raise NotFoundError(
                f"{self.name} has no task '{safe_text(name)}'; it has {', '.join(self.tasks)}"
                + did_you_mean(name, self.tasks)
            )
        return name, self.tasks[name]

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(f.size for f in self.files.values())


def parse(data: bytes, source: str) -> Manifest:
    """A manifest out of its bytes; `source` names it in messages.

    Raises:
        InvalidFileError: `source:line: field: reason`.
    """
    tree, lines = strictyaml.parse(data, source)
    _refuse_newer(tree, source)
    manifest = strictyaml.convert(tree, lines, source, Manifest)
    _check(manifest, source, lines)
    return manifest


def _refuse_newer(tree: Any, source: str) -> None:
    """Before the schema is asked: a newer zoo may write fields and kinds of port that this one does not know."""
    needs = str(tree.get("needs_zoo", "")) if isinstance(tree, dict) else ""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)*", needs) and version_tuple(needs) > version_tuple(__version__):
        raise InvalidFileError(
            f"{safe_text(source)}: it needs zoo {needs[:40]} or newer; this is zoo {__version__}: pip install -U zoo"
        )


def version_tuple(version: str) -> tuple[int, ...]:
    """`0.10.2` as numbers that compare."""
    return tuple(int(number[:9]) for number in version.split("."))


def zoo_needed(tasks: Mapping[str, Task]) -> str:
    """The first zoo that knows every kind of port of some tasks, for `needs_zoo`."""
    kinds = [kind_of(port) for task in tasks.values() for port in (*task.inputs.values(), *task.outputs.values())]
    return max((kind.since for kind in kinds), key=version_tuple, default=BASE_ZOO)


def read(folder: Path) -> Manifest:
    """The manifest of a bundle's folder. Only the manifest is read; `check_files` compares the rest."""
    return parse(read_bytes(folder), str(folder / MANIFEST))


def read_bytes(folder: Path) -> bytes:
    """The bytes of a bundle's manifest; NotFoundError where the folder is not a bundle."""
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        inside = f"; {safe_text(folder / 'model')} has one" if (folder / "model" / MANIFEST).is_file() else ""
        raise NotFoundError(f"{safe_text(folder)} is no bundle: it has no {MANIFEST}{inside}") from None


def _check(m: Manifest, source: str, lines: strictyaml.Lines) -> None:
    """What the schema can't say: the parts agree with each other."""

    def refuse(reason: str) -> None:
        raise InvalidFileError(f"{safe_text(source)}: {safe_text(reason)}")

    if m.format != FORMAT:
        refuse(f"format {m.format}; this zoo reads format {FORMAT}: upgrade zoo")
    if not m.tasks:
        refuse("tasks: a model has at least one task")
    if m.default_task not in m.tasks:
        refuse(f"default_task: '{m.default_task}' is not one of the tasks {', '.join(m.tasks)}")
    for name, task in m.tasks.items():
        if graph_file(name) not in m.files:
            refuse(f"files: {graph_file(name)}, the graph of the task '{name}', is not listed")
        for side, ports in (("inputs", task.inputs), ("outputs", task.outputs)):
            for port_name, port in ports.items():
                if wrong := problem(port):
                    path = ("tasks", name, side, port_name)
                    raise InvalidFileError(
                        f"{safe_text(source)}:{lines[path]}: {'.'.join(path)}.kind: {safe_text(wrong)}"
                    )
        if task.part_of and (task.part_of == name or task.part_of not in m.tasks):
            refuse(f"tasks: '{name}' is part of '{task.part_of}', which is no other task of the model")
    check_file_names(m.files, source)
    if MANIFEST in m.files:
        refuse(f"files: {MANIFEST} cannot list itself")


def dump(manifest: Manifest) -> bytes:
    """The manifest's bytes; their SHA-256 is the model's digest. `parse(dump(m))` gives `m` back."""
    return strictyaml.dump(manifest)


def check_files(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with a bundle's files, a line each: missing, other size, other bytes. Empty when all is right."""
    return compare_files(folder, manifest.files)
