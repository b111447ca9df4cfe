"""`zoo publish`: copies a bundle into a registry folder."""

from pathlib import Path

import click

from .options import OUT, PATH, option
from .output import note, path


@click.command("publish")
@click.argument("bundle", type=PATH)
@option("--to", "folder", type=OUT, required=True, help="The registry's folder.")
def command(bundle: Path, folder: Path) -> None:
    """Copy BUNDLE into a registry folder and list it in the folder's registry.yaml.

    Any folder can be a registry, and so can any web server or bucket that serves it. A published version never changes.

    \b
    Example:
      zoo publish my-vqvae/ --to my-registry/
      zoo registry add mine my-registry/
    """
    from ..store.publish import publish

    manifest = publish(bundle, folder)
    note(f"published {manifest.name}:{manifest.version} ({len(manifest.files) + 1} files)")
    path(folder / "registry.yaml")
