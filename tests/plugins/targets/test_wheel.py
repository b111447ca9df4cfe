"""The wheel of zoo-targets carries every host and the pinned files of the browser's runtime."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .hosts import need

pytestmark = pytest.mark.slow
PACKAGE = Path(__file__).parents[3] / "plugins" / "targets"
RUNTIME = "zoo_targets/hosts/web/runtime"


def pinned():
    return json.loads((PACKAGE / RUNTIME / "runtime.json").read_bytes())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    need("" if all((PACKAGE / RUNTIME / name).is_file() for name in pinned()["files"]) else "onnxruntime-web")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_it_carries_the_pinned_runtime_with_version_and_licence(wheel):
    assert pinned()["version"] == "1.30.0" and pinned()["license"] == "MIT"
    for name, sha256 in pinned()["files"].items():
        assert hashlib.sha256(wheel.read(f"{RUNTIME}/{name}")).hexdigest() == sha256
    assert "MIT License" in wheel.read(f"{RUNTIME}/LICENSE").decode()


def test_it_carries_every_file_of_every_host(wheel):
    there = {name for name in wheel.namelist() if "/hosts/" in name}
    tracked = subprocess.run(
        ["git", "ls-files", "zoo_targets/hosts"], cwd=PACKAGE, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(tracked) <= there and len(tracked) > 10


def test_it_needs_no_torch(wheel):
    metadata = wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))).decode()
    requires = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert requires == ["Requires-Dist: genzoo"]
