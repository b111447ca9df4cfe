"""`zoo compare`: draws several models' pictures side by side."""

from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .options import MODEL, Several, TaskCommand, number, option, set_option
from .output import as_json, note, path
from .run import how_to_run, locate_with_progress

if TYPE_CHECKING:
    from ..runtime import Device


@click.command("compare", cls=TaskCommand)
@click.argument("models", type=MODEL, nargs=-1, required=True)
@option("--task", metavar="TASK", help="What they do.  [default: the first model's default task]")
@option("--image", "images", multiple=True, metavar="FILE", help="A picture that all are given; may be repeated.")
@option("--label", "labels", multiple=True, metavar="NAME|LIST", help="A class that all draw; a list; all.")
@option("--text", "texts", multiple=True, metavar="TEXT", help="What all draw; several: one for each picture.")
@option(
    "--seed", type=Several(int), metavar="N|LIST", help="The first seed, or a list.  [default: random, and printed]"
)
@option("-n", "count", type=int, metavar="N", help="How many seeds.  [default: 8; one for each picture or label]")
@set_option("OPTION=NUMBER", "Another option, e.g. steps=10.")
@option("--scale", type=number(1, 64), metavar="N", help="Enlarge the pictures.  [default: room for the captions]")
@option("--out", metavar="FILE", help="The sheet, a PNG.  [default: compare.png]")
@how_to_run
def command(
    models: tuple[str, ...], task: str | None, images: tuple[str, ...], labels: tuple[str, ...], texts: tuple[str, ...],
    seed: Any, count: int | None, assignments: tuple[str, ...], scale: int | None, out: str | None, shown: bool,
    device: "Device", isolated: bool | None, registries: tuple[str, ...], as_data: bool,
) -> None:  # fmt: skip
    """Draw the pictures of several MODELS side by side, from the same seeds, labels or pictures.

    The sheet has a row for each model, with captions. The time for one picture is printed for each model, without
    opening it. Labels are matched by class name; a model that does not take a label, text or seed draws without.

    \b
    Example:
      zoo compare ddpm-fashion vqvae-fashion gan-fashion --label sneaker -n 6 --seed 1
      zoo compare vqvae-fashion vqgan-fashion --task reconstruct --image shoe.png
    """
    from ..ports.image import PICTURES
    from ..run.lineup import Asked, line_up
    from ..run.model import Model
    from ..run.outputs import check_again_out, free_path, write_file
    from ..run.show import check_show, show

    if as_data and out == "-":
        raise UsageError("--json and --out - both write to stdout; choose one")
    if shown:
        check_show(out, as_data)
    if out is not None:
        check_again_out(out, PICTURES)
    if len(models) < 2:
        raise UsageError("name at least two models: zoo compare A B …")
    found = [Model(locate_with_progress(model, registries, isolated), device) for model in models]
    asked = Asked(task, images, labels, texts, seed, count, dict(map(assigned, assignments)), scale)
    lineup = line_up(found, asked, note)
    paths = write_file(out or str(free_path("compare", ".png")), lineup.sheet())
    if as_data:
        as_json({"paths": paths, "task": lineup.rows[0].call.task, "pictures": len(lineup.rows[0].pictures), "models": [
            {"model": row.model.reference, "digest": row.model.digest, "provider": row.result.provider,
             "device": row.result.device, "seconds": round(row.result.seconds, 4),
             "seconds_per_picture": round(row.seconds, 5), "notes": row.notes}
            for row in lineup.rows
        ]})  # fmt: skip
        return
    for row in lineup.rows:
        note(f"{row.model.reference}: {row.seconds:.3g} s for a picture, on {row.result.device}")
    for place in paths:
        path(place)
    if shown:
        show(paths, note)


def assigned(text: str) -> tuple[str, float | int]:
    """The name and the number of `steps=10`."""
    name, equals, value = text.partition("=")
    try:
        return name.strip().replace("-", "_"), (int(value) if value.strip().isdecimal() else float(value))
    except ValueError:
        wrong = "is not a number" if equals else "has no value"
        raise UsageError(
            f"--set {text[:80]}: '{value[:80] if equals else name[:80]}' {wrong}; e.g. --set steps=10"
        ) from None
