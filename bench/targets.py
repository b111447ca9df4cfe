"""Every model on every target: does the same seed give the same picture?

    python bench/targets.py [--write] [MODEL ...]        make targets

Exports each model (those of the default registry, or the named ones) to each installed target, runs the host program on
the golden cases in its own stack, and compares. Prints a Markdown table; --write also writes it into docs/targets.md,
where rows of models and targets that were not measured this time stay. A target whose stack is not installed gets a row
that says so.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import END, write_between

from zoo.formats.registry import DEFAULT, read
from zoo.plugins import installed

PAGE = Path(__file__).parents[1] / "docs" / "targets.md"
START = "<!-- made by bench/targets.py: run `make targets` -->\n"
ZOO = [sys.executable, "-m", "zoo"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--target", action="append", help="only this one")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    targets = given.target or sorted({name for plugin in installed() for name in plugin.targets})
    models = given.models or list(read(Path(__file__).parents[1], DEFAULT).document.models)
    head = "| model | target | ran on | largest difference | equal pixels | equal tokens | tasks left out |\n"
    head += "|" + "---|" * 7 + "\n"
    rows = written(PAGE.read_text()) if given.write else {}
    differ = []
    for model in models:
        for target in targets:
            cells = row(model, target)
            differ += [f"{model} on {target}"] if "DIFFERS" in cells else []
            line = "| " + " | ".join([Path(model).name, target, *cells]) + " |\n"
            rows[Path(model).name, target] = line
            print(line, end="", file=sys.stderr)
    table = head + "".join(rows[key] for key in sorted(rows))
    print(table)
    if given.write:
        write_between(PAGE, START, table)
    if differ:
        sys.exit(f"not the same: {', '.join(differ)}")


def written(page: str) -> dict[tuple[str, str], str]:
    """The rows of the table in a page, by model and target."""
    table = page.partition(START)[2].partition(END)[0]
    lines = [line for line in table.splitlines(keepends=True) if line.startswith("| ")]
    return {tuple(word.strip() for word in line.split("|")[1:3]): line for line in lines[1:]}


def row(model: str, target: str) -> list[str]:
    """The cells of a model on a target, starting with what it ran on."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        done = subprocess.run(
            [*ZOO, "export", model, "--target", target, "-o", out, "--json"], capture_output=True, text=True
        )
        if done.returncode:
            return [done.stderr.strip().removeprefix("Error: "), "", "", "", ""]
        left = [r["task"] for r in json.loads(done.stdout)["report"] if not r["runs"]]
        done = subprocess.run([*ZOO, "verify", out, "--run-host", "--json"], capture_output=True, text=True)
        if not done.stdout.strip():
            return [done.stderr.strip().removeprefix("Error: ").replace(str(out), ""), "", "", "", ", ".join(left)]
        (report,) = json.loads(done.stdout)
    return [*cells(report), ", ".join(left)]


def cells(report: dict[str, Any]) -> list[str]:
    """Worst pixel in levels, share of equal pixels and of equal integers, over all tasks and golden cases."""
    outputs = [(name, c) for task in report["host"] for name, c in task["outputs"].items()]
    pixels = [c for name, c in outputs if "level" in c["text"] or (c["verdict"] == "identical" and is_picture(name))]
    tokens = [c for name, c in outputs if name.startswith("tokens") or name == "label"]
    worst = f"{max(c['worst'] for _, c in outputs):.2g}"
    if pixels:
        levels = max(c["worst"] for c in pixels)
        worst = f"{levels:g} level{'' if levels == 1 else 's'}"
    if any(c["verdict"] == "differs" for _, c in outputs):
        worst += ", DIFFERS"
    share = [f"{min(c['share_equal'] for c in some):.2%}" if some else "" for some in (pixels, tokens)]
    return [report["ran_by"], worst, *share]


def is_picture(name: str) -> bool:
    return name not in ("size", "label") and not name.startswith(("tokens", "probabilities", "features"))


if __name__ == "__main__":
    main()
