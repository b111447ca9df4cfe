"""`zoo build`: makes a bundle from a training checkpoint, or from a model with other settings."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .options import OUT, number, option, refuse_existing, set_option
from .output import note, path

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from ..build.train import Run
    from ..formats.manifest import Training
    from ..plugins import Loaded
    from ..store.locate import Bundle

    Weigh = Callable[[Loaded, Run], nn.Module]  # a run's module with the weights that its source has


@click.command("build")
@click.argument("source", metavar="CHECKPOINT|MODEL")
@option("--out", type=OUT, required=True, help="The bundle's folder; must not exist yet.")
@option("--name", help="The model's new name; default: its own, or for a MODEL the name of the --out folder.")
@option("--model-version", "version", type=number(1), help="The model's new version.")
@option("--sampler", help="Another sampler, for families that have one: ddim, ddpm, …")
@set_option("KEY=VALUE", "A config field that does not affect the weights.")
def command(
    source: str, out: Path, name: str | None, version: int | None, sampler: str | None, assignments: tuple[str, ...]
) -> None:
    """Make a bundle from CHECKPOINT, written by `zoo train` (the file or its folder), or a new one from MODEL.

    \b
    Example:
      zoo build my-vqvae.training/ --out my-vqvae/
      zoo build ddpm-fashion --sampler ddim --out ddpm-fashion-ddim/

    A new bundle of MODEL keeps its figures if they hold: with the same config,
    if the new graphs give the outputs of all its golden cases.
    """
    from ..system.processes import rest_while_waiting

    rest_while_waiting()
    from ..build.begin import check_name
    from ..build.bundling import bundle_of, carry_metrics
    from ..plugins import load
    from ..store.locate import locate

    refuse_existing(out)
    if name:
        check_name(name)
    model = None if _is_checkpoint(source) else locate(source)
    run, record, weigh = _from_model(model, name or out.name) if model else _from_checkpoint(source)
    loaded = load(run.family)
    run = replace(run, name=name or run.name, version=version or run.version)
    run = replace(run, config=_chosen(loaded, run, sampler, assignments))
    precision = model.manifest.export.precision if model else "float32"
    manifest = bundle_of(loaded, run, weigh(loaded, run), record, out, note, precision=precision)
    if model and not (sampler or assignments):
        manifest = carry_metrics(out, manifest, model.folder, model.manifest)
        if manifest.metrics:
            note(f"with the figures of {model.reference}: the graphs give the outputs of its golden cases")
    made = f" after {record.steps:,} steps" if record.steps else ""
    note(f"{manifest.name}:{manifest.version}{made}, {', '.join(manifest.tasks)}")
    path(out)


def _is_checkpoint(source: str) -> bool:
    from ..build.checkpoint import CHECKPOINT
    from ..formats.manifest import MANIFEST
    from ..store.locate import is_path
    from ..system.paths import user_path

    path = user_path(source)
    return path.is_file() or (path / CHECKPOINT).exists() or (is_path(source) and not (path / MANIFEST).exists())


def _from_checkpoint(source: str) -> "tuple[Run, Training, Weigh]":
    """The run of a checkpoint, its record, and a function that returns the module."""
    from ..build import checkpoint as checkpoints
    from ..build.train import Run, restore
    from ..system.paths import user_path

    saved = checkpoints.load(user_path(source))
    run = Run.of(saved)
    return run, run.record(saved.step, saved.seconds), lambda loaded, chosen: restore(loaded, chosen, saved)


def _from_model(bundle: "Bundle", name: str) -> "tuple[Run, Training, Weigh]":
    """The same for a model."""
    import msgspec

    from ..build.begin import check_name
    from ..build.bundling import read_weights, rebuild
    from ..build.train import Run
    from ..formats import assets

    check_name(name)
    m = bundle.manifest
    run = Run(
        family=m.family, config=dict(m.config), settings={}, name=name, version=1, summary=m.summary, license=m.license,
        license_note=m.license_note, classes=list(m.classes), assets=assets.read(bundle.folder, m),
    )  # fmt: skip
    record = msgspec.structs.replace(m.training, parent=f"{m.name}:{m.version}@sha256:{bundle.digest}")
    return run, record, lambda loaded, chosen: rebuild(loaded, chosen, read_weights(bundle.folder, m))


def _chosen(loaded: "Loaded", run: "Run", sampler: str | None, assignments: tuple[str, ...]) -> dict[str, Any]:
    """The run's config with the values chosen on the command line."""
    from ..build.begin import choose
    from ..hookspecs import DescribeRequest

    if sampler:
        field = loaded.call("describe_family", DescribeRequest(family=run.family)).sampler
        if not field:
            raise UsageError(f"the family '{run.family}' has no choice of samplers: leave out --sampler {sampler}")
        assignments = (f"{field}={sampler}", *assignments)
    return choose(loaded, run.family, run.config, assignments, trained=run.config)
