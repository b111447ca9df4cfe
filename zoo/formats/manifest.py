"""`model.yaml`, a bundle's manifest: reads, validates and writes it.

A bundle is a folder: `model.yaml` (this manifest), the safetensors, `<task>.onnx`, `golden.safetensors`, `README.md`,
and assets, if the model has any.
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
from ..ports.kinds import kind_of, problem, tile_problem
from ..ports.label import repeated
from ..text import safe_text
from . import assets, strictyaml
from .fields import File, Struct, check_file_names, compare_files
from .fields import describe_file as describe_file  # part of this module's interface, as `digest` is
from .fields import digest_of as digest  # noqa: F401
from .fields import read_manifest as read_bytes

FORMAT = 1

BASE_ZOO = "0.1"
"""The first version of zoo that reads this format. A manifest states what it needs only if that is newer."""


class Training(Struct, frozen=True, kw_only=True):
    """How the weights were made."""

    command: Text = ""
    data: Text = ""  # name of the data set
    data_license: Text = ""
    data_sha256: Text = ""  # of the arrays of the data set, images then labels
    images_seen: int = 0
    steps: int = 0
    seed: int = 0
    seconds: float = 0.0
    note: Text = ""  # what else went into it, e.g. where the weights of a loss come from
    parent: Text = ""  # name:version@sha256:digest of the model that the training started from
    environment: Text = ""  # python, torch, processor


class Drift(Struct, frozen=True, kw_only=True):
    """How much a loop's graph differs from torch after a number of iterations."""

    count: int  # the value of the task's `count` port
    worst: float  # the largest difference of an output, in levels for images, else in the output's own unit
    share_equal: float  # of the values


class Export(Struct, frozen=True, kw_only=True):
    """How the graphs were made and checked."""

    opset: int
    ir_version: int
    precision: str = "float32"
    checked_with: Text = ""  # versions of torch, onnx, onnxruntime
    drift: dict[PortName, tuple[Drift, ...]] = {}  # for each task with a `count` port, e.g. a sampler's steps


class Manifest(Struct, frozen=True, kw_only=True):
    """A complete description of a model: enough to run it, and to rebuild its torch module."""

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
    def assets(self) -> list[str]:
        """The names of its assets; see `formats.assets`."""
        return assets.asset_names(self.files, self.tasks)

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(f.size for f in self.files.values())


def parse(data: bytes, source: str) -> Manifest:
    """Parses a manifest from its bytes; `source` names it in messages.

    Raises:
        InvalidFileError: `source:line: field: reason`.
    """
    tree, lines = strictyaml.parse(data, source, remember=True)
    _refuse_newer(tree, source)
    manifest = strictyaml.convert(tree, lines, source, Manifest)
    _check(manifest, source, lines)
    return manifest


def _refuse_newer(tree: Any, source: str) -> None:
    """Runs before the schema check: a newer zoo may write fields and kinds of port that this one does not know."""
    needs = str(tree.get("needs_zoo", "")) if isinstance(tree, dict) else ""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)*", needs) and version_tuple(needs) > version_tuple(__version__):
        raise InvalidFileError(
            f"{safe_text(source)}: needs zoo {needs[:40]} or newer; this is zoo {__version__}: pip install -U genzoo"
        )


def version_tuple(version: str) -> tuple[int, ...]:
    """`0.10.2` as numbers that can be compared."""
    return tuple(int(number[:9]) for number in version.split("."))


def zoo_needed(tasks: Mapping[str, Task]) -> str:
    """The first version of zoo that knows every kind of port in these tasks, for `needs_zoo`."""
    kinds = [kind_of(port) for task in tasks.values() for port in (*task.inputs.values(), *task.outputs.values())]
    return max((kind.since for kind in kinds), key=version_tuple, default=BASE_ZOO)


def read(folder: Path) -> Manifest:
    """The manifest of a bundle's folder. Only the manifest is read; `check_files` compares the rest."""
    return parse(read_bytes(folder), str(folder / MANIFEST))


def _check(m: Manifest, source: str, lines: strictyaml.Lines) -> None:
    """Checks what the schema cannot express: that the parts are consistent with each other."""

    def refuse(reason: str) -> None:
        raise InvalidFileError(f"{safe_text(source)}: {safe_text(reason)}")

    if m.format != FORMAT:
        refuse(f"format {m.format}; this version of zoo reads format {FORMAT}: upgrade zoo")
    if not m.tasks:
        refuse("tasks: a model must have at least one task")
    if m.default_task not in m.tasks:
        refuse(f"default_task: '{m.default_task}' is not one of the tasks {', '.join(m.tasks)}")
    for name, task in m.tasks.items():
        if not task.outputs:
            refuse(f"tasks: '{name}' has no outputs")
        if graph_file(name) not in m.files:
            refuse(f"files: {graph_file(name)}, the graph of the task '{name}', is not listed")
        for side, ports in (("inputs", task.inputs), ("outputs", task.outputs)):
            for port_name, port in ports.items():
                if wrong := problem(port):
                    path = ("tasks", name, side, port_name)
                    raise InvalidFileError(f"{safe_text(source)}:{lines[path]}: {'.'.join(path)}: {safe_text(wrong)}")
        if why := tile_problem(task):
            refuse(f"tasks: '{name}' has a tile, but {why}")
        if task.part_of and (task.part_of == name or task.part_of not in m.tasks):
            refuse(f"tasks: '{name}' is part of '{task.part_of}', which is not another task of the model")
    if twice := repeated(m.classes):
        refuse(f"classes: {twice}")
    check_file_names(m.files, source)
    if MANIFEST in m.files:
        refuse(f"files: {MANIFEST} cannot list itself")
    if why := assets.wrong({name: m.files[name].size for name in m.assets}):
        refuse(f"files: {why}")


def dump(manifest: Manifest) -> bytes:
    """The manifest's bytes; their SHA-256 is the model's digest. `parse(dump(m))` equals `m`."""
    return strictyaml.dump(manifest)


def check_files(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with a bundle's files, one line each: missing, other size, other bytes. Empty if nothing is."""
    return compare_files(folder, manifest.files)
