"""`zoo export`: exports a model to another stack."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..errors import UsageError
from ..text import human_bytes
from .options import MODEL, OUT, PATH, number, option, set_option
from .output import as_json, note, path, table
from .run import ISOLATE, ISOLATE_HELP

if TYPE_CHECKING:
    from ..hookspecs import Metric
    from ..ship.compatibility import TaskReport
    from ..ship.export import Export
    from ..ship.precision import Cost
    from ..store.locate import Bundle


@click.command("export")
@click.argument("model", type=MODEL)
@option("--target", required=True, metavar="TARGET", help="The stack; `zoo plugin list` shows the installed targets.")
@option("-o", "--out", type=OUT, required=True, help="The folder to write.")
@option("--task", "tasks", multiple=True, metavar="TASK", help="Only export this task; may be repeated.")
@option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True)
@option("--data", type=PATH, help="For fp16 and int8: pictures to measure the loss on.")
@option("--judge", metavar="MODEL", help="For fp16 and int8: a classifier, as in `zoo eval`.")
@option("--limit", type=number(2), default=1000, show_default=True, help="Pictures to measure on.")
@option(
    "--samples", type=number(2, 1_000_000), help="How many pictures to draw, for models that draw; default: --limit."
)
@set_option("PORT=NUMBER", "A port of the drawing task, e.g. steps=10.")
@option("--accept-loss", is_flag=True, help="Export even if a metric gets worse by more than 2 % or 2 points.")
@option("--shape", multiple=True, metavar="DIMENSION=N,…", help="For onnx: fix sizes, e.g. batch=1,height=28,width=28.")
@option("--constant", "constants", multiple=True, metavar="PORT=VALUE", help="For onnx: fix an input, e.g. steps=20.")
@option("--opset", type=number(17, 18), help="For onnx: the graphs' opset, where they have a form in it.")
@option("--no-loop", is_flag=True, help="For onnx: no loop and no noise in graphs; a host draws the noise and loops.")
@option("--force", is_flag=True, help="Replace an existing export.")
@option(*ISOLATE, default=None, help=ISOLATE_HELP)
@option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--json", "json_", is_flag=True, help="Print the report as JSON.")
def command(
    model: str, target: str, out: Path, tasks: tuple[str, ...], precision: str, accept_loss: bool,
    shape: tuple[str, ...], constants: tuple[str, ...], opset: int | None, no_loop: bool, force: bool,
    isolated: bool | None, registries: tuple[str, ...], json_: bool, **options: Any,
) -> None:  # fmt: skip
    """Write a folder with MODEL that runs in another stack and checks itself against the golden cases.

    Prints a report on how the target's runtime supports each task. `zoo verify FOLDER` checks the folder again.

    fp16 stores the weights in 16 bits; int8 computes products in 8 bits, with ranges measured on training pictures. The
    loss is measured with the model's own metrics, on the same test pictures before and after.

    \b
    Example:
      zoo export vqvae-fashion --target python -o vqvae-python/
      python vqvae-python/run.py verify
      zoo export vqvae-fashion --target node -o small/ --precision int8 --data fashion-mnist/
      zoo export ddpm-fashion --target onnx -o graphs/ --no-loop --shape batch=1 --constant steps=20
    """
    from ..ship.export import check_out, export, find_target
    from ..ship.fixing import choices_from
    from .run import locate_with_progress

    check_out(out, force)
    half = find_target(target)[1].half
    bundle = locate_with_progress(model, registries, isolated, prepares=False)
    choices = choices_from(shape, constants, opset, not no_loop, bundle.manifest)
    again = _command_line(bundle, target, precision, accept_loss, options)
    with _in_precision(bundle, precision, half, accept_loss, again, isolated, options) as (lighter, cost):
        written, reports = export(lighter, target, out, tasks=tasks, force=force, cost=cost, choices=choices)
    if json_:
        as_json(written)
    else:
        _print(written, reports, cost, precision)
        path(out)


def _print(written: "Export", reports: "list[TaskReport]", cost: "list[Cost]", precision: str) -> None:
    """What was shipped, what its precision costs, and what the target makes of each task."""
    there = {r.task for r in reports if f"model/{r.task}.onnx" in written.files}
    rows = [
        (
            r.task,
            "runs" if r.task in there else "left out",
            f"opset {r.opset}, IR {r.ir_version}",
            f"{len(r.operators)} kinds" + (f", {len(r.missing)} missing" if r.missing else ""),
            ", ".join(r.control_flow) or "none",
            ", ".join(r.int64_ports) or "none",
            human_bytes(r.largest_file),
            "not requested" if r.runs and r.task not in there else r.reason,
        )
        for r in reports
    ]
    note(f"{written.model} for {written.target} ({written.runtime})")
    if cost:
        costs = [(c.name, f"{c.float32:g} {c.unit}", f"{c.now:g} {c.unit}", f"{c.worse:.2%}") for c in cost]
        table(costs, ["metric", "float32", precision, "worse by"])
    table(rows, ["task", "status", "versions", "operators", "control flow", "int64", "largest file", "reason"])


@contextlib.contextmanager
def _in_precision(
    bundle: "Bundle",
    precision: str,
    half: bool,
    accept_loss: bool,
    again: str,
    isolated: bool | None,
    given: dict[str, Any],
) -> "Iterator[tuple[Bundle, list[Cost]]]":
    """The bundle in a precision, and what that costs.

    `half`: the target computes in 16 bits. `again`: the command that repeats the measurement. `isolated`: where the
    judge runs. `given`: the options that define how the cost is measured.
    """
    if precision == "fp32":
        if accept_loss or any(given[name] not in (None, ()) for name in ("data", "judge", "samples", "assignments")):
            raise UsageError(
                "--data, --judge, --samples, --set and --accept-loss only work with --precision fp16 or int8"
            )
        yield bundle, []
        return
    if given["data"] is None:
        raise UsageError(f"--precision {precision} needs --data FOLDER, with pictures to measure the loss on")
    from ..build.data import calibration_pictures
    from ..build.measure import GENERATE, Measurement, measure
    from ..run.model import Model
    from ..ship.precision import in_precision
    from ..store.locate import locate
    from .eval import measuring

    how = Measurement(**{name: given[name] for name in ("data", "limit", "samples", "assignments")})
    drawn = f" and {how.samples or how.limit} drawn ones" if GENERATE in bundle.manifest.tasks else ""
    judge = Model(locate(given["judge"], isolated=isolated)) if given["judge"] else None

    def measured(one: "Bundle") -> "list[Metric]":
        metrics = measure(Model(one), judge, how, measuring(one.manifest.name))
        return [msgspec.structs.replace(m, command=again) for m in metrics]

    note(f"measuring {bundle.manifest.name} in float32, with {how.limit} test pictures{drawn}")
    pictures = calibration_pictures(bundle.manifest, how.data)
    with in_precision(bundle, precision, measured, pictures, note, half=half, accept_loss=accept_loss) as lighter:
        yield lighter


def _command_line(bundle: "Bundle", target: str, precision: str, accept_loss: bool, given: dict[str, Any]) -> str:
    """The command that repeats the export, into a folder called FOLDER."""
    words = ["zoo", "export", bundle.reference, "--target", target, "-o", "FOLDER", "--precision", precision]
    for name in ("data", "judge", "limit", "samples"):
        words += [f"--{name}", str(given[name])] if given[name] else []
    for assignment in given["assignments"]:
        words += ["--set", assignment]
    return shlex.join(words + (["--accept-loss"] if accept_loss else []))
