"""Fetches the pinned files of onnxruntime-web for the web target; run at build and install, and by hand.

They are 41 MB of third-party files, so they are not in the repository: npm's client fetches the pinned version, and a
file whose SHA-256 is not the one in runtime.json is refused. The wheel contains them.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

RUNTIME = Path(__file__).parent / "zoo_targets" / "hosts" / "web" / "runtime"


def fetch() -> None:
    """Fetches files that are missing or not the pinned ones. RuntimeError: npm is missing or gives other bytes."""
    pinned = json.loads((RUNTIME / "runtime.json").read_text())
    if all(_digest(RUNTIME / name) == sha256 for name, sha256 in pinned["files"].items()):
        return
    with tempfile.TemporaryDirectory() as folder:
        package = f"{pinned['package']}@{pinned['version']}"
        command = ["npm", "pack", "--silent", package]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)
        except FileNotFoundError:
            raise RuntimeError(f"npm, which fetches {package}, is not installed") from None
        except subprocess.SubprocessError as e:
            raise RuntimeError(f"{' '.join(command)} failed: {e}") from None
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            for name, sha256 in pinned["files"].items():
                member = archive.extractfile(f"package/dist/{name}")
                data = member.read() if member else b""  # a folder or device of that name
                if hashlib.sha256(data).hexdigest() != sha256:
                    raise RuntimeError(f"{package} contains another {name} than the pinned one, SHA-256 {sha256}")
                (RUNTIME / name).write_bytes(data)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


if __name__ == "__main__":
    try:
        fetch()
    except RuntimeError as e:
        sys.exit(f"Error: {e}")
