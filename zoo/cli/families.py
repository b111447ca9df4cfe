"""`zoo families`: lists the families that the installed plugins provide."""

import click

from . import output


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    found = [(family, p.plugin) for p in probes for family in p.families.values()]
    found.sort(key=lambda pair: pair[0].name)
    if as_json:
        output.as_json(
            [
                {
                    "name": family.name,
                    "summary": family.summary,
                    "paper": family.paper,
                    "presets": family.presets,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                }
                for family, plugin in found
            ]
        )
    else:
        output.table(
            (
                (f.name, f.summary, ", ".join(f.presets), f.paper, f"{plugin.distribution} {plugin.version}")
                for f, plugin in found
            ),
            ("name", "summary", "presets", "paper", "distribution"),
        )
