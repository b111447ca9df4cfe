"""`zoo verify`: are local models still as published, and do they compute the same?"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import IntegrityError, NotFoundError
from ..text import safe_text
from .options import MODEL, option
from .output import as_json, note, progress, table
from .run import ISOLATE, ISOLATE_HELP

if TYPE_CHECKING:
    from ..formats.registry import Entry
    from ..run.replay import TaskReplay
    from ..runtime import Device
    from ..ship.export import Export
    from ..store.locate import Bundle
    from ..store.store import Installed, Store

Say = Callable[[str], None]

FOLDER = "a folder"  # used as the registry of a bundle that has none; no registry's name contains a space


@click.command("verify")
@click.argument("models", type=MODEL, nargs=-1, metavar="[MODEL|FOLDER]...")
@option("--replay", "replay_", is_flag=True, help="Run the golden cases on this machine, and compare.")
@option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Device for --replay.")
@option(*ISOLATE, default=None, help=ISOLATE_HELP)
@option("--run-host", is_flag=True, help="Also run an export's host program, if it is what the exporter writes.")
@option("--trust", is_flag=True, help="Run the host program even if it was changed.")
@option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    models: tuple[str, ...], replay_: bool, device: "Device", isolated: bool | None, run_host: bool, trust: bool,
    json_: bool,
) -> None:  # fmt: skip
    """Check models against their digests; with --replay, run their golden cases on this machine.

    MODEL is a reference, FOLDER a bundle's folder or one that `zoo export` wrote; the default is all local models. A
    replay reports for each task whether the outputs are identical, within the tolerance, or different; exports are
    always replayed. A host program is somebody's code: it is run only with --run-host, and only if it is byte for byte
    what the installed exporter writes; --trust runs any host.

    \b
    Example:
      zoo verify
      zoo verify vqvae-fashion --replay --device cpu
      zoo verify site/ --run-host
    """
    from ..store.store import Store

    store, reports = Store(), []
    targets: list[tuple[str, Installed | None]] = [] if models else list(_everything(store))
    for model in models:
        targets += [(model, None)] if _is_export(model) else _named(store, model)
    with progress(len(targets), "verifying", unit="model") as bar:

        def say(line: str) -> None:
            bar.set_postfix_str(safe_text(f"{name}, {line}"))

        for name, target in targets:
            if target is None:
                report = _examine_export(name, device, isolated, run_host or trust, trust, say)
            else:
                report = _examine(store, name, target, device if replay_ else None, isolated, say)
            right = not report["findings"] and all(task.verdict != "differs" for task in _replays(report))
            reports.append(report | {"right": right})
            bar.update(1)
    if json_:
        as_json(reports)
    else:
        for report in reports:
            _print(report)
    if wrong := [(target, report) for (_, target), report in zip(targets, reports, strict=True) if not report["right"]]:
        names, advice = [report["model"] for _, report in wrong], dict.fromkeys(_advice(*one) for one in wrong)
        raise IntegrityError(f"not as published: {', '.join(names)}; {'; '.join(advice)}")


def _everything(store: "Store") -> Iterator[tuple[str, "Installed"]]:
    from ..formats.registry import Entry
    from ..store import default

    with contextlib.suppress(NotFoundError):  # a checkout without models
        entries = [
            Entry(part, name, version)
            for part in default.parts()
            for name, model in part.document.models.items()
            for version in model.versions
        ]
        for text, entry in {str(entry): entry for entry in reversed(entries)}.items():  # that of the first part counts
            yield text, _in_package(entry)
    for installed in store.installed():
        yield str(installed), installed


def _is_export(text: str) -> bool:
    from ..ship.export import is_export
    from ..store.locate import is_path
    from ..system.paths import user_path

    return is_path(text) and is_export(user_path(text))


def _named(store: "Store", text: str) -> Iterator[tuple[str, "Installed"]]:
    """What a reference or folder refers to: pulled models, an installed one, a bundle."""
    from ..formats import manifest as manifests
    from ..formats.registry import DEFAULT, resolve
    from ..store.catalogue import registries
    from ..store.locate import is_path, reference_of
    from ..store.store import Installed
    from ..system.paths import user_path

    if is_path(text):
        folder = user_path(text)
        data = manifests.read_bytes(folder)
        manifest = manifests.parse(data, str(folder / manifests.MANIFEST))
        yield text, Installed(FOLDER, manifest.name, manifest.version, manifests.digest(data), folder)
        return
    with reference_of(text) as reference:
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
            raise NotFoundError(f"{entry} is not in the store; `zoo pull {entry}` fetches it")


def _advice(target: "Installed | None", report: dict[str, Any]) -> str:
    """What to do about a model that failed: it depends on where it came from."""
    from ..formats.registry import DEFAULT
    from ..system.places import distribution_of

    name = report["model"]
    if not report["findings"]:
        return (
            f"the files of {name} are as published, but its outputs here differ:"
            " report it with the output of `zoo doctor`"
        )
    if target is None:
        return f"write {name} again with `zoo export`"
    if target.registry == FOLDER:
        return f"{name} was not pulled: build it again, or copy it again from its source"
    if target.registry == DEFAULT:
        return f"reinstall {distribution_of(target.name)}"
    return f"fetch it again with `zoo rm {name}` and `zoo pull {name}`"


def _in_package(entry: "Entry") -> "Installed":
    from ..store.locate import folder_of
    from ..store.store import Installed

    return Installed(entry.registry.name, entry.name, entry.version, entry.digest, folder_of(entry))


def _examine(
    store: "Store", name: str, model: "Installed", device: "Device | None", isolated: bool | None, say: Say
) -> dict[str, Any]:
    """What `--json` prints about a model. It is replayed only if its bytes and graphs are right."""
    from ..store.locate import check_graphs, locate, read_folder

    report: dict[str, Any] = {"model": name, "digest": model.digest, "folder": str(model.folder)}
    report["findings"] = store.verify(model)
    if device and not report["findings"]:
        if model.registry == FOLDER:
            bundle = read_folder(model.folder, isolated=isolated, checked=False)
        else:
            bundle = locate(f"{model}@sha256:{model.digest}", pull=False, isolated=isolated)
        report["findings"], report["replay"] = check_graphs(bundle), []
        if not report["findings"]:
            _replay(report, bundle, device, say)
    return report


def _examine_export(
    text: str, device: "Device", isolated: bool | None, run_host: bool, trust: bool, say: Say
) -> dict[str, Any]:
    """Like `_examine`, for a folder that `zoo export` wrote; a host is run only if everything before was right.

    Graphs are checked first: whether the host is ours is found out with them."""
    from ..formats import manifest as manifests
    from ..ship import export
    from ..store.locate import check_graphs, read_folder
    from ..system.paths import user_path

    folder = user_path(text)
    found = export.read_export(folder)
    report: dict[str, Any] = {"model": text, "digest": found.digest, "folder": str(folder), "target": found.target}
    report["findings"] = export.check_export(folder, found)
    if not report["findings"]:
        manifest = manifests.read(folder / export.MODEL)
        report["findings"] = manifests.check_files(folder / export.MODEL, manifest)
    left_out: list[str] = []
    if not report["findings"]:
        bundle = read_folder(folder / export.MODEL, isolated=isolated, checked=False)
        report["findings"], report["replay"] = check_graphs(bundle), []
        if run_host and not trust and not report["findings"]:
            left_out = _check_host(folder, found, bundle)
        if not report["findings"]:
            _replay(report, bundle, device, say)
    if run_host and not report["findings"]:
        report["host"], report["ran_by"] = _run_host(folder, found, left_out)
    return report


def _replay(report: dict[str, Any], bundle: "Bundle", device: "Device", say: Say) -> None:
    """Adds the replay of a bundle whose graphs were checked."""
    from ..run.replay import replay

    report["replay"] = replay(bundle.folder, bundle.manifest, device, bundle.worker, say)


def _replays(report: dict[str, Any]) -> "list[TaskReplay]":
    """Those of the golden cases here, then those that a host ran."""
    return [*report.get("replay", []), *report.get("host", [])]


def _check_host(folder: Path, found: "Export", bundle: "Bundle") -> list[str]:
    """Refuses a host that is not ours, before anything takes time; returns what its copy must not contain."""
    from ..plugins import load_target
    from ..ship import export

    loaded = load_target(found.target)
    if changed := export.changed_host_files(folder, found, loaded, bundle):
        more = f" (and {len(changed) - 1} more)" if changed[1:] else ""
        raise IntegrityError(
            f"{folder}: {safe_text(changed[0])}{more} is not byte for byte what {loaded.plugin.distribution}"
            f" {loaded.plugin.version} writes, and the host may load it; remove it, or run the host anyway with --trust"
        )
    if left_out := export.installed_later(folder, loaded):
        note(
            f"{folder}: not part of the export, so neither compared nor run: {', '.join(left_out)}; the host runs in a"
            " copy, with dependencies that are installed separately"
        )
    return left_out


def _run_host(folder: Path, found: "Export", left_out: list[str]) -> "tuple[list[TaskReplay], str]":
    from tempfile import TemporaryDirectory

    from ..formats import manifest as manifests
    from ..plugins import load_target
    from ..run.replay import judge
    from ..ship import export

    loaded = load_target(found.target)
    with TemporaryDirectory(prefix="zoo-host-") as out, export.without(folder, left_out) as place:
        by, outputs = export.run_host(place, loaded, Path(out))
    return judge(folder / export.MODEL, manifests.read(folder / export.MODEL), outputs, found.target), by


def _print(report: dict[str, Any]) -> None:
    from ..ports.kind import percent

    name = safe_text(report["model"])
    click.echo(f"{name}: {'all files are as published' if not report['findings'] else 'not as published'}")
    for finding in report["findings"]:
        click.echo(f"  {safe_text(finding)}")
    rows = [
        (task.task, task.provider, port, comparison.verdict, comparison.text, percent(comparison.share_equal))
        for task in _replays(report)
        for port, comparison in task.outputs.items()
    ]
    if report.get("ran_by"):
        click.echo(f"  the host ran on {safe_text(report['ran_by'])}")
    if rows:
        table(rows, ["task", "provider", "output", "verdict", "difference", "equal"])
