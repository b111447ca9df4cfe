"""`zoo train`: trains a model on data."""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .options import OUT, PATH, SEED, number, option, refuse_existing
from .output import note, path, progress

if TYPE_CHECKING:
    from ..build.begin import Asked


@click.command("train")
@click.argument("family")
@option("--data", type=PATH, required=True, help="Folder of pictures, IDX files, or .npz.")
@option("--preset", help="A named config of the family; `zoo families` lists them.")
@option("--out", type=OUT, required=True, help="The bundle's folder; must not exist yet.")
@option("--name", help="The model's name; default: that of --from, or the folder's.")
@option("--model-version", "version", type=number(1), help="Default: 1, or that of --from plus one.")
@option("--summary", default="", help="One line for lists; default: the preset's summary.")
@option("--license", "license", default="Apache-2.0", show_default=True, help="SPDX expression for the weights.")
@option("--license-note", default="", help="What else users must know, e.g. about the data's licence.")
@option("--data-name", default="", help="Name of the data set, for the card; default: the folder's.")
@option("--data-license", default="", help="Licence of the data, for the card.")
@option("--classes", default="", help="Names of the labels, starting with label 0, separated by commas.")
@option("--image-size", type=number(8, 8192), help="Scale and crop the pictures of a folder to this square.")
@option("--limit", type=number(1), metavar="N", help="Only use the first N pictures.")
@option("--steps", type=number(1), help="Number of weight updates.")
@option("--batch-size", type=number(1), help="Pictures per step, over all processes.")
@option("--learning-rate", type=float, help="Peak of the learning rate.")
@option("--seed", type=SEED, default=0, show_default=True)
@option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A config field (codec.num_codes=64) or a setting."
)
@option("--stage", default="", help="For families that train in stages.")
@option("--from", "parent", metavar="MODEL", help="Start from a published model or a bundle.")
@option("--resume", is_flag=True, help="Continue from the checkpoint.")
@option(
    "--checkpoints",
    type=OUT,
    help="Folder for checkpoints; default: OUT.training next to the bundle.",
)
@option("--checkpoint-every", type=number(1), default=500, show_default=True, help="Steps between checkpoints.")
@option("--tensorboard", type=OUT, help="Folder for TensorBoard's event files.")
@option("--threads", type=number(1, 1024), help="CPU threads; default: torch's own.")
def command(**options: Any) -> None:
    """Train a model of FAMILY on pictures and write a bundle.

    Ctrl-C stops cleanly with a checkpoint; the same command with --resume continues to the same result. To train in
    several processes, use torchrun: `torchrun --nproc-per-node 2 -m zoo train …`.

    \b
    Example:
      zoo train vqvae --data pictures/ --preset fashion --out my-vqvae/
    """
    from ..plugins import load

    out = options["out"]
    refuse_existing(out)
    folder = options["checkpoints"] or out.with_name(out.name + ".training")
    loaded = load(options["family"])
    if options["threads"]:
        from ..build.train import use_threads

        use_threads(options["threads"])
    _train(loaded, folder, options)


def _asked(options: dict[str, Any]) -> "Asked":
    from ..build.begin import Asked

    kept = {field.name for field in fields(Asked)} & options.keys()
    return Asked(
        **{name: options[name] for name in kept - {"name", "classes"}},
        name=options["name"] or "",
        default_name=options["out"].name,
        classes=tuple(c.strip() for c in options["classes"].split(",") if c.strip()),
        command=shlex.join(["zoo", *sys.argv[1:]]),
    )


def _train(loaded: Any, folder: Path, options: dict[str, Any]) -> None:
    from ..build import checkpoint as checkpoints
    from ..build.begin import Parent, begin, refuse_other
    from ..build.bundling import bundle_of
    from ..build.train import Run, train

    begun = Run.of(checkpoints.load(folder)) if options["resume"] else None
    if not begun and (folder / checkpoints.CHECKPOINT).exists():
        raise UsageError(
            f"{folder} contains a checkpoint: continue it with --resume, or start again with another --checkpoints"
        )
    parent = Parent(options["parent"]) if options["parent"] else None
    run, data = begin(loaded, _asked(options), parent)
    if begun:
        refuse_other(begun, run, folder)
        run = begun

    first = os.environ.get("RANK", "0") == "0"
    unsaid = [data.said]  # said after the first step: a training that cannot start is one line
    with progress(run.settings["steps"], f"training {run.name}", unit="step", silent=not first) as bar:

        def on_step(done: int, steps: int, losses: Mapping[str, float]) -> None:
            if bar is None:  # not the first process
                return
            while unsaid:
                bar.clear()
                note(unsaid.pop())
            bar.update(done - bar.n)
            if losses:
                bar.set_postfix({name: f"{value:.4g}" for name, value in losses.items()}, refresh=False)

        trained = train(
            loaded,
            run,
            data,
            folder,
            weights=parent.weights() if parent and not begun else None,
            resume=options["resume"],
            checkpoint_every=options["checkpoint_every"],
            tensorboard=options["tensorboard"],
            on_step=on_step,
        )
    if trained.module is None:  # not the first process
        return
    note(f"trained {run.settings['steps']} steps in {trained.record.seconds:.0f} s; exporting")
    manifest = bundle_of(loaded, run, trained.module, trained.record, options["out"], note)
    note(f"{manifest.name}:{manifest.version}, {', '.join(manifest.tasks)}")
    path(options["out"])
