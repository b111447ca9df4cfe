"""`zoo eval`: measures the metrics of a card."""

import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..errors import UsageError
from ..formats import manifest as manifests
from .options import MODEL, PATH, SAMPLES, number, option, set_option
from .output import as_json, note, progress, table
from .run import ISOLATE, ISOLATE_HELP

if TYPE_CHECKING:
    from ..runtime import Device


@click.command("eval")
@click.argument("model", type=MODEL)
@option("--data", type=PATH, required=True, help="Folder of pictures, IDX files, or .npz.")
@option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True)
@option("--data-name", default="", help="Name of the data set, for the card; default: the folder's.")
@option("--image-size", default="", metavar="WxH", help="Crop and scale the pictures to this size; or N, a square.")
@option("--skip", type=number(0), default=0, metavar="N", help="Skip the first N pictures.")
@option("--limit", type=number(1), metavar="N", help="Only use the first N of the remaining pictures.")
@option("--judge", metavar="MODEL", help="A classifier for the pictures, e.g. judge-fashion.")
@option("--samples", type=SAMPLES, help="How many pictures to draw, for models that draw.")
@set_option("PORT=NUMBER", "A port of the drawing task, e.g. steps=10.")
@option("--inception", type=PATH, metavar="FILE", help="Weights of the Inception network, for FID.")
@option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@option(*ISOLATE, default=None, help=ISOLATE_HELP)
@option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--save", is_flag=True, help="Write the metrics into the bundle's manifest and card.")
@option("--json", "json_", is_flag=True, help="Print the metrics as JSON.")
def command(
    model: str,
    registries: tuple[str, ...],
    device: "Device",
    isolated: bool | None,
    judge: str | None,
    save: bool,
    json_: bool,
    **options: Any,
) -> None:
    """Measure MODEL on pictures, in ONNX Runtime, and compare with its card.

    \b
    Example:
      zoo eval vqvae-fashion --data fashion-mnist/ --judge judge-fashion
      zoo eval ddpm-fashion --data fashion-mnist/ --judge judge-fashion --set guidance=1
    """
    from ..build.measure import Measurement, finite, measure
    from ..run.model import Model
    from ..store.locate import is_path, locate

    bundle = locate(model, registries=registries, isolated=isolated)
    if save and not is_path(model):
        raise UsageError(f"--save writes into a bundle's folder; '{model}' is a published model, which never changes")
    judging = Model(locate(judge, registries=registries, isolated=isolated), device=device) if judge else None
    how = Measurement(**options)
    metrics = finite(measure(Model(bundle, device=device), judging, how, measuring(bundle.manifest.name), note), note)
    again = shlex.join(how.command(bundle.manifest.name, judging and judging.manifest.name))
    metrics = [msgspec.structs.replace(m, command=again) for m in metrics]
    if save:
        from ..build.export import update_bundle
        from ..store.trust import remember, was_made_here
        from ..system.paths import user_path

        manifest = msgspec.structs.replace(bundle.manifest, metrics=tuple(metrics))
        manifests.parse(manifests.dump(manifest), f"the metrics of {model}")  # what is written can be read
        saved = update_bundle(user_path(model), manifest)  # not the private copy, which was measured
        if was_made_here(bundle.digest):
            remember(manifests.digest(manifests.dump(saved)))
        note(f"saved in {model}")
    if json_:
        as_json(metrics)
        return
    card = {(m.name, m.data): m.value for m in bundle.manifest.metrics}
    rows = [(m.name, m.value, m.unit, card.get((m.name, m.data), ""), m.samples, m.data) for m in metrics]
    table(rows, ["metric", "measured", "unit", "card", "pictures", "data"])


def measuring(name: str) -> Callable[[Iterator, int], Iterator]:
    """A wrapper that shows the progress of a measurement."""

    def with_progress(iterator: Iterator, length: int) -> Iterator:
        with progress(length, f"measuring {name}", unit="batch") as bar:
            for item in iterator:
                yield item
                bar.update(1)

    return with_progress
