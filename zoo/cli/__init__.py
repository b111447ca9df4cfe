"""The `zoo` command. One short file per command, imported only when that command is called."""

import atexit
import errno
import gc
import importlib
import os
import re
import sys
from typing import Any

import click

from .. import __version__
from ..errors import PluginError, StoreError, UsageError, ZooError
from ..system.paths import cannot_write, reason
from ..system.processes import hear_interrupts, open_streams, termination_heard
from ..text import did_you_mean, safe_text

# name: (module, summary). The summaries are here so that `zoo --help` does not import any command.
COMMANDS = {
    "list": ("list", "List models, and show which are available locally."),
    "info": ("info", "Show a model's tasks, ports, metrics, licence and files."),
    "diff": ("diff", "Compare two models: config, figures, tensors, graphs."),
    "run": ("run", "Run one of a model's tasks."),
    "batch": ("batch", "Run a task over any number of inputs, in shards that can be resumed."),
    "live": ("live", "Run a task on each line of stdin, with the model open."),
    "compare": ("compare", "Draw several models' pictures side by side."),
    "animate": ("animate", "Show a sampler's steps, or a walk between two seeds, as an animation."),
    "again": ("again", "Regenerate a picture from its metadata, and compare."),
    "pull": ("pull", "Fetch models into the store."),
    "lock": ("lock", "Lock the versions of a project's models in zoo.lock."),
    "bundle": ("bundle", "Write pulled models into one file."),
    "add": ("add", "Add the models of a file that zoo bundle wrote."),
    "verify": ("verify", "Check models against their digests; with --replay, run their golden cases."),
    "rm": ("rm", "Remove pulled models from the store."),
    "prune": ("prune", "Delete what no model in the store needs."),
    "registry": ("registry", "Add, list, remove and sign registries."),
    "families": ("families", "List the families that the installed plugins provide."),
    "plugin": ("plugin", "List, check and create plugins."),
    "train": ("train", "Train a model and write a bundle."),
    "build": ("build", "Make a bundle from a training checkpoint or from a model."),
    "import": ("import_", "Make a bundle from a foreign checkpoint."),
    "eval": ("eval", "Measure a model's metrics on a data set."),
    "export": ("export", "Export a model to another stack, as a folder that runs there."),
    "play": ("play", "Serve a model's page on this machine and open the browser."),
    "serve": ("serve", "Answer requests for models over HTTP."),
    "publish": ("publish", "Copy a bundle into a registry folder."),
    "doctor": ("doctor", "Report problems with this installation, and how to fix them."),
    "completion": ("completion", "Complete words with the Tab key: bash, zsh, fish."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and summaries, and imports a command only when it is called.

    After its own commands it looks for those of plugins (entry points `zoo.commands`), whose names come from metadata.
    """

    called: Any = None
    """The plugin's command that is being called, if any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name, command in _of_plugins().items() if not command.problem)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            return importlib.import_module(f".{COMMANDS[cmd_name][0]}", __name__).command
        if command := _of_plugins().get(cmd_name):
            from ..plugins import load_command

            self.called = command
            return load_command(command)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])
        brought = [(name, c) for name, c in _of_plugins().items() if not c.problem]
        if brought:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, f"from {c.distribution} {c.version}") for name, c in brought])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if ctx.params.get("no_plugins"):  # click looks up the command before it calls `main`
            os.environ["ZOO_NO_PLUGINS"] = "1"
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and args[0] not in _of_plugins():
            raise UsageError(
                f"there is no command '{safe_text(args[0])}'"
                + (did_you_mean(args[0], self.list_commands(ctx)) or "; `zoo --help` lists them")
            )
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Turns errors that zoo raises on purpose into one line and an exit code; a bug keeps its traceback."""
        if not kwargs.pop("standalone_mode", True):
            return super().main(*args, standalone_mode=False, **kwargs)
        hear_interrupts()
        open_streams()
        if "_ZOO_COMPLETE" in os.environ:
            from .completion import register

            register()
        # At exit, Python searches all objects of numpy's and ONNX Runtime's modules for cycles, unless they are frozen.
        atexit.unregister(gc.freeze)  # registered by an earlier call in the same process
        atexit.register(gc.freeze)
        try:
            with termination_heard():  # unfinished files go, as after Ctrl-C
                code = super().main(*args, standalone_mode=False, **kwargs)
            sys.stdout.flush()
            sys.exit(code if isinstance(code, int) else 0)
        except ZooError as e:
            _fail(str(e), e.exit_code)
        except click.ClickException as e:
            _fail(e.format_message(), e.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", 130)
        except SystemExit:
            # click sees a closed pipe first: it wraps the streams, so that they can be flushed, and exits with 1.
            if "PacifyFlushWrapper" in type(sys.stdout).__name__:
                sys.exit(141)
            raise
        except BrokenPipeError:
            _forget_stdout()
            sys.exit(141)
        except Exception as e:
            if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
                _forget_stdout()
                _fail(str(cannot_write(e.filename or "the output", e)), StoreError.exit_code)
            if self.called:
                from ..plugins import command_fault

                _fail(f"{self.called.distribution} {self.called.version}: {command_fault(self.called, e)}", 9)
            if known := _missing(e) or _of_the_system(e):
                _fail(*known)
            raise


def _missing(error: Exception) -> tuple[str, int] | None:
    """The line and exit code for a module of an extra that is not installed; None for another error."""
    from ..system.installation import missing_module

    line = missing_module(error) if isinstance(error, ModuleNotFoundError) else None
    return (line, PluginError.exit_code) if line else None


def _of_the_system(error: Exception) -> tuple[str, int] | None:
    """The line and exit code for an error that the system raised and no command expected; None for a bug.

    This is the last resort: what users name is checked where it is read (`zoo.system.paths`), with a better message.
    """
    if isinstance(error, OSError):
        place = safe_text(error.filename) if error.filename else "the output" if error.errno == errno.EBADF else ""
        return f"{place or 'the system'}: {reason(error)}", StoreError.exit_code
    if isinstance(error, MemoryError):
        return "there is not enough memory; give fewer or smaller pictures", StoreError.exit_code
    if isinstance(error, UnicodeEncodeError) and re.search("[\ud800-\udfff]", error.object):
        return f"a name is not UTF-8: {safe_text(error.object)[:200]}", UsageError.exit_code
    return None


def _forget_stdout() -> None:
    """What is still in stdout's buffer cannot be written: Python must not try to flush it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_plugins() -> dict[str, Any]:
    """The commands of plugins, by name; several with the same name are represented by one, with its problem."""
    from ..plugins import commands

    return {command.name: command for command in commands(COMMANDS)}


def _fail(message: str, exit_code: int) -> None:
    from ..system.urls import without_secrets

    click.echo(f"Error: {safe_text(without_secrets(message), keep_newlines=True)}", err=True)
    sys.exit(exit_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="zoo %(version)s")
@click.option("--no-plugins", is_flag=True, help="Do not use any plugins; the same as ZOO_NO_PLUGINS=1.")
def main(no_plugins: bool) -> None:
    """A registry of generative models: list them, pull them, run them without PyTorch.

    \b
    Example:
      zoo list
      zoo run vqvae-fashion reconstruct --image shoe.png --out again.png
    """
    if no_plugins:
        os.environ["ZOO_NO_PLUGINS"] = "1"
