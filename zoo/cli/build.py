"""`zoo build`: a training checkpoint to a bundle."""

from pathlib import Path

import click

from ..errors import UsageError
from .output import note


@click.command("build")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder; must not exist yet.")
@click.option("--name", help="Another name for the model.")
@click.option("--model-version", "version", type=click.IntRange(1), help="Another version.")
def command(checkpoint: Path, out: Path, name: str | None, version: int | None) -> None:
    """Make a bundle from CHECKPOINT: the file that `zoo train` writes, or its folder.

    \b
    Example:
      zoo build my-vqvae.training/ --out my-vqvae/
    """
    from dataclasses import replace

    from ..build import checkpoint as checkpoints
    from ..build.bundling import bundle_of
    from ..build.train import Run, restore
    from ..plugins import load
    from .train import check_name

    if out.exists():
        raise UsageError(f"{out} exists already; a bundle never overwrites: choose another --out")
    if name:
        check_name(name)
    saved = checkpoints.load(checkpoint)
    run = Run.of(saved)
    run = replace(run, name=name or run.name, version=version or run.version)
    loaded = load(run.family)
    module, record = restore(loaded, run, saved), run.record(saved.step, saved.seconds)
    manifest = bundle_of(loaded, run, module, record, out, note)
    note(f"{manifest.name}:{manifest.version} after {saved.step} steps, {', '.join(manifest.tasks)}")
    click.echo(out)
