"""`zoo plugin`: lists plugins, checks one against the contract, prints the contract, and creates a new plugin."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import NotFoundError, PluginError, UsageError
from . import COMMANDS, output
from .options import OUT, SEED, option

if TYPE_CHECKING:
    from ..build.conformance import Outcome
    from ..plugins import Plugin, PluginCommand, PluginRegistry, Probe


@click.group()
def command() -> None:
    """List, check and create plugins."""


@command.command("list")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List installed plugins and what they provide, and say which are set aside and why.

    Each plugin is imported in its own process, with a time limit; the result is cached until the plugin changes.

    \b
    Example:
      zoo plugin list
    """
    from .. import plugins
    from ..system.places import DEFAULT

    if not plugins.enabled():
        output.note(plugins.OFF)
    rows = [_plugin_row(probe) for probe in plugins.probe_all()]
    rows += [_registry_row(registry) for registry in plugins.registries() if registry.name != DEFAULT]
    rows += [_row(c, c.problem, module=c.module, command=c.name) for c in plugins.commands(COMMANDS)]
    rows.sort(key=lambda row: row["distribution"])
    if as_json:
        output.as_json(rows)
    else:
        output.table(map(_cells, rows), ("distribution", "version", "contract", "import", "provides", "state"))


def _plugin_row(probe: "Probe") -> dict[str, Any]:
    p = probe.plugin
    brings = {"families": list(p.families), "targets": list(p.targets), "hooks": list(probe.hooks)}
    return _row(p, p.problem, module=p.module, contract=p.contract, import_seconds=probe.import_seconds, **brings)


def _registry_row(registry: "PluginRegistry") -> dict[str, Any]:
    mend = f"reinstall it: pip install --force-reinstall {registry.distribution}"
    missing = "" if registry.folder else f"the package with its registry is missing; {mend}"
    return _row(registry, missing, registry=registry.name)


def _row(found: "Plugin | PluginRegistry | PluginCommand", problem: str, **brings: Any) -> dict[str, Any]:
    """What `--json` says of what a distribution brings; the keys are always the same."""
    row: dict[str, Any] = {"distribution": found.distribution, "version": found.version}
    row |= {"module": None, "contract": None, "import_seconds": None, "families": [], "targets": [], "hooks": []}
    row |= {"registry": None, "command": None, "state": "set aside" if problem else "ok", "problem": problem}
    return row | brings


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = row["import_seconds"]
    brings = [f"{what} {row[what]}" for what in ("registry", "command") if row[what]]
    brings += [f"family {', '.join(row['families'])}"] if row["families"] else []
    brings += [f"target {', '.join(row['targets'])}"] if row["targets"] else []
    return (
        row["distribution"],
        row["version"],
        "" if row["contract"] is None else str(row["contract"]),
        "" if seconds is None else f"{seconds * 1000:.0f} ms",
        "; ".join(brings),
        f"{row['state']}: {row['problem']}" if row["problem"] else row["state"],
    )


@command.command()
@click.argument("what", metavar="[NAME|FOLDER]", required=False)
@option("--preset", help="Export this preset; default: `tiny`, else the first.")
@option("--seed", type=SEED, default=0, show_default=True, help="Seed of the weights and the inputs.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(what: str | None, preset: str | None, seed: int, as_json: bool) -> None:
    """Run the conformance kit on a plugin.

    NAME is a family or a distribution, FOLDER a plugin's source, installed or not; the default is the plugin in the
    current folder. The family's smallest preset is built with random weights, exported, run in ONNX Runtime,
    measured, and trained for a few steps, once with a checkpoint in the middle; importer, commands and registry are
    tried. The exit code is 9 if a check fails.

    \b
    Example:
      zoo plugin check vqvae
    """
    from ..plugins import OFF, enabled

    if not enabled():
        raise PluginError(f"{OFF}; a check needs them: run without")
    outcomes = []
    for plugin, family in _subjects(what or "."):
        outcomes += _examine(plugin, family, preset, seed)
    failed = sorted({outcome.family for outcome in outcomes if outcome.verdict != "pass"})
    if as_json:
        output.as_json(outcomes)
    else:
        rows = [row for outcome in outcomes for row in _outcome_rows(outcome)]
        output.table(rows, ("family", "check", "verdict", "reason"))
    if failed:
        count = sum(outcome.verdict == "fail" for outcome in outcomes)
        raise PluginError(f"{', '.join(failed)}: {count} {'check' if count == 1 else 'checks'} failed")


def _outcome_rows(outcome: "Outcome") -> list[tuple[str, ...]]:
    """A row for each line of the reason."""
    first, *more = outcome.line.splitlines() or [""]
    return [(outcome.family, outcome.check, outcome.verdict, first), *(("", "", "", f"  {line}") for line in more)]


def _subjects(what: str) -> "list[tuple[Plugin, str]]":
    """The plugins and families that the argument names."""
    from .. import plugins
    from ..system.paths import user_path
    from ..text import did_you_mean, safe_text

    folder = user_path(what)
    if folder.is_dir() and ((folder / "pyproject.toml").is_file() or what in (".", "..") or folder.parts[1:]):
        return [(plugin, family) for plugin in plugins.in_folder(folder) for family in plugin.families]
    installed = plugins.installed()
    found = [(p, family) for p in installed for family in p.families if what in (family, p.distribution)]
    if not found:
        known = {name for plugin in installed for name in (plugin.distribution, *plugin.families)}
        raise NotFoundError(
            f"'{safe_text(what)}' is neither an installed family or plugin nor a plugin's folder"
            + (did_you_mean(what, known) or "; `zoo plugin list` lists what is installed")
        )
    return found


def _examine(plugin: "Plugin", family: str, preset: str | None, seed: int) -> "list[Outcome]":
    from tempfile import TemporaryDirectory

    from ..build.conformance import CHECKS, Subject, examine

    outcomes = []
    with TemporaryDirectory(prefix="zoo-check-") as folder:
        subject = Subject(family, plugin, Path(folder), preset=preset, seed=seed, commands=COMMANDS)
        if preset and preset not in (presets := subject.presets()):
            raise UsageError(f"{family} has no preset '{preset}'; it has {', '.join(presets)}")
        with output.progress(len(CHECKS), f"checking {family}", unit="check") as bar:
            for outcome in examine(subject):
                bar.update(1)
                outcomes.append(outcome)
                if bar.disable:  # a log: the table comes after the last check, minutes later
                    output.note(f"{family}: {outcome.check}: {outcome.verdict}")
    return outcomes


@command.command()
@option("--json", "as_json", is_flag=True, help="Print JSON.")
def api(as_json: bool) -> None:
    """Print the plugin contract: hooks, types (`?`: has a default), entry points, modules, and changes by version.

    \b
    Example:
      zoo plugin api
    """
    from ..plugins.api import describe

    contract = describe()
    if as_json:
        output.as_json(contract)
        return
    click.echo(f"contract {contract.version}; plugins written for {contract.oldest} and newer work")
    for title, rows in (
        ("hooks", [(h.name, f"{h.request} -> {h.answer}", h.summary) for h in contract.hooks]),
        ("types", [(name, ", ".join(members)) for name, members in contract.types.items()]),
        ("entry points", list(contract.entry_points.items())),
        ("modules that a plugin may import", [(name,) for name in contract.modules]),
        ("changes", [(version, line) for version, lines in contract.changes.items() for line in lines]),
    ):
        click.echo(f"\n{title}")
        output.table([("", *row) for row in rows], ())


@command.command()
@click.argument("name")
@option("--template", type=click.Choice(["minimal", "codec", "image-generator"]), default="minimal", show_default=True)
@option("--out", type=OUT, help="The package's folder; default: zoo-NAME in the current folder.")
def new(name: str, template: str, out: Path | None) -> None:
    """Create a new plugin: a package that passes its own tests from the start.

    NAME is the name of its family: lower-case letters, digits and dashes. Nothing is overwritten.

    \b
    Example:
      zoo plugin new sharpener
    """
    from ..plugins.scaffold import package_of, write

    folder = write(name, template, out or Path(f"zoo-{name}"))
    output.note(f"next: fill in {folder / package_of(name) / 'model.py'}, then run: zoo plugin check {folder}")
    output.path(folder)
