"""What differs between two models, for `zoo diff`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ..media.tensors import numbers, read_bytes, read_header
from ..names import GOLDEN

if TYPE_CHECKING:
    from ..formats.manifest import Manifest
    from ..store.locate import Bundle


def difference(a: Bundle, b: Bundle) -> dict[str, dict[str, Any]]:
    """Config, figures, tensors and graphs: in each section the entries that differ, with both sides.

    Names, versions, summaries and training records are not compared.

    Raises:
        InvalidFileError: a weights file cannot be read.
    """
    return {
        "config": dict(_differing(_config(a.manifest), _config(b.manifest))),
        "figures": dict(_differing(_figures(a.manifest), _figures(b.manifest))),
        "tensors": dict(_tensors(a, b)),
        "graphs": dict(_differing(_graphs(a.manifest), _graphs(b.manifest))),
    }


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key with different values, and both; None stands for a key that a side does not have."""
    for key in {**a, **b}:
        if a.get(key) != b.get(key):
            yield key, {"a": a.get(key), "b": b.get(key)}


def _config(m: Manifest) -> dict[str, Any]:
    """What defines the model, one entry for each value, by its path."""
    fields = ("family", "config", "classes", "default_task", "tasks", "tolerances")
    return dict(_flat("", {name: msgspec.to_builtins(getattr(m, name)) for name in fields}))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    else:
        yield path, value


def _figures(m: Manifest) -> dict[str, float]:
    """Metrics by name and data set: value."""
    return {f"{metric.name} ({metric.data})" if metric.data else metric.name: metric.value for metric in m.metrics}


def _graphs(m: Manifest) -> dict[str, dict[str, Any]]:
    """Size and digest of each graph. A stranger's graph is not read here: only a worker does that."""
    found = {name: file for name, file in m.files.items() if name.endswith(".onnx")}
    return {name: {"size": file.size, "sha256": file.sha256} for name, file in found.items()}


def _tensors(a: Bundle, b: Bundle) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tensors of the weights' files that differ: dtype and shape on both sides, and the largest difference of values.

    Files with the same digest are not read.
    """
    sides = [
        {name: file for name, file in bundle.manifest.files.items() if name.endswith(".safetensors") and name != GOLDEN}
        for bundle in (a, b)
    ]
    for file in sides[0] | sides[1]:
        mine, other = sides[0].get(file), sides[1].get(file)
        if mine and other and mine.sha256 == other.sha256:
            continue
        heads = [read_header(bundle.folder / file) if known else {} for bundle, known in ((a, mine), (b, other))]
        kinds = [{name: f"{t.dtype} {list(t.shape)}" for name, t in head.items()} for head in heads]
        for name, found in _differing(*kinds):
            yield f"{file}: {name}", found
        for name, kind in kinds[0].items():
            if kinds[1].get(name) == kind:
                x, y = (read_bytes(bundle.folder / file, head[name]) for bundle, head in ((a, heads[0]), (b, heads[1])))
                if x != y:
                    worst = _largest_difference(heads[0][name].dtype, x, y)
                    yield f"{file}: {name}", {"a": kind, "b": kind, "largest_difference": worst}


def _largest_difference(dtype: str, x: bytes, y: bytes) -> float:
    """NaN or infinity if a value that differs is; those that both sides have in the same place do not differ."""
    import numpy as np

    a, b = (numbers(dtype, data).astype(np.float64) for data in (x, y))
    differs = (a != b) & ~(np.isnan(a) & np.isnan(b))
    return float(np.abs(a[differs] - b[differs]).max(initial=0))
