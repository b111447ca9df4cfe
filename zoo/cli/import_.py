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
from ..text import safe_text
from .options import OUT, PATH, class_names, number, option, refuse_existing, spdx
from .output import note
from .output import path as print_path

if TYPE_CHECKING:
    from ..build.foreign import Foreign
    from ..build.train import Run
    from ..hookspecs import Extra, Imported
    from ..plugins import Loaded

MAX_LORA = 10
"""The largest weight of a LoRA, with either sign."""

PRECISIONS = {"fp32": "float32", "fp16": "float16"}
"""The name on the command line, and the name in the manifest."""

NOT_STATED = "NOASSERTION"  # SPDX's word for a licence that nobody stated


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
    default=NOT_STATED,
    show_default=True,
    callback=spdx,
    help="SPDX expression for the weights; default for pipelines: their README's.",
)
@option("--license-note", default="", help="What else users must know, e.g. about the data's licence.")
@option("--layout", default="", help="Which layout it is, if its tensors fit several: dit, sit, …")
@option("--tasks", default="", metavar="NAME[,NAME…]", help="The tasks to export; default: all that fit.")
@option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="Of the stored weights; fp16 halves the files. Graphs compute in float32.",
)
@option("--classes", default="", help="Names of the labels, starting with label 0, separated by commas.")
@option(
    "--lora",
    multiple=True,
    metavar="FILE[:WEIGHT]",
    help="A LoRA to merge into the weights, of weight 1 if none is given; repeatable. Family latent.",
)
@option("--vae", type=PATH, metavar="FILE_OR_FOLDER", help="A codec in place of the pipeline's own. Family latent.")
@option(
    "--prior",
    type=PATH,
    metavar="FILE_OR_FOLDER",
    help="The transformer that draws the codec's tokens, if it has a file of its own. Family vqgan.",
)
@option(
    "--tokenizer",
    type=PATH,
    metavar="FOLDER",
    help="Where vocab.json and merges.txt are, for a file without a vocabulary. Family latent.",
)
@option(
    "--prediction",
    type=click.Choice(["epsilon", "v"]),
    help="What the denoiser predicts, for a file that does not say. Family latent.",
)
def command(
    family: str,
    path: Path,
    out: Path,
    name: str | None,
    classes: str,
    layout: str,
    tasks: str,
    precision: str,
    lora: tuple[str, ...],
    vae: Path | None,
    prior: Path | None,
    tokenizer: Path | None,
    prediction: str | None,
    **options: Any,
) -> None:
    """Make a bundle of FAMILY from a checkpoint that another project wrote.

    FILE_OR_FOLDER is a .safetensors, .ckpt, .pt, .pth, .bin or .pkl file, the index of a sharded one, or a folder with
    one of these; a config.json or config.yaml next to it is read too. No code from a pickle is run. You have to state
    the licence of the weights.

    \b
    Example:
      zoo import vqvae checkpoint.pt --out my-vqvae/ --license MIT
      zoo import ddpm ddpm-cifar10-32/ --out cifar/ --tasks generate,inpaint
      zoo import vqgan vq_ds16_c2i.pt --prior c2i_B_256.pt --out llamagen/ --license MIT
      zoo import latent stable-diffusion-v1-5/ --out sd/ --lora style.safetensors:0.8 --license CreativeML-OpenRAIL-M
    """
    from ..system.processes import rest_while_waiting

    rest_while_waiting()
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
    own = {"lora": lora, "vae": vae, "prior": prior, "tokenizer": tokenizer, "prediction": prediction}
    _refuse_options(loaded, family, [option for option, value in own.items() if value])
    checkpoint = foreign.read(path)
    run = replace(run, license=_license(path, run.license))
    extras = _extras(lora, {"vae": vae, "prior": prior})
    said_more = {option: str(own[option]) for option in ("tokenizer", "prediction") if own[option]}
    imported = _translate(loaded, family, checkpoint, layout, extras, said_more)
    config = dict(loaded.call("validate_config", ConfigRequest(family=run.family, config=imported.config)))
    chosen = _choose_tasks(loaded, run, config, tasks)
    brought = assets.check(imported.assets, "import_checkpoint")
    run = replace(run, config=config, summary=options["summary"] or f"Imported from {imported.layout}", assets=brought)
    module = rebuild(loaded, run, imported.state_dict)
    parent = f"imported from {imported.layout}, {_digest(checkpoint.files)}{_merged(extras)}"
    del checkpoint, imported, extras  # the module has copies; a large model would stay in memory twice
    record = Training(
        command=without_secrets(shlex.join(["zoo", *sys.argv[1:]]))[:2000],
        parent=parent,
        environment=f"Python {platform.python_version()}, {platform.machine()}",
    )
    manifest = bundle_of(loaded, run, module, record, out, note, chosen, PRECISIONS[precision])
    note(f"{manifest.name}:{manifest.version}, {', '.join(manifest.tasks)}")
    print_path(out)


def _license(path: Path, given: str) -> str:
    """The licence of the weights: the one that was given, or that a pipeline's own folder states.

    Raises:
        UsageError: a whole pipeline, whose parts can come from several sources, without either.
    """
    from ..build import foreign, weightfiles

    if given != NOT_STATED or not path.is_dir() or not weightfiles.parts(path):
        return given
    if stated := foreign.stated_license(path):
        note(f"{path.name}/{foreign.README}: the licence of the weights is {stated}")
        return stated
    raise UsageError(
        f"{safe_text(path)} does not state the licence of its weights: give --license with its SPDX expression"
    )


def _refuse_options(loaded: "Loaded", family: str, given: list[str]) -> None:
    from ..hookspecs import DescribeRequest

    taken = loaded.call("describe_family", DescribeRequest(family=family)).import_options
    for name in given:
        if name not in taken:
            raise UsageError(f"--{name}: an import of the family '{family}' does not take it")


def _extras(loras: tuple[str, ...], paths: dict[str, Path | None]) -> dict[str, tuple["Extra", ...]]:
    """The weights that --lora, --vae and --prior name."""
    from ..build import foreign
    from ..hookspecs import Extra

    def read(path: Path, weight: float = 1.0) -> Extra:
        found = foreign.read(path)
        return Extra(path=found.path, tensors=found.tensors, config=found.config, weight=weight)

    extras = {"lora": tuple(read(*_with_weight(text)) for text in loras)}
    extras |= {option: (read(path),) for option, path in paths.items() if path}
    return {option: found for option, found in extras.items() if found}


def _with_weight(text: str) -> tuple[Path, float]:
    """`FILE:0.8` as file and weight; without a number after a colon, the weight is 1."""
    file, colon, number = text.rpartition(":")
    try:
        weight = float(number) if colon and file else None
    except ValueError:
        weight = None
    if weight is None:
        return Path(text), 1.0
    if not -MAX_LORA <= weight <= MAX_LORA:
        raise UsageError(f"--lora {safe_text(text)[:200]}: the weight must be from -{MAX_LORA} to {MAX_LORA}")
    return Path(file), weight


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


def _merged(extras: dict[str, tuple["Extra", ...]]) -> str:
    """The files that options add, for the training record."""
    listed = [
        f"; --{option} of weight {extra.weight:g}, {_digest((extra.path,))}"
        if option == "lora"
        else f"; --{option}, {_digest((extra.path,))}"
        for option, found in extras.items()
        for extra in found
    ]
    return "".join(listed)


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


def _translate(
    loaded: "Loaded",
    family: str,
    checkpoint: "Foreign",
    layout: str,
    extras: dict[str, tuple["Extra", ...]],
    options: dict[str, str],
) -> "Imported":
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
            family=family,
            path=checkpoint.path,
            tensors=tensors,
            config=checkpoint.config,
            layout=layout,
            extras=extras,
            options=options,
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
