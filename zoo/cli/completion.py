"""`zoo completion`: the completion script of a shell."""

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SHELLS)))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    Example:
      zoo completion bash >> ~/.bashrc
      zoo completion zsh > ~/.zfunc/_zoo
      zoo completion fish > ~/.config/fish/completions/zoo.fish
    """
    from . import main

    click.echo(SHELLS[shell](main, {}, "zoo", "_ZOO_COMPLETE").source())
