"""Browsers: a static page, with onnxruntime-web's pinned files in the folder itself."""

import hashlib
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.errors import ExportError, NotFoundError
from zoo.hookspecs import RunTargetRequest, WriteTargetRequest
from zoo.site import Site
from zoo.text import safe_text

from .common import HOSTS, LIMIT_SECONDS, copy_host, started, write_readme

PAGE = ["index.html", "style.css"]
PAGE += [f"{name}.mjs" for name in ("app", "dom", "fields", "files", "live", "outputs", "pictures", "videos", "worker")]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def write(request: WriteTargetRequest) -> None:
    runtime = HOSTS / "web" / "runtime"
    pinned = json.loads((runtime / "runtime.json").read_bytes())["files"]
    for name, sha256 in pinned.items():
        path = runtime / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise NotFoundError(
                f"the browser's runtime is not in this installation ({name}): reinstall zoo-targets, with npm installed"
            )
    copy_host(request, [*PAGE, "runtime/runtime.json", "runtime/LICENSE", *(f"runtime/{name}" for name in pinned)])
    shutil.copyfile(HOSTS / "javascript" / "ports.mjs", request.folder / "ports.mjs")
    commands = [
        ("python3 -m http.server", "any static web server works; then open the address it prints"),
        ("zoo verify . --run-host", "runs the golden cases in headless Chromium; the page also has a button for it"),
        (f"zoo play {request.manifest.name}", "the same page from zoo's own server, with more threads"),
    ]
    notes = """
Everything that the page requests is in this folder, including the runtime, whose version, SHA-256 and licence are in
`runtime/`. WebAssembly needs `.wasm` to be served as `application/wasm`; it uses several threads if the server sends
`Cross-Origin-Opener-Policy: same-origin` and `Cross-Origin-Embedder-Policy: require-corp`. WebGPU is used if there is a
GPU and it gives the golden outputs; `?device=wasm` or `?device=webgpu` in the address selects one.
"""
    write_readme(request, "the browser", commands, notes)


def browser() -> str:
    """The path of a Chromium; ZOO_CHROMIUM sets another one. Empty if there is none."""
    return os.environ.get("ZOO_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), "")


def flags(webgpu: bool = False) -> list[str]:
    """Chromium's options for running without a screen, with WebGPU on SwiftShader, which does not need a GPU."""
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    software = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    return ["--no-first-run", "--disable-background-networking", *root, *(software if webgpu else [])]


def run(request: RunTargetRequest) -> str:
    found = browser()
    if not found:
        raise NotFoundError("no Chromium is installed: apt-get install chromium, or set ZOO_CHROMIUM to one")
    said: dict[str, str] = {}
    ended = threading.Event()

    def keep(path: str, body: bytes) -> None:
        name = path.rsplit("/", 1)[-1]
        if name in ("done", "failed"):
            said[name] = body.decode("utf-8", "replace")
            ended.set()
        elif name.endswith(".bin") and not name.startswith("."):
            (request.out / Path(name).name).write_bytes(body)

    site = Site(request.folder, on_post=keep)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    with TemporaryDirectory(prefix="zoo-browser-", ignore_cleanup_errors=True) as profile:
        address = f"{site.url}?device=wasm&report=./outputs"
        command = [
            found,
            "--headless=new",
            *flags(),
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
            address,
        ]
        try:
            with started(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
                if not ended.wait(LIMIT_SECONDS):
                    raise ExportError(f"the page did not finish within {LIMIT_SECONDS} s")
        finally:
            site.shutdown()
            site.server_close()
    if "failed" in said:
        raise ExportError(f"the page failed: {safe_text(said['failed'])[:500]}")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.strip()
    return f"{version}, onnxruntime-web 1.30.0 in {said['done']}"
