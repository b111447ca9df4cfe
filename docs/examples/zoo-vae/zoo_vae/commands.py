"""`zoo vae`: uses the latents of a VAE."""

from pathlib import Path

import click


@click.group()
def command() -> None:
    """Use the latents of a VAE."""


@command.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--model", default="vae-fashion", show_default=True, help="A model of the family vae, or its folder.")
@click.option("--steps", type=click.IntRange(2, 100), default=8, show_default=True, help="Pictures in the row.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A PNG with the pictures side by side.")
def morph(first: Path, second: Path, model: str, steps: int, out: Path) -> None:
    """Morph the picture FIRST into SECOND in equal steps through the latents.

    \b
    Example:
      zoo vae morph shoe.png boot.png --out row.png
    """
    import numpy as np

    import zoo
    from zoo.errors import UsageError
    from zoo.media import encode_png, read_input, read_pictures

    if out.exists():
        raise UsageError(f"{out} exists; choose another --out")
    vae = zoo.load(model)
    if vae.manifest.family != "vae":
        raise UsageError(f"{model} belongs to the family {vae.manifest.family}; morph needs one of the family vae")
    port = vae.manifest.tasks["encode"].inputs["image"]
    images = read_pictures(
        [read_input(str(first)), read_input(str(second))], "image", port, lambda line: click.echo(line, err=True)
    )
    start, end = vae.encode(image=images)["latents"]
    share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    row = vae.decode(latents=(1 - share) * start + share * end)["image"]  # [steps, H, W, C]
    out.write_bytes(encode_png(np.concatenate(list(row), axis=1)))
    click.echo(out)
