"""`zoo train`: a model out of data."""

import json
import os
import shlex
import sys
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from ..errors import NotFoundError, UsageError
from .output import note, progress


@click.command("train")
@click.argument("family")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of pictures, IDX files, or .npz.")
@click.option("--preset", help="A named config of the family; `zoo families` lists them.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder; must not exist yet.")
@click.option("--name", help="The model's name; default: that of --from, else the folder's.")
@click.option("--model-version", "version", type=click.IntRange(1), help="Default: 1, or that of --from plus one.")
@click.option("--summary", default="", help="One line for lists; default: the preset's summary.")
@click.option("--license", "license_", default="Apache-2.0", show_default=True, help="SPDX, of the weights.")
@click.option("--license-note", default="", help="What else a user must know, e.g. of the data's licence.")
@click.option("--data-name", default="", help="Name of the data set, for the card; default: the folder's.")
@click.option("--data-license", default="", help="Licence of the data, for the card.")
@click.option("--classes", default="", help="Names of the labels from 0, separated by commas.")
@click.option("--image-size", type=click.IntRange(8), help="Scale and crop the pictures of a folder to this square.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many pictures.")
@click.option("--steps", type=click.IntRange(1), help="Updates of the weights.")
@click.option("--batch-size", type=click.IntRange(1), help="Pictures a step, over all processes.")
@click.option("--learning-rate", type=float, help="The peak.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A config field (codec.num_codes=64) or a setting."
)
@click.option("--stage", default="", help="For families that train in stages.")
@click.option("--from", "parent", metavar="MODEL", help="Start from a published model or a bundle.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
@click.option("--checkpoints", type=click.Path(path_type=Path), help="Default: OUT.training beside the bundle.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=500, show_default=True, help="Steps.")
@click.option("--tensorboard", type=click.Path(path_type=Path), help="Folder for TensorBoard's event files.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: torch's own.")
def command(**options: Any) -> None:
    """Train a model of FAMILY on pictures; ends with a bundle.

    Ctrl-C stops cleanly with a checkpoint; the same command with --resume goes on to the same result. Runs on several
    processes under torchrun: `torchrun --nproc-per-node 2 -m zoo train …`.

    \b
    Example:
      zoo train vqvae --data pictures/ --preset fashion --out my-vqvae/
    """
    from ..plugins import load

    out = options["out"]
    if out.exists():
        raise UsageError(f"{out} exists already; a bundle never overwrites: choose another --out")
    folder = options["checkpoints"] or out.with_name(out.name + ".training")
    loaded = load(options["family"])
    if options["threads"]:
        import torch

        torch.set_num_threads(options["threads"])
    _train(loaded, folder, options)


def _train(loaded: Any, folder: Path, options: dict[str, Any]) -> None:
    from ..build import checkpoint as checkpoints
    from ..build.bundling import bundle_of
    from ..build.train import Run, train

    begun = Run.of(checkpoints.load(folder)) if options["resume"] else None
    if not begun and (folder / checkpoints.CHECKPOINT).exists():
        raise UsageError(f"{folder} holds a checkpoint: --resume goes on with it, another --checkpoints begins anew")
    parent = _Parent(options["parent"]) if options["parent"] else None
    run, data = _begin(loaded, options, parent)
    if begun:
        _refuse_other(begun, run, folder)
        run = begun

    first = os.environ.get("RANK", "0") == "0"
    with progress(run.settings["steps"], f"training {run.name}", unit="step") if first else nullcontext() as bar:

        def on_step(done: int, steps: int, losses: dict[str, float]) -> None:
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


class _Parent:
    """The model that --from names."""

    def __init__(self, reference: str):
        from ..bundle import locate

        self.bundle = locate(reference)
        self.manifest = self.bundle.manifest

    def weights(self) -> dict[str, Any]:
        from ..build.bundling import read_weights

        return read_weights(self.bundle.folder, self.manifest)

    def __str__(self) -> str:
        return f"{self.manifest.name}:{self.manifest.version}@sha256:{self.bundle.digest}"


def _begin(loaded: Any, options: dict[str, Any], parent: _Parent | None) -> Any:
    """The run and the data that the command is about."""
    from ..build.train import Run
    from ..hookspecs import ConfigRequest, DescribeRequest
    from ..settings import read
    from ..text import did_you_mean

    family = options["family"]
    card = loaded.call("describe_family", DescribeRequest(family=family))
    config: dict[str, Any] = {}
    settings: dict[str, Any] = {"steps": 10_000, "batch_size": 64, "learning_rate": 1e-3}
    summary = options["summary"]
    if parent:
        if parent.manifest.family != family:
            raise UsageError(f"{parent} is of the family '{parent.manifest.family}', not '{family}'")
        config, summary = dict(parent.manifest.config), summary or parent.manifest.summary
    if options["preset"]:
        if options["preset"] not in card.presets:
            raise NotFoundError(
                f"{family} has no preset '{options['preset']}'; it has {', '.join(card.presets)}"
                + did_you_mean(options["preset"], card.presets)
            )
        preset = card.presets[options["preset"]]
        config = _merge(config, preset.config)
        settings |= preset.training
        summary = summary or preset.summary
    settings |= {k: options[k] for k in ("steps", "batch_size", "learning_rate") if options[k] is not None}
    settings["seed"] = options["seed"]

    def validated(config: dict[str, Any]) -> dict[str, Any]:
        request = ConfigRequest(family=family, config=config, stage=options["stage"])
        return dict(loaded.call("validate_config", request))

    # Completed first, so that --set finds every field; copied, since the plugin may have given its preset itself.
    config = deepcopy(validated(config))
    for assignment in options["assignments"]:
        assign(assignment, config, settings)
    config = validated(config)
    name = options["name"] or (parent.manifest.name if parent else options["out"].name)
    check_name(name)
    same = parent is not None and parent.manifest.name == name
    run = Run(
        family=family,
        config=config,
        settings=settings,
        name=name,
        version=options["version"] or (parent.manifest.version + 1 if same else 1),
        summary=summary or f"a {family} model",
        license=options["license_"],
        license_note=options["license_note"],
        stage=options["stage"],
        command=_shortened(shlex.join(["zoo", *sys.argv[1:]])),
        data_license=options["data_license"],
        parent=str(parent or ""),
    )
    run = read(Run, asdict(run), "the model")
    data = _data(loaded, options, config, parent)
    found = {"classes": list(data.classes), "data": f"{data.name} {data.split}", "data_sha256": data.sha256}
    return replace(run, **found), data


def _shortened(text: str, length: int = 2000) -> str:
    """At most so many characters, as many as a manifest's text may have."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _refuse_other(begun: Any, run: Any, folder: Path) -> None:
    """A resumed run is the same run: what the command says must be what the checkpoint's said."""
    before, now = (_flat(asdict(replace(r, command="", note=""))) for r in (begun, run))
    for key in before.keys() | now.keys():
        if before.get(key) != now.get(key):
            raise UsageError(
                f"the run in {folder} began with {key} {before.get(key)!r}, not {now.get(key)!r}: --resume goes on"
                " with the same command, another --checkpoints begins anew"
            )


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, `config.codec.num_codes` its keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{rest}".rstrip("."): item for rest, item in inner.items()}
    return flat


def _data(loaded: Any, options: dict[str, Any], config: dict[str, Any], parent: _Parent | None) -> Any:
    from ..build import data

    names = tuple(c.strip() for c in options["classes"].split(",") if c.strip())
    if parent and not names:
        names = parent.manifest.classes
    return data.read(
        options["data"],
        split="train",
        channels=_channels(loaded, options["family"], config),
        image_size=options["image_size"],
        classes=names,
        name=options["data_name"],
        limit=options["limit"],
    )


def _channels(loaded: Any, family: str, config: dict[str, Any]) -> int:
    """1 or 3: the channels of the pictures that the config's tasks take or give."""
    from ..hookspecs import TasksRequest

    tasks = loaded.call("list_tasks", TasksRequest(family=family, config=config)).tasks.values()
    ports = [port for task in tasks for port in (*task.inputs.values(), *task.outputs.values())]
    return next(int(port.shape[-1]) for port in ports if port.kind == "image")


def _merge(base: dict[str, Any], over: Any) -> dict[str, Any]:
    """`over` laid over `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def assign(assignment: str, config: dict[str, Any], settings: dict[str, Any]) -> None:
    """`codec.num_codes=64` into the config; a key without a dot: into the config if it is there, else the settings.

    The value is JSON, or else plain text: 64, 1e-3, true, [16,32], loss.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise UsageError(f"--set '{assignment}' must look like KEY=VALUE")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    *path, last = key.split(".")
    target = settings if not path and last not in config else config
    for part in path:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise UsageError(f"--set {key}: '{part}' has no fields of its own")
    target[last] = value


def check_name(name: str) -> None:
    """Refuses what is no name of a model, in one line."""
    from ..registry import Reference

    if str(Reference.parse(name).name) != name:
        raise UsageError(f"'{name}' is no model name: lower-case letters, digits, dots, dashes; give --name")
