"""Compares the size of the CPU core, `genzoo[cpu]` without models, with its limit.

Run: .venv/bin/python bench/core_size.py [EXTRA]. It makes a virtual environment in a temporary folder, installs this
checkout with the extra (`cpu` by default; `cuda` takes gigabytes) from the package index, and adds up the files of all
distributions there. What pip compiles when it installs them (`__pycache__`) is added up separately. The exit code is 1
if the files of `cpu` take more than the limit.
"""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
LIMIT = 210_000_000
"""Bytes that the core with ONNX Runtime for the CPU may take, without models."""

MODELS = "zoo/default_registry/"


def sizes(site_packages: Path) -> dict[str, tuple[int, int]]:
    """Bytes of each distribution in a folder, without models: its files, and what was compiled from them.

    pip's are not counted, since zoo does not need it.
    """
    found = {}
    for distribution in metadata.distributions(path=[str(site_packages)]):
        paths = [Path(file.locate()) for file in distribution.files or () if not str(file).startswith(MODELS)]
        there = {path: path.stat().st_size for path in paths if path.is_file()}
        compiled = sum(size for path, size in there.items() if path.suffix == ".pyc")
        found[distribution.name] = sum(there.values()) - compiled, compiled
    return {name: size for name, size in found.items() if name not in ("pip", "setuptools")}


def install(folder: Path, extra: str) -> Path:
    """Installs this checkout with an extra into a new environment; returns its site-packages."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[{extra}]"], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())


def main(extra: str = "cpu") -> None:
    with TemporaryDirectory(prefix="zoo-size-") as folder:
        found = sizes(install(Path(folder), extra))
    for name, (files, compiled) in sorted(found.items(), key=lambda item: -sum(item[1])):
        print(f"{name:20} {files / 1e6:8.1f} MB, compiled {compiled / 1e6:6.1f} MB")
    files, compiled = (sum(column) for column in zip(*found.values(), strict=True))
    print(f"{f'genzoo[{extra}]':20} {files / 1e6:8.1f} MB, compiled {compiled / 1e6:6.1f} MB")
    print(f"{files / LIMIT:.2f} of the limit for cpu; with what pip compiles {(files + compiled) / LIMIT:.2f}")
    sys.exit(extra == "cpu" and files > LIMIT)


if __name__ == "__main__":
    main(*sys.argv[1:])
