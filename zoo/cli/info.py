"""`zoo info`: shows what a model is."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import NotFoundError, UsageError
from ..formats.fields import File
from ..formats.registry import Entry, RegistryFile
from ..hookspecs import Port
from ..ports.kind import shape_text
from ..ports.kinds import kind_of
from ..text import human_bytes, safe_text
from .examples import examples
from .options import MODEL, OUT, option
from .output import as_json, path, table

if TYPE_CHECKING:
    from ..store.locate import Bundle

CARD = "README.md"

MOST_CARD = 1 << 20


@click.command("info")
@click.argument("model", type=MODEL)
@option("--card", is_flag=True, help="Print the model's card, README.md.")
@option("--show", is_flag=True, help="Show a picture of samples: what the golden cases give.")
@option("--out", type=OUT, metavar="FILE", help="With --show: write the picture to this PNG file.")
@option("--registry", "places", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    model: str, card: bool, show: bool, out: Path | None, places: tuple[str, ...], json_: bool
) -> None:  # fmt: skip
    """Show MODEL: what it can do and the commands for it, classes, metrics, ports with ranges, files, digests.

    MODEL is a reference or a bundle's folder. For a model that is not available locally, shows what its registry says.

    \b
    Example:
      zoo info vqvae-fashion
      zoo info vqvae-fashion --card
      zoo info ddpm-fashion --show --out samples.png
    """
    if card and json_:
        raise UsageError("--card prints Markdown, --json JSON; choose one")
    if show and (card or json_):
        raise UsageError("--show makes a picture; leave out --card and --json")
    if out and not show:
        raise UsageError("--out is the file for the picture of --show; add --show")
    if out and out.suffix.lower() != ".png":
        raise UsageError(f"--out {safe_text(out)}: the picture is a PNG; use a name that ends in .png")
    found = find(model, places)
    if isinstance(found, Entry):
        if card or show:
            what = "card" if card else "picture"
            raise NotFoundError(f"the {what} of {found} is not available locally; `zoo pull {found}` fetches it")
        as_json(_entry_json(found)) if json_ else _print_entry(found)
    elif show:
        _show(found, out)
    elif card:
        click.echo(safe_text(_read_card(found.folder), keep_newlines=True), nl=False)
    elif json_:
        as_json({
            "reference": found.reference, "digest": found.digest, "here": True, "folder": found.folder,
            "manifest": found.manifest,
            "examples": {
                name: list(examples(model, name, task))
                for name, task in found.manifest.tasks.items() if not task.part_of
            },
        })  # fmt: skip
    else:
        _print_model(found, model)


def find(model: str, places: tuple[str, ...]) -> "Bundle | Entry":
    """The model if it is available locally, else its entry in a registry. Nothing is fetched."""
    from ..formats.manifest import MANIFEST, digest, parse, read_bytes
    from ..formats.registry import resolve
    from ..store.catalogue import registries
    from ..store.locate import Bundle, is_path, locate, reference_of
    from ..system.paths import user_path

    if is_path(model):  # only read: its graphs are checked before they are run
        folder = user_path(model)
        data = read_bytes(folder)
        return Bundle(folder, parse(data, str(folder / MANIFEST)), digest(data), str(folder))
    try:
        return locate(model, registries=places, pull=False)
    except NotFoundError:
        with reference_of(model) as reference:
            return resolve(reference, registries(places))


def _read_card(folder: Path) -> str:
    from ..system.paths import read_file

    return read_file(folder / CARD, MOST_CARD).decode("utf-8", errors="replace")


def _entry_json(entry: Entry) -> dict[str, Any]:
    model = entry.model
    return {
        "reference": str(entry),
        "digest": entry.digest,
        "here": False,
        "size": entry.size,
        "summary": model.summary,
        "family": model.family,
        "license": model.license,
        "tasks": model.tasks,
        "versions": sorted(model.versions),
        "files": entry.files,
    }


def _print_entry(entry: Entry) -> None:
    model = entry.model
    click.echo(safe_text(f"{entry}: {model.summary}"))
    table(
        [
            ("local", f"no; `zoo pull {entry}` fetches {human_bytes(entry.size)}"),
            ("family", model.family),
            ("licence", model.license),
            ("tasks", ", ".join(model.tasks)),
            ("versions", ", ".join(map(str, sorted(model.versions)))),
            ("digest", f"sha256:{entry.digest}"),
        ],
        [],
    )
    _print_files(entry.files)


def _print_model(here: "Bundle", model: str) -> None:
    """What it can do and how, then its metrics and ports, and last the internals, which few need."""
    m = here.manifest
    listed = {name: task for name, task in m.tasks.items() if not task.part_of}
    click.echo(safe_text(f"{here.reference}: {m.summary}"))
    for name, task in listed.items():
        _heading(f"{name}{' (default)' if name == m.default_task else ''}: {task.summary}")
        for line in examples(model, name, task):
            click.echo(f"    {line}")
    click.echo("")
    rows = [("licence", m.license + (f"; {m.license_note}" if m.license_note else ""))]
    if m.classes:
        rows.append(("classes", ", ".join(f"{number} {name}" for number, name in enumerate(m.classes))))
    if m.training.data:
        data = f"{m.training.data}" + (f" ({m.training.data_license})" if m.training.data_license else "")
        rows.append(("trained on", f"{data}, {m.training.images_seen:,} pictures seen in {m.training.steps:,} steps"))
    table(rows, [], fit=True)
    if m.metrics:
        _heading("metrics")
        cells = [(k.name, f"{k.value:.6g} {k.unit}", k.better, k.samples or "", k.data) for k in m.metrics]
        table(cells, ["name", "value", "better", "samples", "data"], fit=True)
    for name, task in (listed | m.tasks).items():
        _heading(f"{name}{' (default)' if name == m.default_task else ''}: {task.summary}")
        sides = (("in", task.inputs), ("out", task.outputs))
        table([(side, *_cells(*port)) for side, ports in sides for port in ports.items()], [], fit=True)
    _heading("internals")
    rows = [
        ("family", f"{m.family}" + (f", {m.paper}" if m.paper else "")),
        ("digest", f"sha256:{here.digest}"),
        ("folder", str(here.folder)),
        ("graphs", f"opset {m.export.opset}, IR {m.export.ir_version}, {m.export.precision}"),
    ]
    if m.training.parent:
        rows.append(("trained from", m.training.parent))
    if m.training.command:
        rows.append(("made by", m.training.command))
    table(rows, [])
    _print_files(m.files)


def _show(here: "Bundle", out: Path | None) -> None:
    """Writes a picture of samples, from the golden cases, and opens it if no file was named."""
    from ..run.outputs import write_file
    from ..run.samples import sampled_task, samples

    m = here.manifest
    if (task := sampled_task(m)) is None:
        raise UsageError(f"{here.reference} does not make pictures; `zoo info` without --show describes it")
    if out is None and not sys.stdout.isatty():
        raise UsageError("stdout is not a terminal; give a file for the picture: --show --out FILE.png")
    target = out or Path(tempfile.mkdtemp(prefix="zoo-")) / f"{m.name}-{task}.png"
    write_file(str(target), samples(here.folder, m, task))
    path(target)
    if out is None:
        click.launch(str(target))


def _cells(name: str, port: Port) -> tuple[str, ...]:
    """Name, kind, dtype and shape, and limits with the summary."""
    told = [*kind_of(port).limits(port), *([port.summary] if port.summary else [])]
    return name, port.kind, f"{port.dtype} {shape_text(port.shape)}", "; ".join(told)


def _print_files(files: Mapping[str, File | RegistryFile]) -> None:
    _heading(f"files: {human_bytes(sum(file.size for file in files.values()))}")
    table([(name, f"{file.size:,}", file.sha256) for name, file in files.items()], ["name", "bytes", "SHA-256"])


def _heading(text: str) -> None:
    click.echo(f"\n{safe_text(text)}")
