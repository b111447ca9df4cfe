"""`zoo export`: a model shipped to another stack."""

from pathlib import Path

import click

from ..text import human_bytes, safe_text
from .output import as_json, note, table


@click.command("export")
@click.argument("model")
@click.option("--target", required=True, metavar="TARGET", help="The stack; `zoo plugin list` shows those installed.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="Only this task; may be given again.")
@click.option("--force", is_flag=True, help="Replace an export that is there.")
@click.option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="Look in this registry too.")
@click.option("--json", "json_", is_flag=True, help="The report as JSON.")
def command(
    model: str,
    target: str,
    out: Path,
    tasks: tuple[str, ...],
    force: bool,
    registries: tuple[str, ...],
    json_: bool,
) -> None:
    """Write a folder in which MODEL runs in another stack, and which checks itself against the golden cases.

    Ends with a report: what the target's runtime makes of each task. `zoo verify FOLDER` checks the folder again.

    \b
    Example:
      zoo export vqvae-fashion --target python -o vqvae-python/
      python vqvae-python/run.py verify
    """
    from ..export import export
    from .run import locate_with_progress

    written, reports = export(locate_with_progress(model, registries), target, out, tasks=tasks, force=force)
    if json_:
        as_json(written)
        return
    rows = [
        (
            r.task,
            "runs" if f"model/{r.task}.onnx" in written.files else "left out",
            f"opset {r.opset}, IR {r.ir_version}",
            f"{len(r.operators)} kinds" + (f", {len(r.missing)} missing" if r.missing else ""),
            ", ".join(r.control_flow) or "none",
            ", ".join(r.int64_ports) or "none",
            human_bytes(r.largest_file),
            r.reason or ("" if f"model/{r.task}.onnx" in written.files else "not asked for"),
        )
        for r in reports
    ]
    note(f"{written.model} for {written.target} ({written.runtime})")
    table(rows, ["TASK", "THERE", "VERSIONS", "OPERATORS", "CONTROL FLOW", "INT64", "LARGEST FILE", "WHY"])
    click.echo(safe_text(out))
