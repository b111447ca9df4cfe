"""Generates pages from the code: docs/cli.md from the commands, docs/contract.md from zoo/hookspecs.py, docs/models.md
from the cards, docs/writing-a-plugin.md from the code of an example, the table of docs/bundle.md from zoo/ports.

Run `make generate` after a change; a test compares.
"""

import ast
import importlib
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click

import zoo.hookspecs as hookspecs
from zoo.cli import COMMANDS, main
from zoo.errors import exit_codes
from zoo.formats import manifest as manifests
from zoo.formats import registry as registries
from zoo.ports.kinds import KINDS as PORT_KINDS

DOCS = Path(__file__).parent
MADE_BY = "<!-- made by docs/generate.py: run `make generate` -->\n"


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
        "Every error that zoo raises on purpose is one line on stderr and one of these codes:\n",
        "| code | meaning |\n|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in exit_codes().items()),
        "",
        "## Environment\n",
        "| variable | meaning |\n|---|---|",
        "| `ZOO_HOME` | the store's folder; default `$XDG_DATA_HOME/zoo` or `~/.local/share/zoo` |",
        "| `ZOO_NO_PLUGINS` | `1`: do not use plugins, as with `--no-plugins` |",
        "| `ZOO_ISOLATE` | `1`: every model runs in a worker process; `0`: none does; see"
        " [security.md](security.md#while-it-runs) |",
        "| `ZOO_WORKER_SECONDS` | the deadline of a call in a worker process; default 3600 |",
        "| `ZOO_WORKER_MEMORY` | its memory limit, e.g. `8G`; default: three quarters of the machine's memory |",
        "| `ZOO_CUDA_OPTIONS` | `NAME=VALUE,…`: options of ONNX Runtime's CUDA provider, see [gpu.md](gpu.md) |",
        "| `HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE` | proxies and certificates, as usual |",
        "| `NO_COLOR` | has no effect: zoo never prints colours |",
        "",
    ]
    return "\n".join(parts)


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """The command as called by the shell: with its own and inherited settings."""
    widths = {"terminal_width": 100, "max_content_width": 100}
    return click.Context(command, parent, info_name=name, **widths, **command.context_settings)


def _help(context: click.Context) -> str:
    with context:
        text = context.command.get_help(context)
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"```\n{lines}\n```\n"


def contract_page() -> str:
    """The module's docstring, every hook with its docstring, every dataclass with its source."""
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
    parts += ["## What the hooks exchange\n", *types, "## Entry points\n", "| group | entry |\n|---|---|"]
    parts += [f"| `{group}` | {what} |" for group, what in hookspecs.ENTRY_POINTS.items()]
    parts += ["", "## Modules that a plugin may import\n", "Everything else in zoo may change at any time.\n"]
    parts += ["| module | contents |\n|---|---|", *map(_module_row, hookspecs.PUBLIC_MODULES), ""]
    parts += [section for module in OUTLINED for section in _module_outline(module)]
    parts += ["## Changes\n"]
    parts += [f"- **{version}**: {'; '.join(lines)}" for version, lines in hookspecs.CHANGES.items()]
    return "\n".join([*parts, ""])


def bundle_page() -> str:
    """docs/bundle.md with its table of port kinds, generated from zoo/ports."""
    rows = [f"| `{k.name}` | {k.dtype} {k.shape} | {k.meaning} |" for k in PORT_KINDS.values()]
    table = "\n".join(["| kind | dtype and shape | meaning |", "|---|---|---|", *rows])
    page = (DOCS / "bundle.md").read_text()
    return re.sub(r"(<!-- kinds[^>]*-->\n).*?(<!-- /kinds -->)", rf"\g<1>{table}\n\g<2>", page, flags=re.DOTALL)


def _module_row(module: str) -> str:
    """A public module: the first line of its docstring, and its public functions and classes."""
    tree = ast.parse(Path(importlib.import_module(module).__file__).read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    imported = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    names += [alias.name for alias in imported if alias.asname == alias.name]  # `x as x`: public here too
    names = names or list(getattr(importlib.import_module(module), "__all__", ()))
    public = [f"`{name}`" for name in names if not name.startswith(("_", "pytest_"))]
    listed = {"zoo": ["`load`, `Model`, `ZooError`"], "zoo.hookspecs": []}.get(module, public)
    said = ast.get_docstring(tree).splitlines()[0].rstrip(".")
    return f"| `{module}` | {said}{': ' if listed else ''}{', '.join(listed)} |"


OUTLINED = (
    "zoo.build.loop", "zoo.build.random", "zoo.build.tokenizers", "zoo.build.optim", "zoo.build.evaluate",
    "zoo.build.keys", "zoo.settings",
)  # fmt: skip
"""The modules that a model's own code calls: their signatures are in the contract's page."""


def _module_outline(module: str) -> Iterator[str]:
    """A module's docstring, and its public functions and classes with signatures and docstrings, without bodies."""
    source = Path(importlib.import_module(module).__file__).read_text()
    tree = ast.parse(source)
    yield f"### {module}\n"
    yield f"{inspect.cleandoc(ast.get_docstring(tree))}\n"
    nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    outlines = ["\n".join(_outline(node, source)) for node in nodes if not node.name.startswith("_")]
    yield "```python\n" + "\n\n\n".join(outlines) + "\n```\n"


def _outline(node: ast.FunctionDef | ast.ClassDef, source: str) -> Iterator[str]:
    """The lines of a function or class as in its source, without bodies and private names."""
    text = (ast.get_docstring(node) or "").splitlines()
    said = [*text[:-1], f'{text[-1]}"""' if len(text) == 1 else text[-1]] if text else []
    said = [f'"""{said[0]}', *said[1:], *(['"""'] if len(text) > 1 else [])] if text else []
    if isinstance(node, ast.FunctionDef):
        head = textwrap.dedent("\n".join(source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]))
        yield from f"{head}{'' if said else ' ...'}".splitlines()
        yield from _inside(said)
        return
    bases = ", ".join(ast.unparse(base) for base in (*node.bases, *node.keywords))
    yield f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    yield from _inside(said)
    if isinstance(node.body[1], ast.AnnAssign):
        yield ""
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            yield f"    {source.splitlines()[part.lineno - 1].strip()}"
        if isinstance(part, ast.FunctionDef) and (part.name == "__init__" or not part.name.startswith("_")):
            yield ""
            yield from _inside(_outline(part, source))


def _inside(lines: Iterable[str]) -> Iterator[str]:
    return (line and f"    {line}" for line in lines)


def _signature(node: ast.FunctionDef) -> str:
    return f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"


KINDS = {
    "Codecs: pictures to codes and back": (
        ("psnr", "ssim", "label_kept", "codebook_use", "perplexity"),
        """`psnr` and `ssim` compare with the original; `label_kept` is the share of pictures that the judge still
classifies correctly; `codebook_use` and `perplexity` say how many of the codes are used.""",
    ),
    "Generators: pictures from noise": (
        ("frechet_distance", "frechet_floor", "precision", "recall", "diversity", "asked_label", "nearest_training"),
        """`frechet_distance` measures quality and diversity together, in the judge's features; its floor, the distance
of as many real pictures, is `frechet_floor`. `precision` is the share of drawn pictures that are among the real ones
(quality), `recall` the share of real ones that are among the drawn (diversity), `diversity` the spread within a class
divided by that of real pictures. `asked_label` is the share with the requested label, for models that take one.
`nearest_training` well under 1 would mean copying.""",
    ),
    "Judges": (("accuracy",), "Classifiers, whose features the other metrics are measured with."),
}
"""Title: the metrics to show, of which every model of this kind has the first, and what they mean."""


def models_page() -> str:
    """The newest version of every model in the default registry, by kind, with the metrics of its card."""
    registry = registries.read(DOCS.parent, "default").document
    models = [
        manifests.read(DOCS.parent / "models" / name / str(max(model.versions)))
        for name, model in registry.models.items()
    ]
    speeds = {row["model"]: row for row in json.loads((DOCS.parent / "bench" / "models.json").read_text())["models"]}
    parts = [
        MADE_BY,
        """# Models side by side

Every model in the default registry, by what it does, with the metrics of its card, measured on the test pictures of its
data set (`zoo info MODEL --card` names the command for each). MB is 10^6 bytes, weights and graphs. `ms` is the time
for one picture with the model's default task, as measured by `python bench/models.py` on one CPU thread.
""",
    ]
    for title, (shown, text) in KINDS.items():
        group = [m for m in models if shown[0] in {metric.name for metric in m.metrics}]
        parts += [f"## {title}\n", f"{text}\n", *_models_tables(group, shown, speeds)]
    return "\n".join(parts)


def _models_tables(models: list[Any], shown: tuple[str, ...], speeds: dict[str, Any]) -> Iterator[str]:
    """A table for each data set."""
    for source in sorted({metric.data for m in models for metric in m.metrics if metric.name == shown[0]}):
        here = {m.name: m for m in models if any(metric.data == source for metric in m.metrics)}
        metrics = {
            (m.name, metric.name): metric for m in here.values() for metric in m.metrics if metric.data == source
        }
        names = [name for name in shown if any(name == metric for _, metric in metrics)]
        units = {metric.name: f" ({metric.unit})" if metric.unit else "" for metric in metrics.values()}
        yield f"### {source}\n"
        yield "| " + " | ".join(["model", "family", "MB", "ms", *(f"{name}{units[name]}" for name in names)]) + " |"
        yield "|" + "---|" * (len(names) + 4)
        for m in here.values():
            speed = f"{speeds[m.name]['milliseconds']:.3g}" if m.name in speeds else ""
            values = [f"{metrics[m.name, name].value:g}" if (m.name, name) in metrics else "" for name in names]
            yield "| " + " | ".join([f"`{m.name}`", f"`{m.family}`", f"{m.size / 1e6:.1f}", speed, *values]) + " |"
        yield ""


EXAMPLE = DOCS / "examples" / "zoo-vae"
INCLUDE = re.compile(r"<!-- include (\S+) ?(.*?) -->")


def plugin_page() -> str:
    """docs/writing-a-plugin.md.in with the example's own code inserted."""
    text = (DOCS / "writing-a-plugin.md.in").read_text()
    return MADE_BY + INCLUDE.sub(lambda found: _included(EXAMPLE / found[1], found[2].split()), text)


def _included(file: Path, names: list[str]) -> str:
    """A file, or its named functions, classes and constants, as a block of code."""
    source = file.read_text().rstrip()
    parts = [source]
    if names:
        nodes = {_name_of(node): node for node in ast.parse(source).body}
        parts = [_lines_of(source, nodes[name]) for name in names]
    language = {".py": "python", ".toml": "toml"}[file.suffix]
    return f"```{language}\n# {file.relative_to(EXAMPLE)}\n" + "\n\n\n".join(parts) + "\n```"


def _name_of(node: ast.stmt) -> str:
    return getattr(node, "name", "") or (node.targets[0].id if isinstance(node, ast.Assign) else "")


def _lines_of(source: str, node: ast.stmt) -> str:
    start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
    return "\n".join(source.splitlines()[start : node.end_lineno])


PAGES = {
    "bundle.md": bundle_page,
    "cli.md": cli_page,
    "contract.md": contract_page,
    "models.md": models_page,
    "writing-a-plugin.md": plugin_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
    print("\n".join(str(DOCS / name) for name in PAGES), file=sys.stderr)
