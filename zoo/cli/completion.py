"""`zoo completion`: the completion script of a shell."""

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    Example:
      zoo completion bash >> ~/.bashrc
      zoo completion zsh > ~/.zfunc/_zoo
      zoo completion fish > ~/.config/fish/completions/zoo.fish
    """
    from click.shell_completion import get_completion_class

    from . import main

    script = get_completion_class(shell)
    assert script is not None  # one of the three that click has
    click.echo(script(main, {}, "zoo", "_ZOO_COMPLETE").source())
