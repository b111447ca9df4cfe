"""`python -m zoo.plugins.child PLUGIN-AS-JSON`: imports one plugin in a process that may die, and prints the result.

Run by `zoo.plugins.probing`, with a time limit. Nothing that the plugin does here affects the calling command.
"""

import builtins
import contextlib
import os
import sys
import time
from typing import TypeVar

import msgspec

from ..errors import ZooError
from ..hookspecs import DescribeRequest, Family, Target, TargetRequest
from .finding import Fault, Plugin, brief
from .loading import Loaded, hook_names, import_hooks
from .probing import Probe

HEAVY = ("torch", "onnxruntime")
"""Modules that a plugin may import only inside its hooks: they would slow down every command that lists families."""

MAX_ANSWER_BYTES = 1 << 20


def main() -> None:
    plugin = msgspec.json.decode(sys.argv[1], type=Plugin)
    answer, printed = os.dup(1), _capture_stdout()
    try:
        result = examine(plugin, printed)
        data = msgspec.json.encode(result)
        if len(data) > MAX_ANSWER_BYTES:
            raise Fault(f"the description of its families has {len(data):,} bytes, the limit is {MAX_ANSWER_BYTES:,}")
    except Fault as fault:
        problem = fault.line(plugin.distribution)
        data = msgspec.json.encode(Probe(plugin=msgspec.structs.replace(plugin, problem=problem)))
    with os.fdopen(answer, "wb") as out:
        out.write(data)
    os._exit(0)  # does not wait for threads and exit handlers that the plugin left behind


def _capture_stdout() -> int:
    """Replaces stdout by a pipe that nobody reads, for C code too; returns the pipe's reading end.

    It keeps the first 64 kB; writing more fails immediately instead of waiting for a reader.
    """
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    os.dup2(writable, 1)
    return readable


def examine(plugin: Plugin, printed: int) -> Probe:
    """Imports the plugin and asks it about its families.

    Raises:
        Fault: it does anything that a plugin must not do.
    """
    built_in = dict(vars(builtins))
    before = time.process_time()  # not the clock: on a busy machine a quick import takes long
    try:
        manager = import_hooks(plugin)
        result = Probe(
            plugin=plugin,
            import_seconds=time.process_time() - before,
            families={
                name: _describe(Loaded(name, plugin, manager), DescribeRequest(family=name), Family)
                for name in plugin.families
            },
            targets={
                name: _describe(Loaded(name, plugin, manager), TargetRequest(target=name), Target)
                for name in plugin.targets
            },
            hooks=hook_names(manager),
        )
    except Fault as e:
        result = e
    except BaseException as e:  # even a KeyboardInterrupt that the plugin itself raised
        result = Fault(f"it raised {brief(e)} while it was loaded")
    # What it printed is reported first: a full pipe may also be why a print failed.
    if text := _first_line(printed):
        raise Fault(f"it prints while it is loaded ('{text}'), which would spoil the output of commands")
    if isinstance(result, Fault):
        raise result
    if replaced := [name for name, value in built_in.items() if vars(builtins).get(name) is not value]:
        raise Fault(f"it replaces Python's own {replaced[0]} while it is loaded, for the whole process")
    if heavy := [name for name in HEAVY if name in sys.modules]:
        raise Fault(f"it imports {' and '.join(heavy)} while it is loaded; a plugin must do that inside its hooks")
    return result


def _first_line(printed: int) -> str:
    with contextlib.suppress(OSError, ValueError):  # the pipe is full, or the plugin closed stdout
        sys.stdout.flush()
    try:
        return os.read(printed, 60).decode("utf-8", "replace").strip().partition("\n")[0] or "…"
    except BlockingIOError:
        return ""


Described = TypeVar("Described", Family, Target)


def _describe(loaded: Loaded, request: object, answer: type[Described]) -> Described:
    """A family's or target's description of itself, as plain data of the right types."""
    kind = answer.__name__.lower()
    hook = f"describe_{kind}"
    try:
        plain = msgspec.convert(msgspec.to_builtins(loaded.ask(hook, request)), answer)
    except ZooError as e:
        raise Fault(f"its hook {hook} failed: {e}") from e
    except (TypeError, ValueError, RecursionError) as e:
        raise Fault(f"{hook}('{loaded.name}') returned a {answer.__name__} with a wrong field: {e}") from e
    if plain.name != loaded.name:
        raise Fault(f"the {kind} '{loaded.name}' in its metadata calls itself '{plain.name}'")
    if "\n" in plain.summary or not 0 < len(plain.summary) <= 300:
        raise Fault(f"the summary of the {kind} '{loaded.name}' is not one line of at most 300 characters")
    return plain


if __name__ == "__main__":
    main()
