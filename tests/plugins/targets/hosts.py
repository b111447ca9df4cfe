"""The hosts that run on a command line, and what their stacks need; a bundle whose every text is hostile."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from zoo_targets import cpp

from tests.tiny_tasks import studio
from zoo.formats import manifest as manifests

HOSTILE = (
    "\"'; alert(1) //",
    "</script><script>fetch('/owned')</script><img src=x onerror=alert(1)>",
    '${process.exit(9)} `id` $(id) %n {{7*7}} \\"} platform: \u2028 \U0001f45f',
)
"""Class names that end a string, a script, a template or a line wherever they are pasted."""


@dataclass(frozen=True)
class Host:
    """A target whose host is a program of the command line."""

    target: str
    command: Callable[[Path], list[str]]  # of an export's folder; TASK --port value … follows
    missing: Callable[[], str]  # what is not installed, empty when all is there


def call(host: Host, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [*host.command(folder), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def need(missing: str) -> None:
    """Skips a test whose stack is not installed, with its name. In CI all are, so there it fails instead."""
    if missing:
        assert not os.environ.get("ZOO_ALL_TARGETS"), f"{missing} is not installed"
        pytest.skip(f"{missing} is not installed")


NODE_MODULES = Path(__file__).parents[3] / ".venv" / "node" / "node_modules"
"""Where `make test` installs what tests/plugins/targets/package.json names."""


HEADERS = NODE_MODULES.parents[1] / "onnxruntime" / "usr" / "include" / "onnxruntime"
"""Where `make test` puts ONNX Runtime's C++ headers."""


def missing_cpp() -> str:
    if HEADERS.is_dir():
        os.environ.setdefault("ONNXRUNTIME_INCLUDE", str(HEADERS))
    return cpp.missing()


def missing_node() -> str:
    if not shutil.which("node"):
        return "node"
    if not (NODE_MODULES / "onnxruntime-node").is_dir():
        return "onnxruntime-node"
    os.environ["NODE_PATH"] = str(NODE_MODULES)
    return ""


def cpp_command(folder: Path) -> list[str]:
    """The program, compiled once: its source is the same for every model."""
    program, _ = _compiled(folder)
    return ["env", f"MODEL_FOLDER={folder}", str(program)]


_build = cpp.build
_programs: dict[tuple[str, ...], tuple[Path, Path]] = {}


def _compiled(folder: Path) -> tuple[Path, Path]:
    """The program of an export's source, and the export that it was compiled from, whose model it runs unasked."""
    source = tuple((folder / name).read_text() for name in ("main.cpp", "CMakeLists.txt"))
    if source not in _programs:
        _programs[source] = _build(folder, Path(tempfile.mkdtemp(prefix="zoo-test-cpp-"))), folder
    return _programs[source]


def build_once(folder: Path, build_folder: Path) -> Path:
    """In place of `cpp.build`, which takes half a minute: a script that starts the program compiled before."""
    program, compiled_from = _compiled(folder)
    model = "" if folder == compiled_from else f"MODEL_FOLDER={shlex.quote(str(folder))} "
    script = build_folder / "run"
    script.write_text(f'#!/bin/sh\n{model}exec {shlex.quote(str(program))} "$@"\n')
    script.chmod(0o755)
    return script


HOSTS = {
    "python": Host("python", lambda folder: [sys.executable, "run.py"], lambda: ""),
    "node": Host("node", lambda folder: ["node", "run.mjs"], missing_node),
    "cpp": Host("cpp", cpp_command, missing_cpp),
}


def hostile(folder: Path) -> Path:
    """The studio with hostile class names and summaries."""
    bundle = studio(folder)
    manifest = manifests.read(bundle)
    tree = msgspec.to_builtins(manifest)
    text = " ".join(HOSTILE)[:290]
    tree |= {"classes": HOSTILE, "summary": text, "license_note": text + "\n" + text}
    for task in tree["tasks"].values():
        task["summary"] = text
        for side in ("inputs", "outputs"):
            for port in task[side].values():
                port["summary"] = text
                if port["kind"] == "label":
                    port["classes"] = HOSTILE
    (bundle / "model.yaml").write_bytes(manifests.dump(msgspec.convert(tree, manifests.Manifest)))
    (bundle / "README.md").write_text(text, encoding="utf-8")
    files = {n: manifests.describe_file(bundle / n) for n in manifest.files}
    manifest = msgspec.structs.replace(manifests.read(bundle), files=files)
    (bundle / "model.yaml").write_bytes(manifests.dump(manifest))
    return bundle
