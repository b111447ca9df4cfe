"""`zoo import`: makes a bundle from a foreign checkpoint."""

import platform
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidFileError
from .options import OUT, PATH, number, option, refuse_existing
from .output import note
from .output import path as print_path

if TYPE_CHECKING:
    from ..build.foreign import Foreign
    from ..hookspecs import Imported
    from ..plugins import Loaded


@click.command("import")
@click.argument("family")
@click.argument("path", type=PATH, metavar="FILE_OR_FOLDER")
@option("--out", type=OUT, required=True, help="The bundle's folder; must not exist yet.")
@option("--name", help="The model's name; default: the folder's.")
@option("--model-version", "version", type=number(1), default=1, show_default=True)
@option("--summary", default="", help="One line for lists; default: where the weights come from.")
@option("--license", "license_", default="NOASSERTION", show_default=True, help="SPDX expression for the weights.")
@option("--license-note", default="", help="What else users must know, e.g. about the data's licence.")
@option("--classes", default="", help="Names of the labels, starting with label 0, separated by commas.")
def command(family: str, path: Path, out: Path, name: str | None, classes: str, **options: Any) -> None:
    """Make a bundle of FAMILY from a checkpoint that another project wrote.

    FILE_OR_FOLDER is a .safetensors, .ckpt, .pt, .pth, .bin or .pkl file, or a folder with one; a config.json or
    config.yaml next to it is read too. No code from a pickle is run. You have to state the licence of the weights.

    \b
    Example:
      zoo import vqvae checkpoint.pt --out my-vqvae/ --license MIT
    """
    from ..build import foreign
    from ..build.bundling import bundle_of, rebuild
    from ..build.train import Run
    from ..formats.fields import describe_file
    from ..formats.manifest import Training
    from ..hookspecs import ConfigRequest
    from ..plugins import load

    refuse_existing(out)
    said = {
        "family": family,
        "config": {},
        "settings": {},
        "name": name or out.name,
        "version": options["version"],
        "summary": options["summary"] or "imported",
        "license": options["license_"],
        "license_note": options["license_note"],
        "classes": [c.strip() for c in classes.split(",") if c.strip()],
    }
    run = Run.asked(said)
    loaded = load(family)
    checkpoint = foreign.read(path)
    imported = _translate(loaded, family, checkpoint)
    config = dict(loaded.call("validate_config", ConfigRequest(family=run.family, config=imported.config)))
    run = replace(run, config=config, summary=options["summary"] or f"Imported from {imported.layout}")
    module = rebuild(loaded, run, imported.state_dict)
    record = Training(
        command=shlex.join(["zoo", *sys.argv[1:]])[:2000],
        parent=f"imported from {imported.layout}, file SHA-256 {describe_file(checkpoint.path).sha256}",
        environment=f"Python {platform.python_version()}, {platform.machine()}",
    )
    manifest = bundle_of(loaded, run, module, record, out, note)
    note(f"{manifest.name}:{manifest.version}, {', '.join(manifest.tasks)}")
    print_path(out)


def _translate(loaded: "Loaded", family: str, checkpoint: "Foreign") -> "Imported":
    """The checkpoint in the family's own names, after saying what was taken and what was assumed."""
    from ..build.foreign import some
    from ..hookspecs import ImportRequest

    tensors = checkpoint.tensors
    for line in checkpoint.notes:
        note(f"{checkpoint.path.name}: {line}")
    request = ImportRequest(family=family, path=checkpoint.path, tensors=tensors, config=checkpoint.config)
    imported = loaded.call("import_checkpoint", request)
    if imported is None:
        raise InvalidFileError(
            f"{checkpoint.path} has a layout that the family '{family}' does not support;"
            f" its tensors are {some(tensors)}"
        )
    note(f"{imported.layout}: used {len(tensors) - len(imported.unused)} of {len(tensors)} tensors")
    if imported.unused:
        note(f"not used: {some(imported.unused)}")
    for line in imported.notes:
        note(f"{imported.layout}: {line}")
    return imported
