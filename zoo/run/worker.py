"""The process in which a stranger's model runs: opens its graphs and runs them, as `zoo.system.worker` asks.

    python -m zoo.run.worker MEMORY FILE LIFELINE [MODULE…]

MEMORY is its limit in bytes; FILE the descriptor (on Windows: the path) of the file for arrays; LIFELINE the
descriptor of a pipe that ends when the parent does (`-`: there is none); each MODULE is imported before the first
request, while the parent is busy with other things.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ..errors import ZooError
from ..system.processes import limit_memory

if TYPE_CHECKING:
    from ..runtime import Session


def main(memory: int, file: str, lifeline: int | None, modules: Sequence[str] = ()) -> None:
    """Answers requests until the parent closes the pipe."""
    requests, replies = serve_parent(lifeline)
    limit_memory(memory)
    shared: Any = os.fdopen(os.open(file, os.O_RDWR) if os.name == "nt" else int(file), "r+b", buffering=0)
    for module in modules:
        with suppress(Exception):  # without ONNX Runtime, opening a session gives the line for it
            import_module(module)

    sessions: dict[int, Session] = {}
    for line in requests:
        try:
            reply = _answer(json.loads(line), sessions, shared)
        except ZooError as e:
            reply = {"error": type(e).__name__, "text": str(e)}
        except MemoryError:
            reply = {"error": "InvalidFileError", "text": f"it needs more memory than the limit of {memory:,} bytes"}
        replies.write(json.dumps(reply).encode() + b"\n")


def _answer(request: dict[str, Any], sessions: dict[int, Session], shared: BinaryIO) -> dict[str, Any]:
    for number in request["close"]:
        sessions.pop(number, None)
    if request["do"] == "check":
        return _check(Path(request["folder"]), request["manifest"])
    if request["do"] == "open":
        return _open(request, sessions)
    return _run(request, sessions[request["session"]], shared)


def _check(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    from ..graph.check import check
    from ..graph.described import from_json

    return {"findings": check(folder, from_json(manifest))}


def _open(request: dict[str, Any], sessions: dict[int, Session]) -> dict[str, Any]:
    from ..runtime import open_session

    graph, device = Path(request["graph"]), request["device"]
    session = open_session(graph, device, threads=request["threads"], exact=request["exact"])
    sessions[request["session"]] = session
    return {
        "inputs": session.inputs, "outputs": session.outputs,
        "provider": session.provider, "reason": session.reason, "runtime": session.runtime_version,
    }  # fmt: skip


def _run(request: dict[str, Any], session: Session, shared: BinaryIO) -> dict[str, Any]:
    from .isolated import read_arrays, write_arrays

    outputs = session.run(read_arrays(shared, request["arrays"]))
    return {"arrays": write_arrays(shared, outputs), "left_on_cpu": session.left_on_cpu}


def serve_parent(lifeline: int | None) -> tuple[BinaryIO, BinaryIO]:
    """The pipes of requests and of replies; this process ends with its parent, which alone decides about Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if lifeline is not None:
        end_with_parent(lifeline)
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    with Path(os.devnull).open("r+b") as nothing:  # whatever prints must not write into the replies
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    return requests, cast(BinaryIO, replies)


def end_with_parent(lifeline: int) -> None:
    """Ends this process as soon as its parent has ended, even in the middle of a kernel.

    On Linux the system sends a signal, whose default is to end the process, when the pipe's other end is closed. It
    is not `prctl(PR_SET_PDEATHSIG)`, which fires already when the thread ends that started this process.
    """
    import fcntl
    import threading

    if sys.platform == "linux":
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def wait() -> None:  # where there is no such signal, or the parent ended before it was set up
        os.read(lifeline, 1)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    _, memory, file, lifeline, *modules = sys.argv
    main(int(memory), file, None if lifeline == "-" else int(lifeline), modules)
