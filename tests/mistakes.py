"""Runs command lines of `zoo`, each in a fork with a time limit: test_mistakes.py sends them, and reads the answers.

    python -m tests.mistakes [torch]

A JSON line on stdin is a call: its words (as the shell would pass them, in base64), and the streams to close; the line
that comes back has its exit code, stdout and stderr. What takes long to import is imported once, before the first fork.
A process with torch takes 30 ms to fork and to end, one without it 5 ms: only the commands that make models need it.
"""

import base64
import ctypes
import functools
import gc
import importlib
import json
import os
import signal
import sys
import tempfile

SECONDS = 20

IMPORTED = (
    "onnx", "onnxruntime", "PIL.Image", "PIL.PngImagePlugin", "requests", "tenacity", "tqdm", "filelock", "jinja2",
    "zoo.doctor", "zoo.graph.check", "zoo.run.outputs", "zoo.run.replay", "zoo.run.serve.server", "zoo.ship.export",
    "zoo.store.check_apart", "zoo.store.publish",
)  # fmt: skip

WITH_TORCH = (
    "torch", "torchmetrics.functional.image", "zoo_judge.training", "zoo_vqvae.training", "zoo.build.begin",
    "zoo.build.bundling", "zoo.build.evaluate", "zoo.build.foreign", "zoo.build.measure", "zoo.build.conformance",
)  # fmt: skip


def main(torch: bool) -> None:
    for name in (*IMPORTED, *(WITH_TORCH if torch else ())):
        importlib.import_module(name)
    from tests.cli.tree import leaves
    from zoo.plugins import metadata
    from zoo.store import transport
    from zoo.system import paths

    metadata._mentioning = functools.cache(functools.partial(_listed, metadata._mentioning))
    for group in ("zoo", "zoo.commands", "zoo.registry", "zoo.reserved"):
        metadata._mentioning(group)
    leaves()  # imports every command
    paths.PIPE_SECONDS = 0.2
    transport.BACKOFF_SECONDS = 0.01
    transport.CONNECT_SECONDS = transport.SILENCE_SECONDS = 2.0
    obey_modes()
    gc.collect()
    gc.freeze()  # else a collection in a fork copies all pages of this process
    for line in sys.stdin:
        call = json.loads(line)
        words = [os.fsdecode(base64.b64decode(word)) for word in call["words"]]
        print(json.dumps(answer(words, call["closed"])), flush=True)


def _listed(read, group: str) -> list:
    return list(read(group))


def obey_modes() -> None:
    """Gives up the right of root to read and write whatever a file's mode says: users are not root."""
    if os.getuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of the effective set
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def answer(words: list[str], closed: list[str]) -> dict:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            run(words, closed, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return {"code": os.waitstatus_to_exitcode(status), "out": texts[0][-4000:], "err": texts[1][-4000:]}


def run(words: list[str], closed: list[str], out: int, err: int) -> None:
    """In the fork: what a new process would do, but with everything imported."""
    signal.alarm(SECONDS)  # which ends the process
    os.environ["HOME"] = os.environ["ZOO_HOME"]
    null = os.open(os.devnull, os.O_RDONLY)
    for number, (name, file) in enumerate((("stdin", null), ("stdout", out), ("stderr", err))):
        if name in closed:  # what Python has when it starts like this
            setattr(sys, name, None)
            os.close(number)
        else:
            os.dup2(file, number)
    code: object = 70
    try:
        from zoo.cli import main as zoo

        zoo(words, prog_name="zoo")
    except SystemExit as e:
        code = e.code
    except BaseException:
        import traceback

        os.write(err, traceback.format_exc().encode("utf-8", "backslashreplace"))
        os._exit(1)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main(torch="torch" in sys.argv)
