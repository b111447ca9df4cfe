"""Several threads that are the first to read a kind of file: msgspec crashes where two describe a type at once."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests import tiny
from zoo.hookspecs import Family, Preset
from zoo.plugins.finding import Plugin
from zoo.plugins.probing import Probe

CODE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import {module} as module

sys.setswitchinterval(1e-6)
path, barrier = Path(sys.argv[1]), threading.Barrier(8)

def read(_):
    barrier.wait()
    {read}

with ThreadPoolExecutor(8) as pool:
    list(pool.map(read, range(8)))
"""


# Before these reads were guarded, one run crashed in 2 of 3 (the probe) and in 1 of 3 (the manifest).
@pytest.mark.slow
@pytest.mark.parametrize(
    "module, read",
    [
        ("zoo.formats.manifest", "module.read(path)"),
        ("zoo.plugins.probing", "module._PROBES.decode((path / 'probe').read_bytes())"),
    ],
    ids=["manifest", "probe"],
)
def test_the_first_reads_of_several_threads_do_not_crash(tmp_path: Path, module: str, read: str):
    bundle = tiny.bundle(tmp_path / "tiny")
    presets = {"tiny": Preset(summary="Small.", config={})}
    vae = Family(name="vae", summary="A VAE.", paper="https://example.org", presets=presets)
    plugin = Plugin(distribution="zoo-vae", version="1", module="zoo_vae")
    (bundle / "probe").write_bytes(msgspec.json.encode(Probe(plugin=plugin, families={"vae": vae})))
    code = CODE.format(module=module, read=read)
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", code, bundle], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
