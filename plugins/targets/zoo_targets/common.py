"""What the targets have in common: copying a host, its README, running it.

Hosts and exporters know no kinds of port. What they need of one is data in model.json: `zoo.ports.kind.Kind.host`.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ExportError, NotFoundError
from zoo.hookspecs import WriteTargetRequest
from zoo.text import safe_text

HOSTS = Path(__file__).parent / "hosts"
LIMIT_SECONDS = 900
_ABOUT = """
Sampler, pixels and, where an input is a seed, noise are inside the graphs: a host passes what `model.json` asks for and
gets pictures, and the same seed gives the same picture in every stack. `golden/` holds inputs and the outputs that they
must give, as raw little-endian arrays that `golden/cases.json` names. `zoo verify` on this folder checks it all again.
"""


def copy_host(request: WriteTargetRequest, names: Sequence[str]) -> None:
    """The host's files as they lie in hosts/<target>/: the same bytes for every model."""
    for name in names:
        path = request.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HOSTS / request.target / name, path)


def example(request: WriteTargetRequest, command: str, *, draws: bool = False) -> str:
    """The default task's call on a host's command line: `COMMAND TASK --port value … --out FILE`.

    Labels are given by number, since class names are foreign text.

    Args:
        draws: the host takes a seed where the graph takes its noise.
    """
    model = model_json(request)
    task = model["tasks"][model["default_task"]]
    words = [command, model["default_task"]]
    for name, port in task["inputs"].items():
        option, value = ("seed", "7") if draws and "noise" in port else (name, port["sample"])
        words += [f"--{option}", value] if value else []
    name, port = next(iter(task["outputs"].items()))
    return " ".join([*words, "--out", f"{name}{'.png' if port['shown'] == 'pictures' else '.npy'}"])


def model_json(request: WriteTargetRequest) -> Any:
    """model.json, the manifest with what a host must know of each port."""
    return json.loads((request.folder / "model.json").read_bytes())


def write_readme(request: WriteTargetRequest, title: str, commands: Sequence[tuple[str, str]], notes: str) -> None:
    """README.md: what the folder is, its commands, and notes. Of what a model says of itself, its names alone."""
    m = request.manifest
    lines = [
        f"# {m.name} {m.version} for {title}",
        "",
        f"Tasks: {', '.join(m.tasks)}. What each takes and gives stands in `model.json`; the model's card is"
        " [model/README.md](model/README.md).",
        "",
        "```console",
        *(f"$ {command}    # {what}" for command, what in commands),
        "```",
        "",
        notes.strip(),
        "",
        _ABOUT.strip(),
        "",
        f"The weights are licensed under {m.license}: see [LICENSE](LICENSE). The host program is Apache-2.0.",
        "",
    ]
    (request.folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def run_program(command: Sequence[str], folder: Path, missing: str, **environment: str) -> str:
    """Runs a host; its stdout.

    Raises:
        NotFoundError: `missing`, where its program is not there.
        ExportError: it failed; its last line of stderr.
    """
    import os

    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_SECONDS, env=os.environ | environment
        )
    except FileNotFoundError:
        raise NotFoundError(missing) from None
    except subprocess.TimeoutExpired:
        raise ExportError(f"{command[0]} did not end within {LIMIT_SECONDS} s") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()
        said = next((line for line in lines if "Error" in line), lines[-1])
        raise ExportError(f"{Path(command[0]).name} failed (exit code {done.returncode}): {safe_text(said)[:500]}")
    return done.stdout


def version_of(distribution: str) -> Any:
    """An installed distribution's version, None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
