"""`zoo eval`: the figures of a card, measured again."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from .. import manifest as manifests
from ..errors import InvalidFileError, UsageError
from ..text import did_you_mean
from .output import as_json, note, progress, table

GENERATE = "generate"
"""The task of a model that draws."""

SPELLED = {"assignments": "set"}


@click.command("eval")
@click.argument("model")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of pictures, IDX files, or .npz.")
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True)
@click.option("--data-name", default="", help="Name of the data set, for the card; default: the folder's.")
@click.option("--image-size", type=click.IntRange(8), help="Scale and crop the pictures of a folder to this square.")
@click.option("--skip", type=click.IntRange(0), default=0, help="Leave out the first so many pictures.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many pictures of the rest.")
@click.option("--judge", metavar="MODEL", help="A classifier that says what the pictures show, e.g. judge-fashion.")
@click.option("--samples", type=click.IntRange(2), help="Pictures that a model which draws shall draw.")
@click.option(
    "--set", "assignments", multiple=True, metavar="PORT=NUMBER", help="A port of the drawing task, e.g. steps=10."
)
@click.option("--inception", type=click.Path(path_type=Path), metavar="FILE", help="Weights for the Inception FID.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="One more registry.")
@click.option("--save", is_flag=True, help="Write the figures into the bundle's manifest and card.")
@click.option("--json", "json_", is_flag=True, help="The figures as JSON.")
def command(model: str, registries: tuple[str, ...], device: str, save: bool, json_: bool, **options: Any) -> None:
    """Measure MODEL on pictures, over ONNX Runtime, and compare with its card.

    \b
    Example:
      zoo eval vqvae-fashion --data fashion-mnist/ --judge judge-fashion
      zoo eval ddpm-fashion --data fashion-mnist/ --judge judge-fashion --set guidance=1
    """
    from ..bundle import locate
    from ..model import Model

    bundle = locate(model, registries=registries)
    if save and not Path(model).is_dir():
        raise UsageError(f"--save writes into a bundle's folder; '{model}' is a published model, which never changes")
    judge = options["judge"]
    judging = Model(locate(judge, registries=registries), device=device) if judge else None
    metrics = measure(Model(bundle, device=device), judging, options)
    again = shlex.join(command_line(bundle.manifest.name, judging, options))
    metrics = [msgspec.structs.replace(m, command=again) for m in metrics]
    if save:
        from ..build.export import update_bundle

        manifest = msgspec.structs.replace(bundle.manifest, metrics=tuple(metrics))
        manifests.parse(manifests.dump(manifest), f"the figures for {model}")  # what is written can be read
        update_bundle(Path(model), manifest)
        note(f"saved in {model}")
    if json_:
        as_json(metrics)
        return
    card = {(m.name, m.data): m.value for m in bundle.manifest.metrics}
    rows = [(m.name, m.value, m.unit, card.get((m.name, m.data), ""), m.samples, m.data) for m in metrics]
    table(rows, ["metric", "measured", "unit", "card", "pictures", "data"])


def command_line(name: str, judge: Any, options: dict[str, Any]) -> list[str]:
    """The command that measures the same again."""
    words = ["zoo", "eval", name, "--data", str(options["data"])]
    words += ["--split", options["split"]] if options["split"] != "test" else []
    for option in ("data_name", "image_size", "skip", "limit", "samples", "inception"):
        words += [f"--{option.replace('_', '-')}", str(options[option])] if options[option] else []
    for assignment in options["assignments"]:
        words += ["--set", assignment]
    return words + (["--judge", judge.manifest.name] if judge else [])


def measure(model: Any, judge: Any, options: dict[str, Any]) -> list[Any]:
    """A model's metrics, as its family measures them; `options` are those of the command."""
    from ..build import data as datasets
    from ..hookspecs import MeasureRequest
    from ..plugins import load

    manifest, path, split = model.manifest, options["data"], options["split"]
    image = next(
        (p for t in manifest.tasks.values() for p in (*t.inputs.values(), *t.outputs.values()) if p.kind == "image"),
        None,
    )
    if image is None:
        raise InvalidFileError(f"{manifest.name} neither takes nor gives pictures: there is nothing to measure")
    # Whoever says what pictures show knows what the labels mean; else the labels do not matter.
    judging = judge.manifest if judge else manifest if "classify" in manifest.tasks else None
    how = {
        "channels": int(image.shape[-1]),
        "image_size": options["image_size"],
        "classes": judging.classes if judging else (),
        "name": options["data_name"],
    }
    data = datasets.read(path, split=split, skip=options["skip"], limit=options["limit"], **how)
    if judging and data.labels.min() < 0:
        raise UsageError(f"{path} has pictures without a label: a classifier's verdict has nothing to be compared with")
    draws = GENERATE in manifest.tasks
    for option in ("samples", "assignments", "inception"):
        if options[option] and not draws:
            raise UsageError(f"{manifest.name} draws no pictures: --{SPELLED.get(option, option)} means nothing to it")

    def with_progress(iterator: Any, length: int) -> Any:
        with progress(length, f"measuring {manifest.name}", unit="batch") as bar:
            for item in iterator:
                yield item
                bar.update(1)

    request = MeasureRequest(
        family=manifest.family,
        config=manifest.config,
        model=model,
        images=data.images,
        labels=data.labels,
        judge=judge,
        progress=with_progress,
        judged_by=f"{judge.manifest.name}:{judge.manifest.version}@sha256:{judge.digest}" if judge else "",
        training_images=_training_images(datasets, data, options, how) if draws else None,
        samples=options["samples"] or 0,
        options=dict(_assigned(a, manifest.tasks[GENERATE].inputs) for a in options["assignments"]),
        inception=options["inception"],
    )
    return [
        msgspec.structs.replace(m, data=f"{data.name} {split}", samples=m.samples or len(data))
        for m in load(manifest.family).call("measure", request)
    ]


def _training_images(datasets: Any, data: Any, options: dict[str, Any], how: dict[str, Any]) -> Any:
    """The pictures of the training part that are not measured with; None where the data has no parts."""
    whole = datasets.read(options["data"], split="train", **how)
    if data.split == "train":
        import numpy as np

        skip = options["skip"]
        rest = np.delete(whole.images, slice(skip, skip + len(data)), axis=0)
        return rest if len(rest) else None
    test = datasets.read(options["data"], split="test", **how)
    return None if whole.sha256 == test.sha256 else whole.images


def _assigned(assignment: str, ports: Mapping[str, Any]) -> tuple[str, float]:
    """`steps=10` as a port and its value."""
    name, equals, text = assignment.partition("=")
    free = [port for port, declared in ports.items() if declared.kind in ("count", "scalar")]
    if not equals or name not in free:
        raise UsageError(
            f"--set '{assignment}' must be PORT=NUMBER, the port one of {', '.join(free)}{did_you_mean(name, free)}"
        )
    try:
        return name, int(text) if ports[name].kind == "count" else float(text)
    except ValueError:
        raise UsageError(f"--set {assignment}: '{text}' is no number") from None
