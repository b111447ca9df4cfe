"""The commands of `zoo`, from click's own tree, so that tests that go through all of them meet a new one too."""

from collections.abc import Iterator

import click

from zoo.cli import COMMANDS, main


def leaves() -> dict[str, click.Command]:
    """The commands that do something, by their words: `run`, `registry add`; without those of plugins."""
    with click.Context(main) as context:
        found = {name: main.get_command(context, name) for name in COMMANDS}
    return dict(_leaves(found))


def _leaves(commands: dict[str, click.Command], prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in commands.items():
        if isinstance(command, click.Group):
            yield from _leaves(command.commands, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command
