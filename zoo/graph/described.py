"""What the check of graphs needs to know of a manifest, as JSON: a worker then need not read the manifest again, which
takes longer than the check."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DescribedPort:
    """See `zoo.hookspecs.Port`."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class DescribedTask:
    """See `zoo.hookspecs.Task`."""

    inputs: Mapping[str, DescribedPort]
    outputs: Mapping[str, DescribedPort]


@dataclass(frozen=True)
class Described:
    """See `zoo.formats.manifest.Manifest`."""

    files: Collection[str]
    tasks: Mapping[str, DescribedTask]


def to_json(manifest: Any) -> dict[str, Any]:
    """What `from_json` takes, of a manifest."""

    def ports(side: Mapping[str, Any]) -> dict[str, Any]:
        return {name: [port.dtype, port.shape] for name, port in side.items()}

    tasks = {name: [ports(task.inputs), ports(task.outputs)] for name, task in manifest.tasks.items()}
    return {"files": list(manifest.files), "tasks": tasks}


def from_json(described: Mapping[str, Any]) -> Described:
    """The other way round."""

    def ports(side: Mapping[str, Any]) -> dict[str, DescribedPort]:
        return {name: DescribedPort(dtype, tuple(shape)) for name, (dtype, shape) in side.items()}

    tasks = {
        name: DescribedTask(ports(inputs), ports(outputs)) for name, (inputs, outputs) in described["tasks"].items()
    }
    return Described(described["files"], tasks)
