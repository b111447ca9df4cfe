"""`zoo verify`: is what is here still what was published, and does it compute the same?"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import IntegrityError, NotFoundError
from ..text import safe_text
from .output import as_json, table

if TYPE_CHECKING:
    from ..registry import Entry
    from ..store import Installed, Store


@click.command("verify")
@click.argument("models", nargs=-1, metavar="[MODEL|FOLDER]...")
@click.option("--replay", "replay_", is_flag=True, help="Run the golden cases here, and compare.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="For --replay.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(models: tuple[str, ...], replay_: bool, device: str, json_: bool) -> None:
    """Hash models again; with --replay run their golden cases on this machine.

    MODEL is a reference, FOLDER a bundle's folder; without either every model that is here. A replay says for each task
    whether the outputs are identical, within the tolerance, or differ.

    \b
    Example:
      zoo verify
      zoo verify vqvae-fashion --replay --device cpu
    """
    from ..store import Store

    store = Store()
    targets = [t for model in models for t in _named(store, model)] if models else list(_everything(store))
    reports = [_examine(store, name, target, device if replay_ else None) for name, target in targets]
    if json_:
        as_json(reports)
    else:
        for report in reports:
            _print(report)
    if wrong := [report["model"] for report in reports if not report["right"]]:
        raise IntegrityError(
            f"not as published: {', '.join(wrong)}; `zoo rm MODEL` and `zoo pull MODEL` fetch a pulled model anew"
        )


def _everything(store: "Store") -> Iterator[tuple[str, "Installed"]]:
    from ..registry import Entry, read_default

    try:
        models = read_default().document.models
    except NotFoundError:  # a checkout without models
        models = {}
    for name, model in models.items():
        for version in model.versions:
            entry = Entry(read_default(), name, version)
            yield str(entry), _in_package(entry)
    for installed in store.installed():
        yield str(installed), installed


def _named(store: "Store", text: str) -> Iterator[tuple[str, "Installed"]]:
    """What a reference or folder means: pulled models, a model in the package, a bundle."""
    from .. import manifest as manifests
    from ..bundle import is_path
    from ..catalogue import registries
    from ..registry import DEFAULT, Reference, resolve
    from ..store import Installed

    if is_path(text):
        folder = Path(text).expanduser()
        manifest = manifests.read(folder)
        digest = manifests.describe_file(folder / manifests.MANIFEST).sha256
        yield text, Installed("folder", manifest.name, manifest.version, digest, folder)
        return
    reference = Reference.parse(text)
    pulled = store.matching(reference)
    yield from ((str(installed), installed) for installed in pulled)
    try:
        entry = resolve(reference, registries())
    except NotFoundError:
        if pulled:
            return
        raise
    if entry.registry.name == DEFAULT:
        yield str(entry), _in_package(entry)
    elif not pulled:
        raise NotFoundError(f"{entry} is not here; `zoo pull {entry}` fetches it")


def _in_package(entry: "Entry") -> "Installed":
    from ..bundle import folder_of
    from ..store import Installed

    return Installed(entry.registry.name, entry.name, entry.version, entry.digest, folder_of(entry))


def _examine(store: "Store", name: str, model: "Installed", device: str | None) -> dict[str, Any]:
    """What `--json` says of a model. It is replayed only when its bytes and graphs are right."""
    findings = store.verify(model)
    report = {"model": name, "digest": model.digest, "folder": str(model.folder), "right": not findings}
    report["findings"] = findings
    if device and not findings:
        from .. import manifest as manifests
        from ..graph.check import check
        from ..replay import replay

        manifest = manifests.read(model.folder)
        report["findings"] = check(model.folder, manifest)
        report["replay"] = [] if report["findings"] else replay(model.folder, manifest, device)
        report["right"] = not report["findings"] and all(t.verdict != "differs" for t in report["replay"])
    return report


def _print(report: dict[str, Any]) -> None:
    name = safe_text(report["model"])
    click.echo(f"{name}: {'every file is as published' if not report['findings'] else 'not as published'}")
    for finding in report["findings"]:
        click.echo(f"  {safe_text(finding)}")
    if report.get("replay"):
        table(
            [
                (task.task, task.provider, port, comparison.verdict, comparison.text)
                for task in report["replay"]
                for port, comparison in task.outputs.items()
            ],
            ["TASK", "PROVIDER", "OUTPUT", "VERDICT", "DIFFERENCE"],
        )
