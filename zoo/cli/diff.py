"""`zoo diff`: compares two models."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidFileError, NotFoundError
from ..text import human_bytes, safe_text
from .options import option
from .output import as_json, table

if TYPE_CHECKING:
    from ..formats.manifest import Manifest
    from ..store.locate import Bundle

MOST_ROWS = 20
"""Of a section, for a person."""

SECTIONS = ("config", "figures", "tensors", "graphs")


@click.command("diff")
@click.argument("model", metavar="MODEL_A")
@click.argument("other", metavar="MODEL_B")
@option("--registry", "places", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--json", "json_", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, model: str, other: str, places: tuple[str, ...], json_: bool) -> None:
    """Compare two models: config, figures, tensors and graphs.

    Each is a reference or a bundle's folder, and must be available locally. Names, versions and training records are
    not compared. As for `diff`, the exit code is 0 if the models are the same and 1 if they differ.

    \b
    Example:
      zoo diff vqvae-fashion:1 vqvae-fashion:2
      zoo diff vqvae-fashion ./my-vqvae --json
    """
    first, second = _bundle(model, places), _bundle(other, places)
    found = {
        "config": dict(_differing(_config(first.manifest), _config(second.manifest))),
        "figures": dict(_differing(_figures(first.manifest), _figures(second.manifest))),
        "tensors": dict(_tensors(first, second)),
        "graphs": dict(_differing(_graphs(first.manifest), _graphs(second.manifest))),
    }
    same = not any(found.values())
    if json_:
        as_json({"a": first.reference, "b": second.reference, "same": same} | found)
    elif same:
        click.echo(safe_text(f"{first.reference} and {second.reference} are the same"))
    else:
        _print(first.reference, second.reference, found)
    ctx.exit(0 if same else 1)


def _bundle(model: str, places: tuple[str, ...]) -> "Bundle":
    from ..formats.registry import Entry
    from .info import find

    found = find(model, places)
    if isinstance(found, Entry):
        raise NotFoundError(f"{found} is not available locally; `zoo pull {found}` fetches it")
    return found


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key with different values, and both; None stands for a key that a side does not have."""
    for key in a | b:
        if a.get(key) != b.get(key):
            yield key, {"a": a.get(key), "b": b.get(key)}


def _config(m: "Manifest") -> dict[str, Any]:
    """What defines the model, one entry for each value, by its path."""
    import msgspec

    fields = ("family", "config", "classes", "default_task", "tasks", "tolerances")
    return dict(_flat("", {name: msgspec.to_builtins(getattr(m, name)) for name in fields}))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    else:
        yield path, value


def _figures(m: "Manifest") -> dict[str, float]:
    """Metrics by name and data set: value."""
    return {f"{metric.name} ({metric.data})" if metric.data else metric.name: metric.value for metric in m.metrics}


def _graphs(m: "Manifest") -> dict[str, dict[str, Any]]:
    """Size and digest of each graph. A stranger's graph is not read here: only a worker does that."""
    found = {name: file for name, file in m.files.items() if name.endswith(".onnx")}
    return {name: {"size": file.size, "sha256": file.sha256} for name, file in found.items()}


def _tensors(a: "Bundle", b: "Bundle") -> Iterator[tuple[str, dict[str, Any]]]:
    """Tensors of the weights' files that differ: dtype and shape on both sides, and the largest difference of values.

    Files with the same digest are not read.
    """
    from ..media.tensors import read_header
    from ..names import GOLDEN

    sides = [
        {name: file for name, file in bundle.manifest.files.items() if name.endswith(".safetensors") and name != GOLDEN}
        for bundle in (a, b)
    ]
    for file in sides[0] | sides[1]:
        mine, other = sides[0].get(file), sides[1].get(file)
        if mine and other and mine.sha256 == other.sha256:
            continue
        heads = [
            {name: f"{t.dtype} {list(t.shape)}" for name, t in read_header(bundle.folder / file).items()}
            if known
            else {}
            for bundle, known in ((a, mine), (b, other))
        ]
        for name, found in _differing(*heads):
            yield f"{file}: {name}", found
        shared = [name for name, kind in heads[0].items() if heads[1].get(name) == kind]
        yield from _values(a, b, file, shared, heads[0])


def _values(
    a: "Bundle", b: "Bundle", file: str, names: list[str], kinds: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    import numpy as np

    from ..media.tensors import load

    if not names:
        return
    try:
        arrays = [load(bundle.folder / file) for bundle in (a, b)]
    except InvalidFileError:  # bfloat16, which numpy does not have
        yield f"{file}: values", {"a": "cannot be compared", "b": "cannot be compared"}
        return
    for name in names:
        x, y = arrays[0][name], arrays[1][name]
        if x.tobytes() != y.tobytes():
            worst = float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max())
            yield f"{file}: {name}", {"a": kinds[name], "b": kinds[name], "largest_difference": worst}


def _print(a: str, b: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    click.echo(safe_text(f"a: {a}\nb: {b}", keep_newlines=True))
    for section in SECTIONS:
        if not found[section]:
            click.echo(f"\n{section}: the same")
            continue
        click.echo(f"\n{section}: {len(found[section])} differ")
        rows = [(name, *_cells(sides)) for name, sides in found[section].items()]
        table(rows[:MOST_ROWS], ["", "a", "b", ""])
        if len(rows) > MOST_ROWS:
            click.echo(f"and {len(rows) - MOST_ROWS} more; --json lists all")


def _cells(sides: Mapping[str, Any]) -> tuple[str, str, str]:
    worst = sides.get("largest_difference")
    return _cell(sides["a"]), _cell(sides["b"]), "" if worst is None else f"values differ by up to {worst:.3g}"


def _cell(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{human_bytes(value['size'])} {value['sha256'][:12]}"
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
