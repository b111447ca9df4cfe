"""`zoo again`: regenerates a picture from its metadata, and compares."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import IntegrityError, NotFoundError, UsageError
from ..text import safe_text
from .options import option
from .output import as_json, note, path
from .run import DEVICES, ISOLATE, ISOLATE_HELP, locate_with_progress

if TYPE_CHECKING:
    from ..runtime import Device


@click.command("again")
@click.argument("picture")
@option("--file", "--image", "files", multiple=True, metavar="FILE", help="A file that the picture was made from.")
@option("--model", metavar="MODEL", help="The bundle's folder, if the model is not in a registry.")
@option("--out", metavar="FILE", help="Write the new picture to this file: PNG, .npy for maps, .wav, .apng.")
@option("--device", type=DEVICES, default="auto", show_default=True)
@option(*ISOLATE, default=None, help=ISOLATE_HELP)
@option("--registry", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
@option("--json", "as_data", is_flag=True, help="Print the result as JSON.")
def command(
    picture: str, files: tuple[str, ...], model: str | None, out: str | None, device: "Device",
    isolated: bool | None, registry: tuple[str, ...], as_data: bool,
) -> None:  # fmt: skip
    """Regenerate PICTURE from its metadata, and report whether it is identical, within tolerance, or different.

    The files it was made from are looked up next to the picture and in the current folder, and recognised by their
    SHA-256; name others with --file. The exit code is 5 if the picture differs.

    \b
    Example:
      zoo again again.png --file shoe.png
    """
    from ..formats.recipe import possible_names, read_recipe, recipe_reference
    from ..run.again import make_again, write_recipe
    from ..run.model import Model
    from ..run.outputs import check_again_out, write_file
    from ..system.paths import user_path

    if out == "-":
        raise UsageError("`zoo again` prints its result on stdout, so --out - is not possible; give a file")
    recipe, form, expected = read_recipe(picture)
    if out is not None:
        check_again_out(out, form)
    try:
        bundle = locate_with_progress(model or recipe_reference(recipe), registry, isolated)
    except NotFoundError as e:
        where = "" if model else "; if a bundle in a folder made it, name the folder with --model"
        raise NotFoundError(f"{e}{where}") from None
    found = Model(bundle, device)
    folders = dict.fromkeys([user_path(picture).parent, Path()])
    names = [name for records in recipe.files.values() for record in records for name in possible_names(record)]
    beside = [str(folder / name) for name in names for folder in folders]
    remade = make_again(recipe, expected, found, [*files, *beside], note)
    result, comparison = remade.result, remade.comparison
    paths: list[str] = []
    if out is not None:
        text = write_recipe(found, remade.call, result, recipe.output, recipe.index)
        named = remade.form.named(Path(out).suffix.lower())
        paths = write_file(out, named.viewed(remade.call.view).encode_batch(remade.batch, text))
    made = f"made on {safe_text(recipe.provider)}, regenerated on {result.provider}"
    if as_data:
        as_json({
            "picture": picture, "model": found.reference, "digest": found.digest, "verdict": comparison.verdict,
            "text": comparison.text, "provider": result.provider, "seconds": round(result.seconds, 4), "paths": paths,
        })  # fmt: skip
    elif comparison.verdict != "differs":
        within = comparison.verdict == "within"
        verdict = f"the same within tolerance: {comparison.text}" if within else "identical"
        click.echo(f"{verdict} ({made}, {result.seconds:.2f} s)")
        for place in paths:
            path(place)
    if comparison.verdict == "differs":
        raise IntegrityError(f"{picture} differs: {comparison.text} ({made})")
