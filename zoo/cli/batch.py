"""`zoo batch`: a task over any number of inputs."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from ..errors import InvalidFileError, UsageError
from ..text import safe_text
from .options import MODEL, OUT, TaskCommand, number, option, set_option
from .output import as_json_line, note, progress
from .output import path as print_path
from .run import DEVICES, ISOLATE, ISOLATE_HELP, locate_with_progress

FORMATS = click.Choice(["parquet", "files", "tar", "safetensors"])


@click.command("batch", cls=TaskCommand)
@click.argument("model", type=MODEL)
@click.argument("task")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@option("--out", required=True, type=OUT, metavar="FOLDER", help="Folder of the outputs: new, or one to go on with.")
@option("--format", "form", type=FORMATS, default="parquet", show_default=True, help="What a shard is written as.")
@option("--shard-size", type=number(1, 1_000_000), default=1000, show_default=True, help="Inputs in a shard.")
@option("--workers", type=number(1, 1024), metavar="N", help="Processes.  [default: one a core; on CUDA, one]")
@option("--batch-size", type=number(1, 10_000), metavar="N", help="Inputs that are computed at a time.  [default: 64]")
@option("--column", metavar="NAME", help="Column of Parquet files that has the inputs.  [default: the only one]")
@set_option("PORT=VALUE", "Another input of the task: --set label=sneaker --set seed=1")
@option("--invert", is_flag=True, help="Make a negative of each picture, e.g. for white on black.")
@option("--fit", is_flag=True, help="Scale pictures to the model's own size, without cropping.")
@option("--max-errors", type=number(0), metavar="N", help="Stop, with exit code 4, after more than N inputs failed.")
@option("--resume", is_flag=True, help="Keep the shards that are there; this is always done.")
@option("--device", type=DEVICES, default="auto", show_default=True)
@option(*ISOLATE, default=None, help=ISOLATE_HELP)
@option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--json", "as_data", is_flag=True, help="Print a line of JSON for each shard.")
def command(
    model: str, task: str, inputs: tuple[str, ...], out: Path, form: str, shard_size: int, workers: int | None,
    batch_size: int | None, column: str | None, assignments: tuple[str, ...], invert: bool, fit: bool,
    max_errors: int | None, resume: bool, device: str, isolated: bool | None, registries: tuple[str, ...],
    as_data: bool,
) -> None:  # fmt: skip
    """Run a task over any number of inputs, in several processes, into shards that are written whole or not at all.

    IN is files, folders, patterns, lists (@FILE), arrays (.npz, .npy, IDX), Parquet files with a column of files, and
    tars as WebDataset uses them. Each shard's name has the digest of its inputs, the model, the task and its options.
    The same command again makes what is missing, after any end; nothing that is there is made twice.

    Inputs that cannot be read are listed in FOLDER/errors.jsonl, and the exit code is 4 if there are any, or with
    --max-errors, if there are more than that.

    \b
    Example:
      zoo batch vqvae-fashion encode photos/ --out tokens
      zoo batch vqvae-fashion encode 'clothes/*.parquet' --column image --out tokens
      zoo batch judge-fashion classify clothes.tar --out labels --max-errors 100
    """
    from ..run.shards.command import Asked, Run

    bundle = locate_with_progress(model, registries, isolated, prepares=False)
    asked = Asked(
        model, bundle, task, list(inputs), str(out), form, shard_size, workers, batch_size, column,
        _given(assignments), invert, fit, device, isolated, list(registries),
    )  # fmt: skip
    start, failed = time.perf_counter(), 0
    changes: Counter[str] = Counter()
    first: dict[str, str] = {}
    made = there = 0
    used = ""
    begun = Run(asked)
    if as_data:
        as_json_line({"event": "start", "model": bundle.reference, "digest": bundle.digest, "task": begun.task,
                      "out": str(out), "inputs": begun.count})  # fmt: skip
    with begun as events, progress(begun.count, begun.task, unit=" inputs", silent=as_data) as bar:
        for event in events:
            if isinstance(event, int):
                bar.update(event)
                continue
            failed += event.failed
            made, there = made + event.inputs * event.made, there + event.inputs * (not event.made)
            used = event.device or used
            for what, (count, line) in event.notes.items():
                changes[what] += count
                first.setdefault(what, line)
            if as_data:
                as_json_line({"event": "shard", "shard": event.name, "inputs": event.inputs, "failed": event.failed,
                              "made": event.made})  # fmt: skip
            if max_errors is not None and failed > max_errors:
                break
    seconds = time.perf_counter() - start
    for what, count in changes.items():
        note(first[what] + (f"; likewise {count - 1:,} more" if count > 1 else ""))
    if as_data:
        as_json_line({"event": "end", "inputs": made + there, "made": made, "failed": failed,
                      "seconds": round(seconds, 3)})  # fmt: skip
    else:
        print_path(out)
        on = f"on {used.partition(':')[0]}, " if used else ""
        rate = f" in {seconds:.1f} s ({made / seconds:.1f}/s)" if made else ""
        note(f"{on}{made:,} inputs{rate}" + (f"; {there:,} were there" if there else ""))
    if failed > (max_errors or 0):
        stopped = ", so it stopped" if max_errors is not None else ""
        raise InvalidFileError(
            f"{failed:,} input{'s' if failed > 1 else ''} failed{stopped}; {safe_text(out / 'errors.jsonl')} names"
            f" {'them' if failed > 1 else 'it'}"
        )


def _given(assignments: tuple[str, ...]) -> dict[str, Any]:
    """The options of the task: numbers, and texts such as names of classes."""
    given: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise UsageError(f"--set {safe_text(text)[:80]} has no value; e.g. --set steps=10")
        try:
            number: Any = int(value)
        except ValueError:
            try:
                number = float(value)
            except ValueError:
                number = value.strip()
        given[name.strip().replace("-", "_")] = number
    return given
