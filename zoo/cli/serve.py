"""`zoo serve`: answers requests for models over HTTP."""

import os
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..errors import PluginError, UsageError
from ..text import safe_text
from .options import MODEL, option
from .output import note
from .run import DEVICES, locate_with_progress

if TYPE_CHECKING:
    from ..run.serve.app import State
    from ..run.serve.repository import Opened
    from ..run.serve.rpc import Rpc
    from ..runtime import Device

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEYS = "ZOO_SERVE_API_KEYS"


@click.command("serve")
@click.argument("models", nargs=-1, required=True, type=MODEL)
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: every one.")
@option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@option("--grpc-port", type=click.IntRange(0, 65535), help="Also answer gRPC, at this port; 0: a free one.")
@option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes for each model.")
@option("--queue", type=click.IntRange(1, 100_000), default=64, show_default=True,
        help="Calls of a model that may wait; more are refused with 503.")  # fmt: skip
@option("--seconds", type=click.FloatRange(0, 86_400, min_open=True), default=600.0, show_default=True,
        help="The longest time of a call, in the queue and running.")  # fmt: skip
@option("--max-batch", type=click.IntRange(1, 4096), default=16, show_default=True,
        help="Pictures that calls which wait may have together to run as one; 1: each call alone.")  # fmt: skip
@option("--batch-ms", type=click.FloatRange(0, 1000), default=0.0, show_default=True,
        help="How long a call waits for others like it, while several clients ask.")  # fmt: skip
@option("--max-body", type=click.IntRange(1, 4096), default=64, show_default=True, help="Of a request, in MiB.")
@option("--api-key", "key_file", metavar="FILE", help=f"Ask for a key: one of those in FILE, one a line, or in {KEYS}.")
@option("--access-log", metavar="FILE", help="Write a line of JSON for each request; - for stderr.")
@option("--device", type=DEVICES, default="auto", show_default=True)
@option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
def command(
    models: tuple[str, ...], host: str, port: int, grpc_port: int | None, workers: int, queue: int, seconds: float,
    max_batch: int, batch_ms: float, max_body: int, key_file: str | None, access_log: str | None, device: "Device",
    registries: tuple[str, ...],
) -> None:  # fmt: skip
    """Answer requests for MODELS: the Open Inference Protocol under /v2, plain JSON and pictures under /v1.

    Each model runs in worker processes, which are started again if they end. The address is printed once requests are
    answered. SIGTERM or Ctrl-C stops the server after what it has accepted is answered. See docs/serving.md.

    \b
    Example:
      zoo serve vqvae-fashion ddpm-fashion
      curl -F image=@shoe.png -H 'Accept: image/png' \\
        http://127.0.0.1:8000/v1/models/vqvae-fashion/tasks/reconstruct > again.png
    """
    import asyncio
    from functools import partial

    from ..system.installation import install_command

    try:
        from ..run.serve import telemetry
        from ..run.serve.app import State
        from ..run.serve.repository import Repository
        from ..run.serve.server import listen, serve
        from ..run.serve.watching import AccessLog
        from ..run.serve.workers import Calls
    except ImportError as e:
        if e.name and e.name.startswith("zoo"):
            raise
        raise PluginError(f"zoo serve needs {e.name}: {install_command('serve')}") from None
    from .. import __version__

    if twice := next((name for name in models if models.count(name) > 1), None):
        raise UsageError(f"{safe_text(twice)} is named twice")
    if not 0 < seconds <= 86_400:  # NaN is in every range of click's
        raise UsageError(f"--seconds is {seconds}; it must be above 0, and at most 86400")
    if not 0 <= batch_ms <= 1000:
        raise UsageError(f"--batch-ms is {batch_ms}; it must be 0 .. 1000")
    keys = _keys(key_file)
    finders = {name: partial(_find, name, registries, workers, device) for name in models}
    repository = Repository(finders, Calls(queue, seconds, max_batch, batch_ms / 1000))
    hosts = LOOPBACK if host in LOOPBACK else ()
    state = State(repository, __version__, keys, hosts, max_body << 20)
    if access_log is not None:
        state.watchers.append(AccessLog(_log(access_log)))
    sock = listen(host, port)
    rpc = [_rpc(state, sock.getsockname()[0], grpc_port)] if grpc_port is not None else []
    if not hosts and not keys:
        note("anybody who reaches this address can use the models: --api-key asks for a key")
    address = f"[{host}]" if ":" in host else host

    def ready() -> None:
        click.echo(f"http://{address}:{sock.getsockname()[1]}/")
        for one in rpc:
            click.echo(f"grpc://{address}:{one.port}")

    end = telemetry.start(__version__)
    with sock:
        asyncio.run(serve(sock, state, lambda line: note(f"Error: {line}"), ready, seconds, rpc))
    end()
    note("stopped")


def _rpc(state: "State", host: str, port: int) -> "Rpc":
    from ..system.installation import install_command

    try:
        from ..run.serve.rpc import Rpc
    except ImportError as e:
        if e.name and e.name.startswith("zoo"):
            raise
        raise PluginError(f"zoo serve --grpc-port needs {e.name}: {install_command('grpc')}") from None
    return Rpc(state, host, port)


def _find(name: str, registries: tuple[str, ...], workers: int, device: "Device") -> "Opened":
    """The model, with worker processes of its own; fetched if it is not available locally."""
    from dataclasses import replace
    from functools import partial

    from ..run.model import Model
    from ..run.serve.repository import Opened
    from ..system.worker import Worker

    bundle = locate_with_progress(name, registries, True)
    assert bundle.worker
    processes = [bundle.worker, *(Worker(bundle.reference) for _ in range(workers - 1))]
    openers = [partial(Model, replace(bundle, worker=one), device, share=workers) for one in processes]
    manifest = bundle.manifest

    def ids() -> list[int]:
        return [number for one in processes for number in one.processes]

    closers = [one.close for one in processes]
    return Opened(manifest.name, manifest.version, dict(manifest.tasks), openers, closers, ids)


def _log(file: str) -> TextIO:
    """The file of the log, to which lines are added.

    Raises:
        ZooError: it cannot be written, or is no file.
    """
    import stat
    import sys

    from ..system.paths import cannot_write, user_path

    if file == "-":
        return sys.stderr
    path = user_path(file, out=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)  # a pipe does not wait for a reader
    try:
        number = os.open(path, flags, 0o644)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise UsageError(f"--access-log {safe_text(file)[:200]} is no file; - is stderr")
        return os.fdopen(number, "a", encoding="utf-8")
    except OSError as e:
        raise cannot_write(path, e) from None


def _keys(file: str | None) -> list[str]:
    """The keys from the file and from the environment.

    Raises:
        ZooError: the file cannot be read, or has none.
    """
    from ..system.paths import read_file, user_path

    text: Any = os.environ.get(KEYS, "")
    if file is not None:
        try:
            text += "\n" + read_file(user_path(file), 1 << 20).decode("ascii")
        except UnicodeDecodeError:
            raise UsageError(f"--api-key {safe_text(file)}: keys are ASCII, one a line") from None
    keys = text.replace(",", " ").split()
    if (file is not None or KEYS in os.environ) and not keys:
        raise UsageError(f"there is no key in {safe_text(file) if file is not None else KEYS}")
    return keys
