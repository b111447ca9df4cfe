"""The graph check in a separate process: a graph that crashes or hangs the protobuf reader then only ends that one.

A pull runs it before a stranger's model becomes visible; `zoo pull` itself imports neither onnx nor numpy. A folder's
is done by the worker that would run it, which is started anyhow.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidFileError
from ..graph.described import to_json
from ..system.processes import describe_end, limit_memory, run_isolated

if TYPE_CHECKING:
    from ..formats.manifest import Manifest
    from ..system.worker import Worker

LIMIT_SECONDS = 300.0
LIMIT_BYTES = 2 << 30  # the largest graph that `check` parses takes a quarter of it


def check_apart(folder: Path) -> list[str]:
    """What `check` finds in a bundle's folder, one line each; a check that crashes is a finding too."""
    try:
        done = run_isolated(__name__, str(folder), seconds=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return [f"reading its graphs takes more than {LIMIT_SECONDS:g} s"]
    if done.returncode:
        return [f"reading its graphs {describe_end(done.returncode)}"]
    return json.loads(done.stdout)


def check_in(worker: "Worker", folder: Path, manifest: "Manifest") -> list[str]:
    """The same in a worker process; what it replies is a stranger's, if a graph has taken it over."""
    try:
        request = {"do": "check", "folder": str(folder.absolute()), "manifest": to_json(manifest), "close": []}
        reply = worker.request(request, "reading its graphs", seconds=LIMIT_SECONDS)
    except InvalidFileError as e:
        return [str(e)]
    findings = reply.get("findings", [reply.get("text")])
    if isinstance(findings, list) and all(isinstance(finding, str) for finding in findings):
        return findings
    worker.close()
    return ["its worker process sent a reply that zoo cannot read"]


def _main() -> None:
    limit_memory(LIMIT_BYTES)
    from ..formats import manifest
    from ..graph.check import check

    folder = Path(sys.argv[1])
    json.dump(check(folder, manifest.read(folder)), sys.stdout)


if __name__ == "__main__":
    _main()
