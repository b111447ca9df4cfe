"""`zoo registry`: adds, lists and removes registries."""

from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from ..system.urls import shown
from ..text import did_you_mean, safe_text
from .options import option
from .output import as_json, note, table

if TYPE_CHECKING:
    from ..formats.registry import Registry


class _Group(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in self.commands:
            raise UsageError(
                f"there is no command 'registry {safe_text(args[0])}'"
                + (did_you_mean(args[0], self.commands) or f"; there are {', '.join(self.commands)}")
            )
        return super().resolve_command(ctx, args)


@click.group("registry", cls=_Group)
def command() -> None:
    """Add, list and remove registries.

    \b
    Example:
      zoo registry add lab https://models.example.org/
      zoo registry list
    """


@command.command("add")
@click.argument("name")
@click.argument("place", metavar="URL|FOLDER")
@click.option(
    "--in-process", is_flag=True, help="Run its models in the calling process, without limits, as the built-in ones."
)
def add(name: str, place: str, in_process: bool) -> None:
    """Add a registry under a name of your choice; it is read once to check it.

    Its models run in a worker process, which a deadline and a memory limit end: a stranger's graph can crash ONNX
    Runtime or never finish. --in-process runs the models of a registry that you control in the calling process. Adding
    a registry again, with or without --in-process, changes only that.

    \b
    Example:
      zoo registry add lab https://models.example.org/
      zoo registry add mine ~/models
    """
    from ..store import catalogue

    registry = catalogue.add(name, place, in_process=in_process)
    if registry.url.startswith("http:"):
        note("plain http: anyone in between can change what this registry says; https prevents that")
    count = len(registry.document.models)
    note(f"{name}: {count} model{'' if count == 1 else 's'} at {shown(registry.url)}")


@command.command("list")
@option("--json", "json_", is_flag=True, help="Print JSON.")
def list_(json_: bool) -> None:
    """List the registries in the order in which they are searched, and where their models run.

    \b
    Example:
      zoo registry list
    """
    from ..store import catalogue
    from ..store.trust import is_trusted

    parts: dict[str, list[Registry]] = {}  # the default one has a part for each distribution
    for registry in catalogue.registries():
        parts.setdefault(registry.name, []).append(registry)
    rows = [
        {
            "name": name,
            "models": len({model for part in of for model, listed in part.document.models.items() if listed.versions}),
            "in_process": is_trusted(of[0]),
            "url": shown(of[-1].url),  # of the default registry: its list
        }
        for name, of in parts.items()
    ]
    if json_:
        as_json(rows)
    else:
        runs = {True: "in process", False: "in a worker"}
        cells = [(row["name"], row["models"], runs[row["in_process"]], row["url"]) for row in rows]
        table(cells, ["name", "models", "runs", "url"])


@command.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Remove an added registry. Models pulled from it stay; `zoo rm` removes them.

    \b
    Example:
      zoo registry remove lab
    """
    from ..store import catalogue

    catalogue.remove(name)
    note(f"removed the registry {name}")
