"""What the targets have in common: copying a host, writing its README, running it.

Hosts and exporters do not know the kinds of port. What they need to know is data in model.json:
`zoo.ports.kind.Kind.host`.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo import noise
from zoo.errors import ExportError, NotFoundError
from zoo.hookspecs import WriteTargetRequest
from zoo.text import safe_text

HOSTS = Path(__file__).parent / "hosts"
LIMIT_SECONDS = 900
_ABOUT = """ Sampler, pixel conversion and, if an input is a seed, noise are inside the graphs: a host passes what
`model.json` asks for and gets pictures, and the same seed gives the same picture in every stack. `golden/` contains
inputs and the outputs that they must give, as raw little-endian arrays described in `golden/cases.json`. `zoo verify`
checks this folder again.
"""


def copy_host(request: WriteTargetRequest, names: Sequence[str]) -> None:
    """Copies the host's files from hosts/<target>/: the same bytes for every model."""
    for name in names:
        path = request.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HOSTS / request.target / name, path)


def copy_python_host(request: WriteTargetRequest) -> None:
    """Copies what Python hosts on other runtimes share: host.py; seeds.py and noise.py, which draw a seed's noise."""
    for source, name in (("run.py", "host.py"), ("seeds.py", "seeds.py")):
        shutil.copyfile(HOSTS / "python" / source, request.folder / name)
    shutil.copyfile(noise.__file__, request.folder / "noise.py")


def example(request: WriteTargetRequest, command: str, *, draws: bool = False) -> str:
    """The default task's call on a host's command line: `COMMAND TASK --port value … --out FILE`.

    Labels are given as numbers, since class names are foreign text.

    Args:
        draws: the host takes a seed if the graph takes its noise.
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
    """model.json: the manifest, with what a host must know about each port."""
    return json.loads((request.folder / "model.json").read_bytes())


def write_readme(request: WriteTargetRequest, title: str, commands: Sequence[tuple[str, str]], notes: str) -> None:
    """Writes README.md: what the folder is, its commands, and notes. It only contains names from the manifest."""
    m = request.manifest
    lines = [
        f"# {m.name} {m.version} for {title}",
        "",
        f"Tasks: {', '.join(m.tasks)}. `model.json` describes what each takes and gives; the model's card is"
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


@contextmanager
def started(command: Sequence[str], seconds: float = 60, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that ends with the context: asked first, killed if it has not ended after so many seconds.

    Args:
        options: of `subprocess.Popen`.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()


def run_program(command: Sequence[str], folder: Path, missing: str, **environment: str) -> str:
    """Runs a host; its stdout.

    Raises:
        NotFoundError: `missing`, if its program does not exist.
        ExportError: it failed; the message is its last line of stderr.
    """
    import os

    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_SECONDS, env=os.environ | environment
        )
    except FileNotFoundError:
        raise NotFoundError(missing) from None
    except subprocess.TimeoutExpired:
        raise ExportError(f"{command[0]} did not finish within {LIMIT_SECONDS} s") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        said = next((line for line in lines if "Error" in line), lines[-1])
        raise ExportError(f"{Path(command[0]).name} failed (exit code {done.returncode}): {safe_text(said)[:500]}")
    return done.stdout


def version_of(distribution: str) -> Any:
    """An installed distribution's version; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
