"""`zoo families`: lists the families that the installed plugins provide."""

import click

from . import output
from .options import option


@click.command()
@option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the families that the installed plugins provide.

    A plugin that is set aside is named on stderr, with the command that fixes it.

    \b
    Example:
      zoo families
    """
    from .. import plugins

    probes = plugins.probe_all()
    for line in plugins.set_aside(probes):
        output.note(line)
    if not plugins.enabled():
        output.note(plugins.OFF)
    rows = [
        {
            "name": f.name, "summary": f.summary, "paper": f.paper, "presets": f.presets,
            "distribution": p.plugin.distribution, "version": p.plugin.version,
        }
        for p in probes
        for f in p.families.values()
    ]  # fmt: skip
    rows.sort(key=lambda row: row["name"])
    if as_json:
        output.as_json(rows)
        return
    output.table(
        [
            (r["name"], r["summary"], ", ".join(r["presets"]), r["paper"], f"{r['distribution']} {r['version']}")
            for r in rows
        ],
        ("name", "summary", "presets", "paper", "distribution"),
    )
