"""`zoo run` on many pictures: its options, its progress, and what it prints."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidFileError, UsageError, ZooError
from ..text import safe_text
from .options import OnceOption
from .output import as_json, note, path, progress

if TYPE_CHECKING:
    from ..ports.kind import Option
    from ..run.batches import BatchSize
    from ..run.model import Model

ONE_EACH = "--out 'out/{stem}.png'"

_PICTURE = re.compile(r"-|[^@*?[][^*?[]*\.(png|jpe?g|webp|gif|bmp)", re.IGNORECASE)
"""A word that is one picture, judged by its name."""
_EACH = re.compile(r"[{}]|\.(csv|jsonl|parquet)$", re.IGNORECASE)
"""What may ask for a file or a row per picture, in the name of the output."""


def many_options(main: Option | None) -> list[click.Parameter]:
    """The options for many pictures, of a task that takes or draws any number."""
    from ..ports.kind import MAX_BATCH

    size = click.IntRange(1, MAX_BATCH)
    options: list[click.Parameter] = [
        OnceOption(["--batch-size"], type=size, metavar="N", help="Pictures at a time.  [default: as fit the memory]"),
        OnceOption(["--resume"], is_flag=True, help="Only make what is missing from --out."),
    ]
    if main and main.multiple:
        options += [
            OnceOption(["--from-file"], metavar="FILE", help="A list of files, one a line; -: stdin."),
            OnceOption(["--keep-going"], is_flag=True, help="Name files that cannot be read, and pass over them."),
        ]
    return options


def run_if_many(
    model: Model, task_name: str, main: Option | None, given: dict[str, Any], options: dict[str, Any],
    say: Callable[[str], None], notes: list[str],
) -> BatchSize | bool | None:  # fmt: skip
    """Runs a call whose outputs get a file or a row each, and returns True.

    For others, puts the pictures that folders, patterns and lists stand for into `given`, and returns the size of the
    batches; None if it is not given.
    """
    from ..run.outputs import check_out
    from ..run.products import refuse_product

    task, out, name = model.manifest.tasks[task_name], options["out"], main.name if main and main.multiple else ""
    words = list(given.get(name) or ())
    asks = [options.get(option) for option in ("from_file", "batch_size", "keep_going", "resume")]
    if not any(asks) and all(map(_PICTURE.fullmatch, words)) and not _EACH.search(out or ""):  # the usual case: at once
        check_out(task_name, task, out)
        refuse_product(options["lists"], len(words))
        return None
    from ..run.batches import MOST_AT_ONCE, BatchSize
    from ..run.naming import any_for_several, placeholders
    from ..run.tables import is_table

    lists = [options["from_file"]] if options.get("from_file") else []
    kinds = set(placeholders(out))
    table = is_table(out)
    flags = [flag for flag in ("keep_going", "resume") if options.get(flag)]
    several = bool(lists) or any_for_several(words)
    if kinds != {"i"} or several or flags or options["batch_size"]:
        one_each = bool(kinds) or table
    else:  # a few are one batch, as are those without a file each
        one_each = max(options.get("number") or 1, len(words)) > MOST_AT_ONCE
    if options.get("sheet") and (kinds or one_each):
        raise UsageError("--sheet is one picture; give --out a name without braces")
    if options.get("show") and one_each:
        raise UsageError(f"--show is for a few pictures; these get a file or a row each: {safe_text(out)}")
    if table and options.get("scale"):
        raise UsageError("--scale is for pictures, not for a table")
    if one_each and options["example"]:
        raise UsageError("--example is for one call; it does not go with a file or a row per picture")
    if flags and not one_each:
        raise UsageError(f"--{flags[0].replace('_', '-')} needs a file or a row per picture: {ONE_EACH}, or a table")
    if one_each:
        from ..run.many import find

        given.pop(name, None)
        items = find(words, lists, *_endings(main))
        refuse_product(options["lists"], len(items))
        lists += [word[1:] for word in words if word.startswith("@")]
        _run_many(model, task_name, name or None, items, lists, given, options, say, notes)
        return True
    check_out(task_name, task, out)
    if several:
        from ..run.many import find

        given[name] = _together(find(words, lists, *_endings(main)))
    refuse_product(options["lists"], len(given.get(name) or ()))
    return BatchSize(options["batch_size"]) if options["batch_size"] else None


def _endings(main: Option | None) -> tuple[Collection[str], Collection[str]]:
    """What a folder stands for: files with one of these endings each, and the frames of one value."""
    return (main.folder, main.frames) if main else ((), ())


def _together(items: list[Any]) -> list[Any]:
    """Pictures that become one file."""
    from ..ports.kind import MAX_BATCH

    if len(items) > MAX_BATCH:
        raise UsageError(f"{len(items):,} pictures are too many for one file; give each its own: {ONE_EACH}")
    return [item.read() if item.stack else item.path for item in items]


def _run_many(
    model: Model, task_name: str, main: str | None, items: list[Any], lists: list[str], given: dict[str, Any],
    options: dict[str, Any], say: Callable[[str], None], notes: list[str],
) -> None:  # fmt: skip
    from ..run.many import Asked, Many

    as_data = options["json"]
    failures: list[str] = []
    changes: Counter[str] = Counter()
    first: dict[str, str] = {}

    def count(line: str) -> None:
        """What is changed in a picture is reported at the end, once for all of them."""
        what = line.rpartition(": ")[2]
        if what == line:
            say(line)
            return
        changes[what] += 1
        first.setdefault(what, line)

    def failed(shown: str, error: ZooError) -> None:
        failures.append(shown)
        note(f"{error}: passed over")

    asked = Asked(
        {k: v for k, v in given.items() if v is not None and v != ()}, main, items, options["number"],
        options["out"], options.get("tile"), bool(options.get("invert")), bool(options.get("fit")),
        options.get("scale"), options["batch_size"], bool(options.get("keep_going")), bool(options["resume"]), lists,
    )  # fmt: skip
    many = Many(model, task_name, asked, count)
    todo = len(many.todo)
    if asked.resume:
        say(f"{many.number - todo:,} of {many.number:,} are there; {todo:,} {'is' if todo == 1 else 'are'} missing")
    with progress(todo, "looking at files", unit="") as bar:
        many.check_files(bar.update)
    result, paths, start = None, [], time.perf_counter()
    with progress(todo, f"{task_name}", unit=" pictures", silent=as_data) as bar:
        for made in many.run(failed) if todo else ():
            result = made.result
            bar.update(made.count)
            if as_data:
                paths += made.paths
            else:
                for place in made.paths:
                    path(place)
    seconds = time.perf_counter() - start
    for what, number in changes.items():
        say(first[what] + (f"; likewise {number - 1:,} more" if number > 1 else ""))
    if result and result.left_on_cpu:
        say("left on the CPU: " + ", ".join(f"{n} {op}" for op, n in result.left_on_cpu.items()))
    done = todo - len(failures)
    if as_data:
        as_json(
            {
                "model": model.reference, "digest": model.digest, "task": task_name,
                "paths": [options["out"]] if many.table else paths, "values": {}, "seed": many.seed,
                "provider": result.provider if result else None, "device": result.device if result else None,
                "seconds": round(seconds, 4), "notes": notes, "pictures": done, "failed": failures,
            }
        )  # fmt: skip
    else:
        if many.table:
            path(options["out"])
        if result:
            device, colon, why_not_cuda = result.device.partition(": ")
            rate = f"{done:,} pictures in {seconds:.2f} s ({done / seconds:.1f}/s)"
            note(f"on {device}, {rate}{colon}{why_not_cuda}")
    if failures:
        raise InvalidFileError(
            f"{len(failures):,} of {todo:,} picture{'s' if todo > 1 else ''} could not be read:"
            f" {safe_text(failures[0])}" + (", …" if len(failures) > 1 else "")
        )
