"""Pipelines that are not a folder of diffusers as it is: one file, LoRAs, a codec of one's own."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from zoo_diffusion.layouts.common import read_json

from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Extra, Imported, ImportRequest
from zoo.text import safe_text

from . import pipelines
from .lora import merged
from .single_file import CODEC, LAYOUT, TEXT, UNET, as_pipeline, assumed, is_single_file

INDEX = "model_index.json"


def import_checkpoint(request: ImportRequest) -> Imported | None:
    """The hook of the contract: a folder of diffusers, one file, and what the options add.

    Raises:
        InvalidFileError, UsageError: an option does not fit the checkpoint, or the checkpoint is not supported.
    """
    single = is_single_file(request.tensors)
    if not request.extras and not request.options and not single:
        return pipelines.import_checkpoint(request)
    if request.path.name != INDEX and not single:
        raise UsageError(f"{_named(request)} needs a pipeline: a folder with {INDEX}, or one file with all its parts")
    for option in () if single else request.options:
        raise UsageError(f"--{option}: the folder of a pipeline says that itself")
    whole = request
    with tempfile.TemporaryDirectory(prefix="zoo-import-") as scratch:
        if single:
            folder = Path(scratch) / "single"
            index, tensors = as_pipeline(request, folder)
            (folder / INDEX).write_text(json.dumps(index))
            whole = replace(request, path=folder / INDEX, config=index, tensors=tensors)
        for vae in request.extras.get("vae", ()):
            whole = _with_vae(whole, vae, Path(scratch))
        for lora in request.extras.get("lora", ()):
            whole = replace(whole, tensors=merged(whole.tensors, lora))
        imported = pipelines.import_checkpoint(whole)
    if imported is None:
        return None
    notes = tuple(f"merged {lora.path.name} of weight {lora.weight:g}" for lora in request.extras.get("lora", ()))
    notes += tuple(f"took the codec from {vae.path.name}" for vae in request.extras.get("vae", ()))
    if single:
        left = tuple(name for name in request.tensors if not name.startswith((UNET, CODEC, TEXT)))
        imported = replace(imported, layout=LAYOUT, unused=(*left, *imported.unused))
        notes += assumed(request, imported.config)
    return replace(imported, notes=(*imported.notes, *notes))


def _named(request: ImportRequest) -> str:
    return ", ".join(f"--{option}" for option in (*request.extras, *request.options))


# --- A codec of one's own ---------------------------------------------------------------------------------------------


def _with_vae(request: ImportRequest, vae: Extra, scratch: Path) -> ImportRequest:
    """The pipeline with another codec, and with the configs in `scratch`."""
    own = "vae"
    folder = _configs(request.path.parent, scratch / "pipeline")
    config = dict(vae.config or {})
    if not config:  # a file in the original layout, whose sizes are those of its tensors
        said = read_json(folder / own / "config.json") or {}
        config = {name: said[name] for name in ("scaling_factor", "shift_factor") if name in said}
    channels = [list(t.shape)[1] for n, t in vae.tensors.items() if n.endswith("decoder.conv_in.weight") and t.ndim > 1]
    before = [list(t.shape)[1] for n, t in request.tensors.items() if n == f"{own}.decoder.conv_in.weight"]
    if not channels:
        raise InvalidFileError(f"--vae {safe_text(vae.path)}: it is not an AutoencoderKL")
    if before and channels != before:
        raise InvalidFileError(
            f"--vae {safe_text(vae.path)}: its latents have {channels[0]} channels; the pipeline's have {before[0]}"
        )
    (folder / own).mkdir(exist_ok=True)
    (folder / own / "config.json").write_text(json.dumps(config))
    tensors = {name: t for name, t in request.tensors.items() if not name.startswith(f"{own}.")}
    tensors |= {f"{own}.{name}": t for name, t in vae.tensors.items()}
    return replace(request, path=folder / INDEX, tensors=tensors)


def _configs(folder: Path, to: Path) -> Path:
    """A copy of a pipeline's small files, without its weights."""
    for file in [folder / INDEX, *folder.glob("*/*.json"), *folder.glob("*/merges.txt")]:
        if file.is_file() and not file.name.endswith(".index.json"):
            target = to / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return to
