"""`zoo animate`: shows a sampler's steps, or a walk between two seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .compare import assigned
from .options import MODEL, SEED, Fraction, TaskCommand, number, option, set_option
from .output import as_json, note, path, progress
from .run import how_to_run, locate_with_progress

if TYPE_CHECKING:
    from ..runtime import Device


@click.command("animate", cls=TaskCommand)
@click.argument("model", type=MODEL)
@option("--task", metavar="TASK", help="What it does.  [default: the model's default task]")
@option("--walk", type=SEED, nargs=2, metavar="A B", help="A walk from seed A to seed B, instead of the steps.")
@option("--frames", type=number(2, 1000), metavar="N", help="Of a walk.  [default: 24]")
@option("--predicted", is_flag=True, help="Of each step, show the picture that it predicts.")
@option("--label", metavar="NAME|NUMBER", help="The class to draw.")
@option("--text", "texts", multiple=True, metavar="TEXT", help="What to draw; several: one for each picture.")
@option("--seed", type=SEED, metavar="N", help="Of the first picture.  [default: random, and printed]")
@option("-n", "count", type=number(1, 100), metavar="N", help="How many pictures next to each other.  [default: 1]")
@set_option("OPTION=NUMBER", "Another option, e.g. steps=40.")
@option("--fps", type=Fraction(0.1, 50), default=10.0, show_default=True, help="Frames per second.")
@option("--scale", type=number(1, 64), metavar="N", help="Enlarge the pictures.  [default: at least 112 pixels wide]")
@option("--out", metavar="FILE", help="A .gif, .apng, .png or .webp.  [default: a .gif named after the model]")
@how_to_run
def command(
    model: str, task: str | None, walk: tuple[int, int] | None, frames: int | None, predicted: bool, label: str | None,
    texts: tuple[str, ...], seed: int | None, count: int | None, assignments: tuple[str, ...], fps: float,
    scale: int | None, out: str | None, shown: bool, device: "Device", isolated: bool | None,
    registries: tuple[str, ...], as_data: bool,
) -> None:  # fmt: skip
    """Show the steps in which MODEL draws a picture, or a walk between two seeds, as GIF, APNG or WebP.

    The steps begin with noise; the last one is shown a second longer. Models without graphs for their steps can only be
    walked, if one of their tasks takes the latents. APNG and WebP lose nothing; a GIF has 256 colours.

    \b
    Example:
      zoo animate ddpm-fashion --label sneaker -n 9 --seed 7 --out steps.gif
      zoo animate ddpm-fashion --label bag --walk 3 9 --frames 24 --out walk.webp
    """
    from ..run.model import Model
    from ..run.motion import ANIMATION, Asked, animate
    from ..run.outputs import check_again_out, free_path, write_file
    from ..run.show import check_show, show

    if walk and (seed is not None or count is not None or predicted):
        raise UsageError("--walk A B takes the place of --seed, -n and --predicted")
    if frames is not None and not walk:
        raise UsageError("--frames is for --walk; the steps are as many as the sampler takes: --set steps=N")
    if as_data and out == "-":
        raise UsageError("--json and --out - both write to stdout; choose one")
    if shown:
        check_show(out, as_data)
    if out is not None:
        check_again_out(out, ANIMATION)
    found = Model(locate_with_progress(model, registries, isolated), device)
    given: dict[str, Any] = {**dict(map(assigned, assignments))}
    if label is not None:
        if "label" in given:
            raise UsageError("--label and --set label=… name the label twice; give one of the two")
        given["label"] = (label,)
    bars: list[Any] = []

    def tell(done: int, total: int) -> None:
        if not bars:
            bars.append(progress(total, "drawing", unit="step"))
        bars[0].update(done - bars[0].n)

    try:
        asked = Asked(task, given, texts, walk, frames or Asked.frames, seed, count, predicted, scale)
        made = animate(found, asked, note, tell)
    finally:
        for bar in bars:
            bar.close()
    target = out or str(free_path(made.name, ".gif"))
    paths = write_file(target, made.encode(Path(target).suffix.lower(), fps))
    if as_data:
        as_json({"paths": paths, "model": found.reference, "digest": found.digest, "frames": len(made.frames),
                 "seconds": round(made.seconds, 4)})  # fmt: skip
        return
    note(f"{len(made.frames)} frames, {made.seconds:.2f} s")
    for place in paths:
        path(place)
    if shown:
        show(paths, note)
