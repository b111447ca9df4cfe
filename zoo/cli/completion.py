"""`zoo completion`: the completion script of a shell; and what it completes."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete, add_completion_class

from ..errors import StoreError, UsageError, ZooError
from .output import note
from .output import path as print_path

if TYPE_CHECKING:
    from ..store.locate import Bundle


_SPECIAL, _ESCAPED = re.compile(r"([^\w@%+=:,./-])"), r"\\\\\1"
"""For bash, a class name with a space is one word only with a backslash; the script itself takes one away."""


_PATH = "path"
"""The type of a completed file or folder."""

_NO_SPACE = """    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]]; then
        compopt -o nospace
    fi

    return 0
"""
"""In bash's script: after a folder, what is in it."""


class _Bash(BashComplete):
    """bash takes a colon for the end of a word: `tiny:1` comes as three, of which only what follows it is replaced."""

    source_template = BashComplete.source_template.replace("    return 0\n", _NO_SPACE)

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        for word in [*args, incomplete]:
            if words and (word == ":" or words[-1].endswith(":")):
                words[-1] += word
            else:
                words.append(word)
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        value, plain = item.value.rpartition(":")[2], item.type in ("plain", _PATH)
        return f"plain,{_SPECIAL.sub(_ESCAPED, value)}" if plain else f"{item.type},{value}"


class _Zsh(ZshComplete):
    """zsh needs folders apart from files: after one comes a slash that goes away if a space follows."""

    source_template = ZshComplete.source_template.replace(
        '        elif [[ "$type" == "dir" ]]; then\n',
        """        elif [[ "$type" == "folder" ]]; then
            compadd -U -f -q -S / -- "$key"
        elif [[ "$type" == "path" ]]; then
            compadd -U -f -- "$key"
        elif [[ "$type" == "dir" ]]; then
""",
    )

    def format_completion(self, item: CompletionItem) -> str:
        if item.type != _PATH:
            return super().format_completion(item)
        folder = item.value.endswith("/")
        return f"{'folder' if folder else _PATH}\n{item.value.removesuffix('/')}\n_"


class _Fish(FishComplete):
    def format_completion(self, item: CompletionItem) -> str:
        return f"plain,{item.value}" if item.type == _PATH else super().format_completion(item)


SHELLS = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


@click.command("completion")
@click.argument("what", type=click.Choice([*SHELLS, "install"]), metavar="SHELL|install")
@click.argument("shell", type=click.Choice(list(SHELLS)), required=False)
def command(what: str, shell: str | None) -> None:
    """Print the completion script of SHELL (bash, zsh or fish), or install it for your shell, or the one you name.

    Then the Tab key completes commands, models, versions, tasks, the options of a model's task, class names,
    examples of texts, and files of the kind that the task takes.

    \b
    Example:
      zoo completion install
      zoo completion zsh > ~/.zfunc/_zoo
    """
    if what != "install":
        if shell:
            raise UsageError(f"zoo completion {what} takes no second word")
        click.echo(_script(what))
        return
    shell = shell or Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise UsageError(f"your shell is '{shell}'; name one: zoo completion install {'|'.join(SHELLS)}")
    _install(shell)


def _script(shell: str) -> str:
    from . import main

    return SHELLS[shell](main, {}, "zoo", "_ZOO_COMPLETE").source()


def _install(shell: str) -> None:
    """Writes the script into a file of its own, and for bash and zsh a line into the start file that reads it."""
    from ..system.files import write_atomically

    try:
        home = Path.home()
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        if shell == "fish":
            script, start = config / "fish" / "completions" / "zoo.fish", None
        else:
            script = config / "zoo" / f"completion.{shell}"
            start = home / ".bashrc" if shell == "bash" else Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
        script.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(script, _script(shell).encode())
        line = f"source '{script}'"
        before = start.read_bytes() if start and start.exists() else b""
        if start and os.fsencode(line) not in before:
            # A link, as tools that keep such files elsewhere make, stays one.
            write_atomically(start.resolve(), before + os.fsencode(f"\n{line}\n"))
            note(f"added to {start}: {line}")
    except (OSError, RuntimeError) as e:
        raise StoreError(f"the completion cannot be installed: {e}") from None
    note("it works in shells that are opened from now on")
    print_path(script)


def register() -> None:
    """Makes click use the classes above; called when a shell asks for completions."""
    for name, shell in SHELLS.items():
        add_completion_class(shell, name)


def models(incomplete: str) -> list[CompletionItem]:
    """Models on this machine and in registries whose copy is here; their versions after a colon; else folders."""
    from ..store.catalogue import registries
    from ..store.store import Store

    if incomplete.startswith((".", "/", "~")):
        return [CompletionItem(incomplete, type="dir")]
    found: dict[str, str] = {}
    try:
        for registry in registries((), offline=True):
            prefix = "" if registry.name == "default" else f"{registry.name}/"
            for name, model in registry.document.models.items():
                found[f"{prefix}{name}"] = model.summary
                found |= {f"{prefix}{name}:{version}": model.summary for version in model.versions}
        found = {f"{i.registry}/{i.name}": "" for i in Store().installed()} | found
    except ZooError:
        return []
    versions = ":" in incomplete
    return _starting(((name, summary) for name, summary in found.items() if (":" in name) == versions), incomplete)


def run_words(
    words: Sequence[str], incomplete: str, command_of: Callable[["Bundle", str], click.Command]
) -> list[CompletionItem]:
    """What may follow the words after `zoo run`: models, a model's tasks, then options, their values, and files.

    Args:
        command_of: the command of a task.
    """
    if not words:
        return models(incomplete)
    bundle = _bundle(words[0])
    if bundle is None:
        return []
    from ..run.call import option_name, options_of

    tasks = {name: task for name, task in bundle.manifest.tasks.items() if not task.part_of}
    if len(words) == 1 and not incomplete.startswith("-"):
        return _starting(((name, task.summary) for name, task in tasks.items()), incomplete)
    name = words[1] if len(words) > 1 and words[1] in tasks else bundle.manifest.default_task
    port = bundle.manifest.tasks[name].inputs.get(words[-1].removeprefix("--").replace("-", "_"))
    if port and port.classes:
        before = "".join(incomplete.rpartition(",")[:2])  # of a list
        return _starting(((before + label, "") for label in (*port.classes, "all")), incomplete)
    if port and port.examples and not incomplete.startswith("@"):
        return _starting(((text, "") for text in port.examples), incomplete)
    options = [param for param in command_of(bundle, name).params if isinstance(param, click.Option)]
    last = next((option for option in options if words[-1] in option.opts and not option.is_flag), None)
    if last is None and incomplete.startswith("-"):
        named = ((opt, option.help or "") for option in options for opt in option.opts + option.secondary_opts)
        return _starting(named, incomplete)
    if last and isinstance(last.type, click.Choice):
        return _starting(((str(choice), "") for choice in last.type.choices), incomplete)
    if last and not isinstance(last.type, click.types.StringParamType):
        return []
    named = (option for option in options_of(bundle.manifest.tasks[name]))
    takes = next((o for o in named if (option_name(o.name) in last.opts if last else o.positional)), None)
    return _files(incomplete, takes.endings if takes else ())


def _files(incomplete: str, endings: tuple[str, ...]) -> list[CompletionItem]:
    """Folders, and files with one of the endings; if there are none, or no endings, any file as the shell finds it."""
    place, _, start = incomplete.rpartition("/")
    found = []
    if endings and not incomplete.startswith("~"):  # a shell would quote what stands for a home
        with suppress(OSError), os.scandir(f"{place}/" if "/" in incomplete else ".") as entries:
            for entry in entries:
                folder = entry.is_dir()
                shown = entry.name.startswith(start) and (start.startswith(".") or not entry.name.startswith("."))
                if shown and (folder or entry.name.lower().endswith(endings)):
                    found.append(incomplete[: len(incomplete) - len(start)] + entry.name + "/" * folder)
    return [CompletionItem(path, type=_PATH) for path in sorted(found)] or [CompletionItem(incomplete, type="file")]


def _bundle(text: str) -> "Bundle | None":
    """The manifest of a model that is on this machine, without looking at its other files."""
    from ..formats import manifest as manifests
    from ..formats.reference import Reference
    from ..formats.registry import DEFAULT, resolve
    from ..store.catalogue import registries
    from ..store.locate import Bundle, folder_of, is_path
    from ..store.store import Store
    from ..system.paths import user_path

    try:
        if is_path(text):
            folder = user_path(text)
        else:
            reference = Reference.parse(text)
            entry = resolve(reference, registries((), offline=True))
            installed = None if entry.registry.name == DEFAULT else Store().find(entry.reference)
            folder = installed.folder if installed else folder_of(entry)
        return Bundle(folder, manifests.read(folder), "", text)
    except (ZooError, OSError):
        return None


def _starting(items: Any, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(value, help=_one_line(text)) for value, text in items if value.startswith(incomplete)]


def _one_line(text: str) -> str | None:
    return re.sub(r"\s+", " ", text).strip()[:60] or None
