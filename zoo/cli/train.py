"""`zoo train`: trains a model on data."""

import os
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..system.paths import cannot_write, user_path
from ..text import safe_text
from .options import OUT, PATH, SEED, Fraction, class_names, number, option, refuse_existing, set_option, spdx
from .training import Bar, Report, seconds_of

if TYPE_CHECKING:
    from ..build.begin import Asked


class _Remembering(click.Command):
    """A command that knows its arguments, and repeats those of the training that --resume continues."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = [word for arg in args for word in (arg.split("=", 1) if re.match("--[a-z-]+=", arg) else [arg])]
        if "--resume" in args and "--data" not in args and "--help" not in args and not ctx.resilient_parsing:
            args = self._without(_begun_with(args), args) + args
        ctx.meta["arguments"] = tuple(args)
        return super().parse_args(ctx, args)

    def _without(self, words: list[str], args: list[str]) -> list[str]:
        """The words of a command without the options, and their values, that are given again."""
        options = [p for p in self.params if isinstance(p, click.Option) and not p.is_flag and not p.multiple]
        again = {name for option in options for name in option.opts if name in args}
        return [word for before, word in zip(["", *words], words, strict=False) if not again & {before, word}]


def _begun_with(args: list[str]) -> list[str]:
    """The arguments of the training that these arguments continue."""
    from ..build.checkpoint import CHECKPOINT, command_of

    given = dict(zip(args, args[1:], strict=False))
    if "--checkpoints" in given:
        folders = [user_path(given["--checkpoints"], out=True)]
    elif "--out" in given:
        folders = [_folder(user_path(given["--out"], out=True))]
    else:
        folders = sorted(path.parent for path in Path().glob(f"*.training/{CHECKPOINT}"))
    if len(folders) != 1:
        found = f"{len(folders)} trainings: {', '.join(map(safe_text, folders))}" if folders else "no *.training"
        raise UsageError(f"this folder has {found}; name the training with --out MODEL, as when it started")
    command = command_of(folders[0])
    words = [] if command.endswith("…") else shlex.split(command)  # a long one was cut
    if words[:2] != ["zoo", "train"]:
        raise UsageError(
            f"{safe_text(folders[0])} does not say how it was started: give the whole command and --resume"
        )
    return [word for word in words[2:] if word != "--resume"]


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".training")


@click.command("train", cls=_Remembering)
@click.argument("family")
@option("--data", type=PATH, required=True, help="Folder of pictures, IDX files, or .npz.")
@option(
    "--preset",
    help="tiny, small (the default) or base: the cost; others have the shape of a published model (`zoo families`).",
)
@option("--out", type=OUT, required=True, help="The bundle's folder; must not exist yet.")
@option("--name", help="The model's name; default: that of --from, or the folder's.")
@option("--model-version", "version", type=number(1), help="Default: 1, or that of --from plus one.")
@option("--summary", default="", help="One line for lists; default: what the pictures are.")
@option(
    "--license",
    "license",
    default="Apache-2.0",
    show_default=True,
    callback=spdx,
    help="SPDX expression for the weights.",
)
@option("--license-note", default="", help="What else users must know, e.g. about the data's licence.")
@option("--data-name", default="", help="Name of the data set, for the card; default: the folder's.")
@option("--data-license", default="", help="Licence of the data, for the card.")
@option("--classes", default="", help="Names of the labels, starting with label 0, separated by commas.")
@option("--image-size", default="", metavar="WxH", help="Crop and scale the pictures to this size; or N, a square.")
@option("--channels", type=click.Choice(["1", "3"]), help="1 turns pictures grey, 3 repeats grey ones as RGB.")
@option("--on-white", is_flag=True, help="Put transparent pictures on white.")
@option("--limit", type=number(1), metavar="N", help="Only use the first N pictures.")
@option(
    "--hold-out",
    type=number(0),
    metavar="N",
    help="Measure on N pictures that are not trained on; default: the data's test part, or else a tenth.",
)
@option("--mirror", is_flag=True, help="Mirror half of the pictures, left to right.")
@option("--shift", type=number(0, 1024), default=0, metavar="N", help="Move pictures by up to N pixels.")
@option(
    "--crop",
    type=Fraction(0.1, 1.0),
    default=1.0,
    metavar="SHARE",
    help="Cut out parts of at least this share of the sides, 0.1 to 1, and scale them to the whole.",
)
@option("--steps", type=number(1), help="Number of weight updates.")
@option("--batch-size", type=number(1), help="Pictures per step, over all processes.")
@option(
    "--accumulate",
    type=number(1),
    default=1,
    metavar="N",
    help="Compute a batch in N parts, to save memory.",
)
@option("--max-time", metavar="TIME", help="Take 90s, 30m or 1.5h: as many --steps as fit, and no more time than this.")
@option("--learning-rate", type=float, help="Peak of the learning rate.")
@option("--seed", type=SEED, default=0, show_default=True)
@set_option("KEY=VALUE", "A config field (codec.num_codes=64) or a setting.")
@option("--stage", default="", help="For families that train in stages.")
@option("--from", "parent", metavar="MODEL", help="Start from a published model or a bundle.")
@option("--resume", is_flag=True, help="Continue from the checkpoint; the rest may be left out.")
@option(
    "--checkpoints",
    type=OUT,
    help="Folder for checkpoints; default: OUT.training next to the bundle.",
)
@option("--checkpoint-every", type=number(1), default=500, show_default=True, help="Steps between checkpoints.")
@option("--tensorboard", type=OUT, help="Folder for TensorBoard's event files.")
@option("--threads", type=number(1), help="CPU threads; default: torch's own.")
@option("--json", "json_", is_flag=True, help="Print what happens as events, one JSON object a line.")
def command(**options: Any) -> None:
    """Train a model of FAMILY on pictures and write a bundle.

    Size, channels and classes of the model are those of the pictures. Ctrl-C stops cleanly with a checkpoint, and `zoo
    train --resume` continues to the same result. To train in several processes, use torchrun: `torchrun
    --nproc-per-node 2 -m zoo train …`.

    \b
    Example:
      zoo train vqvae --data pictures/ --out my-vqvae/
      zoo train ddpm --data pictures/ --image-size 48x40 --mirror --max-time 30m --out my-ddpm/
    """
    from ..plugins import load

    out = options["out"]
    refuse_existing(out)
    if options["parent"] == "":
        raise UsageError("--from is empty; it must be a model or a bundle's folder")
    folder = options["checkpoints"] or _folder(out)
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
        classes=tuple(class_names(options["classes"])),
        command=shlex.join(["zoo", "train", *click.get_current_context().meta["arguments"]]),
    )


def _train(loaded: Any, folder: Path, options: dict[str, Any]) -> None:
    from ..build import checkpoint as checkpoints
    from ..build.begin import Parent, begin, refuse_other, with_assets
    from ..build.bundling import bundle_of
    from ..build.forecast import forecast, is_planned, planned
    from ..build.train import Interrupted, Run, train

    max_seconds = seconds_of(options["max_time"]) if options["max_time"] else None
    saved = checkpoints.load(folder) if options["resume"] else None
    if not saved and (folder / checkpoints.CHECKPOINT).exists():
        raise UsageError(
            f"{folder} contains a checkpoint: continue it with --resume, or start again with another --checkpoints"
        )
    parent = Parent(options["parent"]) if options["parent"] else None
    begun = begin(loaded, _asked(options), parent)
    given = {name for name in ("steps", "batch_size") if options[name]}
    given |= {assignment.partition("=")[0] for assignment in options["assignments"]}
    planning = max_seconds is not None and "steps" not in given and os.environ.get("WORLD_SIZE", "1") == "1"
    if saved:
        before = Run.of(saved)
        if planning:  # what fits was decided when it began
            kept = {name: value for name, value in before.settings.items() if is_planned(name) and name not in given}
            begun = replace(begun, run=replace(begun.run, settings=begun.run.settings | kept))
        refuse_other(before, begun.run, folder)
        begun = replace(begun, run=before)
    else:
        begun = with_assets(loaded, begun, parent)
    done = saved.step if saved else 0

    first = os.environ.get("RANK", "0") == "0"
    report = Report(as_events=options["json_"], silent=not first)
    if options["tensorboard"]:  # before anything else is written
        try:
            options["tensorboard"].mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise cannot_write(options["tensorboard"], e) from None
    if first:
        expected = forecast(loaded, begun.run, begun.data)
        if planning and max_seconds and not saved:
            run = planned(loaded, begun.run, begun.data, expected, max_seconds, given)
            if run.settings["batch_size"] != begun.run.settings["batch_size"]:
                expected = forecast(loaded, run, begun.data)
            begun = replace(begun, run=run)
        report.summary(begun, expected, options["out"], folder, done)
    run = begun.run
    with Bar(report, run, done) as bar:
        try:
            trained = train(
                loaded,
                run,
                begun.data,
                folder,
                weights=parent.weights(begun.taken) if parent and not saved else None,
                resume=options["resume"],
                checkpoint_every=options["checkpoint_every"],
                max_seconds=max_seconds,
                held_out=begun.held_out,
                watched=True,
                tensorboard=options["tensorboard"],
                on_step=bar,
                open_parent=parent.open if parent else None,
                preparing=bar.preparing,
            )
        except Interrupted as e:
            if not (folder / checkpoints.CHECKPOINT).exists():
                raise
            raise Interrupted(f"{e}, or: {_go_on(options)}") from None
    if trained.module is None:  # not the first process
        return
    report.line(f"trained {trained.record.steps} steps in {trained.record.seconds:.0f} s; exporting")
    manifest = bundle_of(loaded, run, trained.module, trained.record, options["out"], report.line)
    report.line(f"{manifest.name}:{manifest.version}, {', '.join(manifest.tasks)}")
    report.end(begun, manifest, options["out"], folder, bar.held_out)
    if trained.record.steps < run.settings["steps"]:
        another = options["out"].with_name(f"{options['out'].name}-2")
        words = ["--resume", "--checkpoints", folder, "--name", run.name, "--out", another]
        go_on = shlex.join(["zoo", "train", *map(str, words)])
        report.line(f"--max-time ended it after step {trained.record.steps:,}; to go on: {go_on}")
    if not options["json_"]:
        click.echo(options["out"])


def _go_on(options: dict[str, Any]) -> str:
    """The command that continues this training."""
    where = ["--checkpoints", options["checkpoints"]] if options["checkpoints"] else ["--out", options["out"]]
    return shlex.join(["zoo", "train", "--resume", *map(str, where)])
