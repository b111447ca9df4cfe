"""`zoo import`: makes a bundle from a foreign checkpoint."""

import platform
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidFileError, UsageError
from ..system.urls import without_secrets
from .options import OUT, PATH, class_names, number, option, refuse_existing, spdx
from .output import note
from .output import path as print_path

if TYPE_CHECKING:
    from ..build.foreign import Foreign
    from ..build.train import Run
    from ..hookspecs import Imported
    from ..plugins import Loaded


@click.command("import")
@click.argument("family")
@click.argument("path", type=PATH, metavar="FILE_OR_FOLDER")
@option("--out", type=OUT, required=True, help="The bundle's folder; must not exist yet.")
@option("--name", help="The model's name; default: the folder's.")
@option("--model-version", "version", type=number(1), default=1, show_default=True)
@option("--summary", default="", help="One line for lists; default: where the weights come from.")
@option(
    "--license",
    "license_",
    default="NOASSERTION",
    show_default=True,
    callback=spdx,
    help="SPDX expression for the weights.",
)
@option("--license-note", default="", help="What else users must know, e.g. about the data's licence.")
@option("--layout", default="", help="Which layout it is, if its tensors fit several: dit, sit, …")
@option("--tasks", default="", metavar="NAME[,NAME…]", help="The tasks to export; default: all that fit.")
@option("--classes", default="", help="Names of the labels, starting with label 0, separated by commas.")
def command(
    family: str, path: Path, out: Path, name: str | None, classes: str, layout: str, tasks: str, **options: Any
) -> None:
    """Make a bundle of FAMILY from a checkpoint that another project wrote.

    FILE_OR_FOLDER is a .safetensors, .ckpt, .pt, .pth, .bin or .pkl file, the index of a sharded one, or a folder with
    one of these; a config.json or config.yaml next to it is read too. No code from a pickle is run. You have to state
    the licence of the weights.

    \b
    Example:
      zoo import vqvae checkpoint.pt --out my-vqvae/ --license MIT
      zoo import ddpm ddpm-cifar10-32/ --out cifar/ --tasks generate,inpaint
    """
    from ..build import foreign
    from ..build.bundling import bundle_of, rebuild
    from ..build.train import Run
    from ..formats import assets
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
        "classes": class_names(classes),
    }
    run = Run.asked(said)
    loaded = load(family)
    checkpoint = foreign.read(path)
    imported = _translate(loaded, family, checkpoint, layout)
    config = dict(loaded.call("validate_config", ConfigRequest(family=run.family, config=imported.config)))
    chosen = _choose_tasks(loaded, run, config, tasks)
    brought = assets.check(imported.assets, "import_checkpoint")
    run = replace(run, config=config, summary=options["summary"] or f"Imported from {imported.layout}", assets=brought)
    module = rebuild(loaded, run, imported.state_dict)
    record = Training(
        command=without_secrets(shlex.join(["zoo", *sys.argv[1:]]))[:2000],
        parent=f"imported from {imported.layout}, {_digest(checkpoint.files)}",
        environment=f"Python {platform.python_version()}, {platform.machine()}",
    )
    manifest = bundle_of(loaded, run, module, record, out, note, chosen)
    note(f"{manifest.name}:{manifest.version}, {', '.join(manifest.tasks)}")
    print_path(out)


def _choose_tasks(loaded: "Loaded", run: "Run", config: dict[str, Any], names: str) -> tuple[str, ...]:
    """The tasks to export, also put into a config that has the field; empty: all. UsageError for an unknown name."""
    from ..hookspecs import TasksRequest
    from ..text import did_you_mean

    chosen = tuple(dict.fromkeys(name for part in names.split(",") if (name := part.strip())))
    request = TasksRequest(family=run.family, config=config, classes=tuple(run.classes))
    known = loaded.call("list_tasks", request).tasks
    for name in chosen:
        if name not in known or known[name].part_of:
            whole = [task for task in known if not known[task].part_of]
            raise UsageError(f"--tasks: '{name}' is not one of {', '.join(whole)}{did_you_mean(name, whole)}")
    if chosen and "tasks" in config:  # so that `zoo build` of the bundle exports the same ones
        config["tasks"] = list(chosen)
    return chosen


def _digest(files: tuple[Path, ...]) -> str:
    """The SHA-256 of a checkpoint's file; of shards, that of the list that `sha256sum *` prints of them."""
    from ..formats.fields import describe_file, digest_of

    several = len({file.parent for file in files}) > 1  # the parts of a pipeline, whose files have the same names
    names = {file: f"{file.parent.name}/{file.name}" if several else file.name for file in files}
    digests = {names[file]: describe_file(file).sha256 for file in files}
    if len(digests) == 1:
        return f"file SHA-256 {next(iter(digests.values()))}"
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    what = "files" if several else "shards"
    return f"{len(digests)} {what}, SHA-256 of the list of their SHA-256 {digest_of(lines.encode())}"


def _translate(loaded: "Loaded", family: str, checkpoint: "Foreign", layout: str) -> "Imported":
    """The checkpoint in the family's own names, after saying what was taken and what was assumed."""
    from ..build.classes import explain
    from ..build.foreign import some
    from ..build.wrappers import parts
    from ..hookspecs import ImportRequest

    for line in checkpoint.notes:
        note(f"{checkpoint.path.name}: {line}")
    # The whole first; then the parts of it that may be the model, for example next to a Lightning module's losses.
    for lines, tensors in [((), checkpoint.tensors), *parts(checkpoint.tensors)]:
        request = ImportRequest(
            family=family, path=checkpoint.path, tensors=tensors, config=checkpoint.config, layout=layout
        )
        imported = loaded.call("import_checkpoint", request)
        if imported is None:
            continue
        if layout.casefold() not in imported.layout.casefold():
            raise UsageError(f"--layout is '{layout}', but the checkpoint has the layout {imported.layout}")
        for line in lines:
            note(f"{checkpoint.path.name}: {line}")
        note(f"{imported.layout}: used {len(tensors) - len(imported.unused)} of {len(checkpoint.tensors)} tensors")
        if imported.unused:
            note(f"not used: {some(imported.unused)}")
        for line in imported.notes:
            note(f"{imported.layout}: {line}")
        return imported
    if not checkpoint.tensors:
        raise InvalidFileError(f"{checkpoint.path} contains no tensors")
    why = explain(checkpoint.config, checkpoint.tensors, family)
    raise InvalidFileError(
        f"{checkpoint.path} has a layout that the family '{family}' does not support;"
        f" {f'{why}; ' if why else ''}its tensors are {some(checkpoint.tensors)}"
    )
