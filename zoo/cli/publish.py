"""`zoo publish`: copies a bundle into a registry folder."""

from pathlib import Path

import click

from ..errors import ZooError
from .options import OUT, PATH, option
from .output import note, path


@click.command("publish")
@click.argument("bundle", type=PATH)
@option("--to", "folder", type=OUT, required=True, help="The registry's folder.")
@option(
    "--sign", "key_files", type=PATH, multiple=True, metavar="FILE", help="Sign the registry with this key; repeat."
)
def command(bundle: Path, folder: Path, key_files: tuple[Path, ...]) -> None:
    """Copy BUNDLE into a registry folder and list it in the folder's registry.yaml.

    Any folder can be a registry, and so can any web server or bucket that serves it. A published version never changes.
    What a picture takes is measured on one core and listed too; of a bundle that was made elsewhere, only with
    ZOO_ISOLATE=0. A registry that is signed (zoo registry sign) must be signed again, with --sign.

    \b
    Example:
      zoo publish my-vqvae/ --to my-registry/
      zoo registry add mine my-registry/
    """
    from ..store.publish import publish
    from ..system.ed25519 import SigningKey

    keys = [SigningKey.read(file) for file in key_files]
    manifest = publish(bundle, folder, lambda: _seconds(bundle), keys)
    note(f"published {manifest.name}:{manifest.version} ({len(manifest.files) + 1} files)")
    path(folder / "registry.yaml")


def _seconds(bundle: Path) -> float | None:
    """What a picture takes. A stranger's model does not run in this process, which would measure nothing elsewhere."""
    from ..formats.manifest import digest, read_bytes
    from ..run.model import load
    from ..run.speed import seconds_a_picture
    from ..store.trust import runs_apart, was_made_here

    try:
        if runs_apart(None, lambda: was_made_here(digest(read_bytes(bundle)))):
            note("seconds a picture: not measured, as the bundle was not made here; ZOO_ISOLATE=0 measures them")
            return None
        return seconds_a_picture(load(str(bundle.absolute()), "cpu", isolated=False))
    except ZooError as e:  # it can be published all the same
        note(f"seconds a picture: not measured: {e}")
        return None
