"""Pulling a 200 MB model, compared with `curl` of the same bytes, from one loopback server to one disk, in turns.

    python bench/pull.py [--megabytes 200] [--rounds 5] [--folder FOLDER]

Three ways, interleaved; the ratio is of the medians:
    curl          writes the file and leaves it in the page cache: no hash, no fsync
    curl + fsync  the same, then fsync of the file, as a pull does before it shows anything
    pull          `Store.pull` in a fresh process: manifest, every file fetched, SHA-256, fsync, read-only, linked into
                  a view, folders synced. The graph check is timed separately: it does not depend on the size of the
                  weights.
A pull is compared with `curl + fsync`, since both end with the bytes on the disk; the ratio to plain curl is printed
too. Imports of the process are not counted; its peak memory is.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

PULL = """
import json, sys, time
from pathlib import Path
import requests, tenacity, filelock
from bench.measuring import peak_memory
from zoo.formats import registry
from zoo.formats.reference import Reference
from zoo.store import check_apart as apart
from zoo.store import transport
from zoo.store.store import Store
url, root = sys.argv[1], Path(sys.argv[2])
checking = 0.0
def timed(folder, check=apart.check_apart):
    global checking
    begin = time.perf_counter()
    findings = check(folder)
    checking = time.perf_counter() - begin
    return findings
apart.check_apart = timed
known = registry.parse(transport.read_small(url, 1 << 20), "bench", url)
entry = registry.resolve(Reference.parse("tiny"), [known])
before = peak_memory()
begin = time.perf_counter()
Store(root).pull(entry)
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds - checking, "check": checking, "before": before, "peak": peak_memory()}))
"""


class Handler(BaseHTTPRequestHandler):
    """Sends files with sendfile, like nginx, so that the server costs little."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        with (self.folder / self.path.lstrip("/")).open("rb") as f:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(f.fileno()).st_size))
            self.end_headers()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self.connection.sendfile(f)

    def log_message(self, *_: object) -> None:
        pass


def serve(folder: Path) -> None:
    """The server's process: prints its port, ends with its stdin."""
    Handler.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


def curl(url: str, target: Path, *, fsync: bool) -> float:
    begin = time.perf_counter()
    subprocess.run(["curl", "-sS", "-f", "-o", target, url], check=True)
    if fsync:
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    return time.perf_counter() - begin


def pull(url: str, root: Path) -> dict:
    done = subprocess.run([sys.executable, "-c", PULL, url, root], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; a temporary one by default")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    from tests import tiny

    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    work = Path(tempfile.mkdtemp(dir=options.folder, prefix="zoo-bench-"))
    server = None
    try:
        bundle = tiny.bundle(work / "bundle", ballast=options.megabytes * 1_000_000)
        registry = tiny.registry(work / "registry", bundle)
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", registry], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        base = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        weights, target, root = f"{base}/models/tiny/1/model.safetensors", work / "curl.bin", work / "store"
        rounds = []
        for n in range(options.rounds + 1):  # the first warms the server's page cache and is left out
            took = {"curl": curl(weights, target, fsync=False)}
            target.unlink()
            took["curl + fsync"] = curl(weights, target, fsync=True)
            target.unlink()
            result = pull(f"{base}/registry.yaml", root)
            took["pull"] = result["seconds"]
            shutil.rmtree(root)
            if n:
                rounds.append(took)
        medians = {way: statistics.median(r[way] for r in rounds) for way in rounds[0]}
        for way, seconds in medians.items():
            all_ = " ".join(f"{r[way]:.2f}" for r in rounds)
            print(f"{way:13} {options.megabytes / seconds:7.0f} MB/s   median {seconds:.2f} s of {all_}")
        print(f"graph check, once a pull: {result['check']:.2f} s")
        print(f"peak memory of the pull: {result['peak'] >> 20} MiB, {result['before'] >> 20} before it")
        print(f"ratio to curl + fsync: {medians['curl + fsync'] / medians['pull']:.2f} (goal 0.80)")
        print(f"ratio to curl without fsync: {medians['curl'] / medians['pull']:.2f}")
    finally:
        if server:
            server.stdin.close()
            server.wait()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
