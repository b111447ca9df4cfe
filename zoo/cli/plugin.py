"""`zoo plugin`: which plugins are installed, what they bring, and which are set aside."""

from typing import Any

import click

from . import output


@click.group()
def command() -> None:
    """Which plugins are installed, and which are set aside."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """What is installed, what it brings, and what is set aside and why.

    Each plugin is imported in a process of its own, with a time limit; the answer is cached until the plugin changes.

    \b
    Example:
      zoo plugin list
    """
    from .. import plugins

    if not plugins.enabled():
        output.note(plugins.OFF)
    rows = [_row(probe) for probe in plugins.probe_all()] + [_registry_row(r) for r in plugins.registries()]
    rows.sort(key=lambda row: row["distribution"])
    if as_json:
        output.as_json(rows)
    else:
        output.table(map(_cells, rows), ("DISTRIBUTION", "VERSION", "CONTRACT", "IMPORT", "BRINGS", "STATE"))


def _row(probe: Any) -> dict[str, Any]:
    plugin = probe.plugin
    return {
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
        "contract": plugin.contract,
        "import_seconds": probe.import_seconds,
        "families": list(plugin.families),
        "targets": list(plugin.targets),
        "hooks": list(probe.hooks),
        "registry": None,
        "state": "set aside" if plugin.problem else "ok",
        "problem": plugin.problem,
    }


def _registry_row(registry: Any) -> dict[str, Any]:
    missing = "" if registry.folder else "the package that holds its registry is not there"
    return {
        "distribution": registry.distribution,
        "version": registry.version,
        "module": None,
        "contract": None,
        "import_seconds": None,
        "families": [],
        "targets": [],
        "hooks": [],
        "registry": registry.name,
        "state": "set aside" if missing else "ok",
        "problem": missing and f"{missing}; install it again: pip install --force-reinstall {registry.distribution}",
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = row["import_seconds"]
    brings = [f"registry {row['registry']}"] if row["registry"] else []
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
