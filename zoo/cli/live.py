"""`zoo live`: draws what each line of stdin says, at once."""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError, ZooError
from ..text import safe_text
from .compare import assigned
from .options import MODEL, SEED, option, set_option
from .output import as_json_line, note, path
from .run import DEVICES, ISOLATE, ISOLATE_HELP, locate_with_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..hookspecs import Task
    from ..runtime import Device


@click.command("live")
@click.argument("model", type=MODEL)
@click.argument("task", required=False)
@option("--out", metavar="FILE", help="One file, replaced each time, or one each with {index}.  [default: live.png]")
@option("--latest", is_flag=True, help="Of the lines that came during a call, only take the newest.")
@option("--seed", type=SEED, metavar="N", help="Of every picture whose line has none.  [default: random, and printed]")
@set_option("OPTION=NUMBER", "Another option of every call, e.g. steps=1.")
@option("--device", type=DEVICES, default="auto", show_default=True)
@option(*ISOLATE, default=None, help=ISOLATE_HELP)
@option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--json", "as_data", is_flag=True, help="Print one JSON object for each line.")
def command(
    model: str, task: str | None, out: str | None, latest: bool, seed: int | None, assignments: tuple[str, ...],
    device: "Device", isolated: bool | None, registries: tuple[str, ...], as_data: bool,
) -> None:  # fmt: skip
    """Read lines from stdin and run TASK on each at once; the model is opened once. For scripts and editors.

    A line is a text, a class name or a file, whichever the task takes, or a JSON object of its options. FILE is
    replaced in one step, so a viewer that watches it never sees half a picture; - is stdout. A line that is wrong is
    reported in one line, and the next one is read. The end of stdin or Ctrl-C ends it.

    \b
    Example:
      zoo live ddpm-fashion-fast --seed 7
      echo '{"label": "sneaker", "seed": [1, 2, 3, 4]}' | zoo live ddpm-fashion-fast --out 'drawn-{index}.png'
    """
    from ..ports.kinds import drawn
    from ..run.call import options_of
    from ..run.live import Newest, main_port, split_lines
    from ..run.model import Model
    from ..run.outputs import artifacts_of, check_out, free_path
    from ..system.processes import Terminated

    if as_data and out == "-":
        raise UsageError("--json and --out - both write to stdout; choose one")
    found = Model(locate_with_progress(model, registries, isolated), device)
    name, declared = found.manifest.task(task)
    given: dict[str, Any] = dict(map(assigned, assignments))
    if seed is not None:
        if not (seeds := drawn(declared.inputs)):
            raise UsageError(f"{name} has no seed")
        if seeds[0] in given:
            raise UsageError(f"--seed and --set {seeds[0]}=… name the seed twice; give one of the two")
        given[seeds[0]] = seed
    options = {one.name for one in options_of(declared)}
    if unknown := next((key for key in given if key not in options), None):
        raise UsageError(f"--set {safe_text(unknown)[:80]}=…: {name} takes {', '.join(sorted(options))}")
    _check_name(out)
    check_out(name, declared, _named(out, 0, 0))
    form = artifacts_of(declared)[0].form
    if out is None and not form.printed:
        out = str(free_path("live", form.suffixes[0]))
    session = found.session(name)  # opened while one thinks about the first line
    note(f"{found.reference} {name}, on {session}: a line is {main_port(declared)}, or a JSON object of its options")
    lines: Any = enumerate(split_lines(_stdin()), 1)
    if latest:
        lines = Newest(lines)
    index = dropped = 0
    try:
        for number, line in lines:
            if not line.strip():
                continue
            left_out = (lines.dropped if latest else 0) - dropped
            dropped += left_out
            try:
                event = _draw(found, name, declared, given, line, out, index)
            except ZooError as e:
                if as_data:
                    as_json_line({"line": number, "error": safe_text(e), "dropped": left_out})
                else:
                    note(f"Error: line {number}: {e}")
                continue
            index += 1
            if as_data:
                as_json_line({"line": number, **event, "dropped": left_out})
                continue
            left = f", {left_out} older line{'s' * (left_out > 1)} dropped" if left_out else ""
            seeded = "" if event["seed"] is None else f"seed {event['seed']}, "
            note(f"{seeded}{event['ms']} ms{left}")
            for place in event["paths"]:
                path(place)
            if event["values"]:
                as_json_line(event["values"])
    except (KeyboardInterrupt, Terminated):
        note("stopped")


def _draw(
    model: Any, name: str, task: "Task", fixed: dict[str, Any], line: bytes, out: str | None, index: int
) -> dict[str, Any]:
    """Runs one line and writes its outputs; what there is to say about it."""
    from functools import partial

    from ..run.call import execute, gather
    from ..run.live import given_in
    from ..run.outputs import write_file, write_outputs

    notes: list[str] = []
    call = gather(model, name, {**fixed, **given_in(line, name, task)}, note=notes.append)
    result = execute(model, call)
    written = write_outputs(model, call, result, _named(out, index, call.seed), partial(write_file, synced=False))
    return {
        "index": index, "paths": written.paths, "values": written.values, "seed": call.seed,
        "ms": round(1000 * result.seconds, 1), "device": result.device,
        "notes": [text for text in notes if not text.startswith("seed ")],
    }  # fmt: skip


def _stdin() -> "Callable[[int], bytes]":
    """Reads what is there, without the lock of Python's own stdin, with which no thread may wait at exit."""
    from ..system.paths import cannot_read

    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):  # in tests
        return sys.stdin.buffer.read

    def read(most: int) -> bytes:
        try:
            return os.read(number, most)
        except OSError as e:
            raise cannot_read("stdin", e) from None

    return read


def _check_name(out: str | None) -> None:
    """Refuses placeholders that a line cannot fill."""
    from ..run.naming import check_braces, placeholders

    check_braces(out)
    if other := next((name for name in placeholders(out) if name not in ("index", "i", "seed")), None):
        raise UsageError(f"--out contains {{{safe_text(other)}}}; here it may contain {{index}}, {{i}}, {{seed}}")


def _named(out: str | None, index: int, seed: int | None) -> str | None:
    """The name of a picture's file."""
    from ..run.naming import fill

    return out and fill(out, {"index": index, "i": index, "seed": "seeds" if seed is None else seed})
