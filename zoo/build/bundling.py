"""From a trained module to its bundle, and from a bundle back to weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ..formats.manifest import Manifest, Training, digest, dump
from ..hookspecs import BuildRequest
from ..names import GOLDEN
from ..plugins import Loaded
from ..runtime import require_runtime
from ..store.trust import remember
from .train import Run, load_weights


def bundle_of(
    loaded: Loaded,
    run: Run,
    module: nn.Module,
    record: Training,
    out: Path,
    on_progress: Callable[[str], None],
    tasks: Sequence[str] = (),
) -> Manifest:
    """Exports a trained module as a bundle to `out`, and remembers that it was made here: it needs no worker process.

    See `export.export_bundle` for `tasks`, progress and errors.
    """
    require_runtime()
    from .export import export_bundle

    manifest = export_bundle(
        out=out,
        name=run.name,
        version=run.version,
        family=run.family,
        loaded=loaded,
        config=run.config,
        module=module,
        classes=tuple(run.classes),
        summary=run.summary,
        license=run.license,
        license_note=run.license_note,
        training=record,
        assets=run.assets,
        on_progress=on_progress,
        only=tasks,
    )
    remember(digest(dump(manifest)))
    return manifest


def read_weights(folder: Path, manifest: Manifest) -> dict[str, torch.Tensor]:
    """The `state_dict` in a bundle's safetensors files."""
    weights: dict[str, torch.Tensor] = {}
    for name in manifest.files:
        if name.endswith(".safetensors") and name != GOLDEN:
            weights |= load_file(folder / name)
    return weights


def rebuild(loaded: Loaded, run: Run, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """The family's module for the run's config, with these weights."""
    build = BuildRequest(family=run.family, config=run.config, classes=tuple(run.classes), assets=run.assets)
    module = loaded.call("build_module", build)
    load_weights(module, weights)
    return module
