"""Plugins as real installed distributions: a site folder with packages, dist-info folders, and RECORD files."""

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from zoo.hookspecs import CONTRACT_VERSION

ROOT = Path(__file__).parent.parent

HEAD = """
from zoo.hookspecs import DescribeRequest, Family, hookimpl
ZOO_CONTRACT = 1
"""

DESCRIBE = """
@hookimpl
def describe_family(request: DescribeRequest) -> Family:
    return Family(name=request.family, summary="A family for tests", paper="https://example.org", presets={})
"""

GOOD = HEAD + DESCRIBE

# name: (the module's text, what the one line must say)
BROKEN = {
    "raises": (HEAD + "raise ValueError('boom')", "zoo_raises/plugin.py:4): ValueError: boom; upgrade it"),
    "needs": (HEAD + "import frobnicate_9000", "needs the module 'frobnicate_9000', which is not installed; reinstall"),
    "syntax": (HEAD + "def (", "plugin.py:4 is not valid Python"),
    "exits": (HEAD + "import sys\nsys.exit(0)", "calls sys.exit when it is imported (zoo_exits/plugin.py:5)"),
    "vanishes": (HEAD + "import os\nos._exit(3)", "ended the process (exit code 3)"),
    "segfaults": (HEAD + "import ctypes\nctypes.string_at(0)", "crashed the process (SIGSEGV)"),
    "interrupts": (HEAD + "raise KeyboardInterrupt", "raised KeyboardInterrupt"),
    "prints": (GOOD + "print('hello')", "prints while it is loaded ('hello')"),
    "floods": (GOOD + "print('x' * 50_000_000)", "prints while it is loaded ('xxx"),
    "writes": (GOOD + "import os\nos.write(1, b'raw bytes')", "prints while it is loaded ('raw bytes')"),
    "signature": (HEAD + "@hookimpl\ndef describe_family(family, x): ...", "wrong signature, hookimpl definition"),
    "misspelt": (
        GOOD + "@hookimpl\ndef build_modul(request): ...",
        "no hook 'build_modul'; did you mean 'build_module'?",
    ),
    "undecorated": (GOOD + "def build_module(request): ...", "its function build_module has no @hookimpl"),
    "newer": (
        GOOD.replace("CONTRACT = 1", "CONTRACT = 99"),
        f"contract 99, this zoo has {CONTRACT_VERSION}; run: pip install -U genzoo",
    ),
    "older": (GOOD.replace("CONTRACT = 1", "CONTRACT = 0"), "upgrade the plugin: pip install -U zoo-older"),
    "undeclared": (GOOD.replace("ZOO_CONTRACT = 1", ""), "does not say which contract it was written for"),
    "heavy": (HEAD + "import torch" + DESCRIBE, "imports torch while it is loaded"),
    "wrongtype": (HEAD + "@hookimpl\ndef describe_family(request): return {}", "describe_family returned a dict"),
    "wrongfield": (GOOD.replace("presets={}", "presets=7"), "returned a Family with a wrong field"),
    "misnamed": (GOOD.replace("name=request.family", "name='other'"), "calls itself 'other'"),
    "huge": (GOOD.replace("presets={}", "presets={}, weights=('w' * 2_000_000,)"), "the limit is 1,048,576"),
    "silent": (HEAD, "does not implement the hook describe_family; docs/contract.md#describe_family"),
    "fails": (GOOD.replace("    return", "    return 1 / 0 and"), "plugin.py:7): ZeroDivisionError"),
    "patches": (GOOD + "import builtins\nbuiltins.open = None", "it replaces Python's own open"),
    "binary": (
        HEAD + "import importlib.machinery as m, importlib.util as u\n"
        "u.module_from_spec(u.spec_from_loader('x', m.ExtensionFileLoader('x', __file__)))",
        "cannot be imported (zoo_binary/plugin.py:5): ImportError: ",
    ),
    "hoards": (HEAD + "x = bytearray(1 << 46)", "cannot be imported (zoo_hoards/plugin.py:4): MemoryError"),
    "large": (HEAD + "#" * 1_100_000, "bytes, the limit is 1,048,576"),
    "escapes": (HEAD + "raise ValueError('\\x1b]0;owned\\x07\\u202e')", "\\x1b]0;owned\\x07\\u202e"),
}
HANGS = HEAD + "import time\ntime.sleep(600)"


def install(
    site: Path,
    name: str,
    source: str = GOOD,
    *,
    families: tuple[str, ...] = (),
    distribution: str = "",
    extra: str = "",
) -> None:
    """Installs the distribution `zoo-NAME` (or `distribution`) with its package, which makes `families` (or NAME)."""
    distribution = distribution or f"zoo-{name}"
    package = distribution.replace("-", "_")
    entries = "\n".join(f"{family} = {package}.plugin" for family in families or (name,))
    info = f"{package}-1.0.dist-info"
    files = {
        f"{package}/__init__.py": "",
        f"{package}/plugin.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
        f"{info}/entry_points.txt": f"[zoo]\n{entries}\n{extra}",
    }
    record = ""
    for path, text in files.items():
        file = site / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    (site / info / "RECORD").write_text(f"{record}{info}/RECORD,,\n")


def install_fake_torch(site: Path) -> None:
    """A `torch` and an `onnxruntime` that cost nothing and do nothing."""
    (site / "torch.py").write_text("")
    (site / "onnxruntime.py").write_text("")


def run_python(code: str, *args: str, site: Path, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh process that has the site folder's distributions installed, ahead of all others."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ZOO_")}
    environment |= {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "ZOO_HOME": str(home), "COLUMNS": "120"} | env
    command = [sys.executable, "-P", "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


def run_zoo(*args: str, site: Path, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The `zoo` command in a fresh process."""
    return run_python("from zoo.cli import main; main(prog_name='zoo')", *args, site=site, home=home, **env)


WITHOUT_RUNTIME = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "onnxruntime" else super().find_spec(name, path, target)

    @staticmethod
    def find_distributions(*arguments):
        found = PathFinder.find_distributions(*arguments)
        return (one for one in found if not one._path.name.startswith("onnxruntime"))

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def hide_runtime(site: Path) -> None:
    """Processes with this site folder on their path have no ONNX Runtime installed."""
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(WITHOUT_RUNTIME)


def two_runtimes(site: Path) -> None:
    """A site folder with ONNX Runtime in which two distributions of it are installed: their metadata, one's files."""
    import onnxruntime

    (site / "onnxruntime").symlink_to(Path(onnxruntime.__file__).parent)
    for name, version in (("onnxruntime", "1.30.0"), ("onnxruntime-gpu", "1.31.0")):
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
