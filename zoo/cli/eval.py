"""`zoo eval`: the figures of a card, measured again."""

import shlex
from pathlib import Path
from typing import Any

import click
import msgspec

from .. import manifest as manifests
from ..errors import InvalidFileError, UsageError
from .output import as_json, note, progress, table


@click.command("eval")
@click.argument("model")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of pictures, IDX files, or .npz.")
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True)
@click.option("--data-name", default="", help="Name of the data set, for the card; default: the folder's.")
@click.option("--image-size", type=click.IntRange(8), help="Scale and crop the pictures of a folder to this square.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many pictures.")
@click.option("--judge", metavar="MODEL", help="A classifier that says what the pictures show, e.g. judge-fashion.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="One more registry.")
@click.option("--save", is_flag=True, help="Write the figures into the bundle's manifest and card.")
@click.option("--json", "json_", is_flag=True, help="The figures as JSON.")
def command(
    model: str,
    data: Path,
    split: str,
    data_name: str,
    image_size: int | None,
    limit: int | None,
    judge: str | None,
    device: str,
    registries: tuple[str, ...],
    save: bool,
    json_: bool,
) -> None:
    """Measure MODEL on pictures, over ONNX Runtime, and compare with its card.

    \b
    Example:
      zoo eval vqvae-fashion --data fashion-mnist/ --judge judge-fashion
    """
    from ..bundle import locate
    from ..model import Model

    bundle = locate(model, registries=registries)
    if save and not Path(model).is_dir():
        raise UsageError(f"--save writes into a bundle's folder; '{model}' is a published model, which never changes")
    judging = Model(locate(judge, registries=registries), device=device) if judge else None
    metrics = _measure(Model(bundle, device=device), judging, data, split, data_name, image_size, limit)
    command_line = ["zoo", "eval", bundle.manifest.name, "--data", str(data)]
    command_line += ["--split", split] if split != "test" else []
    command_line += ["--data-name", data_name] if data_name else []
    command_line += ["--image-size", str(image_size)] if image_size else []
    command_line += ["--limit", str(limit)] if limit else []
    command_line += ["--judge", judging.manifest.name] if judging else []
    metrics = [msgspec.structs.replace(m, command=shlex.join(command_line)) for m in metrics]
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


def _measure(
    model: Any, judge: Any, path: Path, split: str, data_name: str, image_size: int | None, limit: int | None
) -> list[Any]:
    from ..build import data as datasets
    from ..hookspecs import MeasureRequest
    from ..plugins import load

    manifest = model.manifest
    image = next(
        (p for t in manifest.tasks.values() for p in (*t.inputs.values(), *t.outputs.values()) if p.kind == "image"),
        None,
    )
    if image is None:
        raise InvalidFileError(f"{manifest.name} neither takes nor gives pictures: there is nothing to measure")
    # Whoever says what pictures show knows what the labels mean; else the labels do not matter.
    judging = judge.manifest if judge else manifest if "classify" in manifest.tasks else None
    data = datasets.read(
        path,
        split=split,
        channels=int(image.shape[-1]),
        image_size=image_size,
        classes=judging.classes if judging else (),
        name=data_name,
        limit=limit,
    )

    if judging and data.labels.min() < 0:
        raise UsageError(f"{path} has pictures without a label: a classifier's verdict has nothing to be compared with")

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
    )
    judged_by = f"{judge.manifest.name}:{judge.manifest.version}@sha256:{judge.digest}" if judge else ""
    return [
        msgspec.structs.replace(
            m, data=f"{data.name} {split}", samples=len(data), judge=judged_by if m.name.startswith("label") else ""
        )
        for m in load(manifest.family).call("measure", request)
    ]
