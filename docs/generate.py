"""Makes the pages that can be made: docs/cli.md from the commands, docs/contract.md from zoo/hookspecs.py.

Run `make docs` after a change; a test compares.
"""

import ast
import inspect
import os
import sys
from pathlib import Path
from unittest.mock import patch

import click

import zoo.hookspecs as hookspecs
from zoo.cli import COMMANDS, main
from zoo.errors import exit_codes

DOCS = Path(__file__).parent
MADE_BY = "<!-- made by docs/generate.py: run `make docs` -->\n"


@patch.dict(os.environ, ZOO_NO_PLUGINS="1")  # the page does not depend on what is installed here
def cli_page() -> str:
    """Every command's help, and the exit codes."""
    zoo = _context(main, "zoo")
    parts = [MADE_BY, "# The `zoo` command\n", _help(zoo)]
    for name in COMMANDS:
        command = _context(main.get_command(zoo, name), name, zoo)
        parts += [f"## zoo {name}\n", _help(command)]
        if isinstance(command.command, click.Group):
            for sub in command.command.commands.values():
                parts += [f"### zoo {name} {sub.name}\n", _help(_context(sub, sub.name, command))]
    parts += [
        "## Exit codes\n",
        "Every failure that zoo knows is one line on stderr and one of these codes:\n",
        "| code | meaning |\n|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in exit_codes().items()),
        "",
        "## Environment\n",
        "| variable | meaning |\n|---|---|",
        "| `ZOO_HOME` | the store's folder; default `$XDG_DATA_HOME/zoo` or `~/.local/share/zoo` |",
        "| `ZOO_NO_PLUGINS` | `1`: no plugin is used, as with `--no-plugins` |",
        "| `HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE` | proxies and certificates, as usual |",
        "| `NO_COLOR` | zoo prints no colour anyway |",
        "",
    ]
    return "\n".join(parts)


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """The command as the shell calls it: with the settings that it has and that it inherits."""
    widths = {"terminal_width": 100, "max_content_width": 100}
    return click.Context(command, parent, info_name=name, **widths, **command.context_settings)


def _help(context: click.Context) -> str:
    with context:
        text = context.command.get_help(context)
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"```\n{lines}\n```\n"


def contract_page() -> str:
    """The module's docstring, every hook with its docstring, every dataclass as it stands in the source."""
    source = Path(hookspecs.__file__).read_text()
    tree = ast.parse(source)
    text = inspect.cleandoc(hookspecs.__doc__)
    parts = [MADE_BY, f"# The plugin contract, version {hookspecs.CONTRACT_VERSION}\n", text, "", "## Hooks\n"]
    types = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            parts += [f"### {node.name}\n", f"`{_signature(node)}`\n", inspect.cleandoc(ast.get_docstring(node)), ""]
        elif isinstance(node, ast.ClassDef):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
            body = "\n".join(source.splitlines()[start : node.end_lineno])
            types += [f"### {node.name}\n", f"```python\n{body}\n```\n"]
    return "\n".join([*parts, "## What the hooks exchange\n", *types])


def _signature(node: ast.FunctionDef) -> str:
    return f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"


PAGES = {"cli.md": cli_page, "contract.md": contract_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
    print("\n".join(str(DOCS / name) for name in PAGES), file=sys.stderr)
