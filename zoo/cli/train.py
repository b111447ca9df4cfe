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
from .output import note, progress

if TYPE_CHECKING:
    from ..build.begin import Asked


@click.command("train")
@click.argument("family")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of pictures, IDX files, or .npz.")
@click.option(
    "--preset",
    help="tiny, small (the default) or base: the cost; others have the shape of a published model (`zoo families`).",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder; must not exist yet.")
@click.option("--name", help="The model's name; default: that of --from, or the folder's.")
@click.option("--model-version", "version", type=click.IntRange(1), help="Default: 1, or that of --from plus one.")
@click.option("--summary", default="", help="One line for lists; default: the preset's summary.")
@click.option("--license", "license", default="Apache-2.0", show_default=True, help="SPDX expression for the weights.")
@click.option("--license-note", default="", help="What else users must know, e.g. about the data's licence.")
@click.option("--data-name", default="", help="Name of the data set, for the card; default: the folder's.")
@click.option("--data-license", default="", help="Licence of the data, for the card.")
@click.option("--classes", default="", help="Names of the labels, starting with label 0, separated by commas.")
@click.option(
    "--image-size", default="", metavar="WxH", help="Crop and scale the pictures to this size; or N, a square."
)
@click.option("--channels", type=click.Choice(["1", "3"]), help="1 turns pictures grey, 3 repeats grey ones as RGB.")
@click.option("--on-white", is_flag=True, help="Put transparent pictures on white.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only use the first N pictures.")
@click.option(
    "--hold-out",
    type=click.IntRange(0),
    metavar="N",
    help="Measure on N pictures that are not trained on; default: the data's test part, or else a tenth.",
)
@click.option("--steps", type=click.IntRange(1), help="Number of weight updates.")
@click.option("--batch-size", type=click.IntRange(1), help="Pictures per step, over all processes.")
@click.option("--learning-rate", type=float, help="Peak of the learning rate.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A config field (codec.num_codes=64) or a setting."
)
@click.option("--stage", default="", help="For families that train in stages.")
@click.option("--from", "parent", metavar="MODEL", help="Start from a published model or a bundle.")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint.")
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path),
    help="Folder for checkpoints; default: OUT.training next to the bundle.",
)
@click.option(
    "--checkpoint-every", type=click.IntRange(1), default=500, show_default=True, help="Steps between checkpoints."
)
@click.option("--tensorboard", type=click.Path(path_type=Path), help="Folder for TensorBoard's event files.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: torch's own.")
def command(**options: Any) -> None:
    """Train a model of FAMILY on pictures and write a bundle.

    Ctrl-C stops cleanly with a checkpoint; the same command with --resume continues to the same result. To train in
    several processes, use torchrun: `torchrun --nproc-per-node 2 -m zoo train …`.

    \b
    Example:
      zoo train vqvae --data pictures/ --out my-vqvae/
    """
    from ..plugins import load

    out = options["out"]
    if out.exists():
        raise UsageError(f"{out} exists already; a bundle never overwrites: choose another --out")
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
        **{name: options[name] for name in kept - {"name", "classes", "channels"}},
        channels=int(options["channels"]) if options["channels"] else None,
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
    first = os.environ.get("RANK", "0") == "0"
    asked = begin(loaded, _asked(options), parent)
    run, data = asked.run, asked.data
    if begun:
        refuse_other(begun, run, folder)
        run = begun

    with progress(run.settings["steps"], f"training {run.name}", unit="step", silent=not first) as bar:

        def on_step(done: int, steps: int, losses: Mapping[str, float]) -> None:
            if bar is None:  # not the first process
                return
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
    click.echo(options["out"])
