"""From a trained module to its bundle, and from a bundle back to weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file
from torch import nn

from ..formats.golden import read_cases
from ..formats.manifest import Manifest, Training, digest, dump
from ..hookspecs import BuildRequest
from ..names import GOLDEN, graph_file
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
    precision: str = "float32",
) -> Manifest:
    """Exports a trained module as a bundle to `out`, and remembers that it was made here: it needs no worker process.

    See `export.export_bundle` for `tasks`, `precision`, progress and errors.
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
        precision=precision,
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


def carry_metrics(out: Path, manifest: Manifest, source: Path, old: Manifest) -> Manifest:
    """Copies a model's metrics to the bundle in `out`, rebuilt from its weights with the same config, if they hold.

    They do if the new graphs give the outputs of all golden cases of the old ones, within the model's tolerance. The
    note of the training record then says where the metrics come from.

    Args:
        source, old: the folder and the manifest of the model that was rebuilt.
    """
    if not old.metrics or not _replays(out, manifest, source, old):
        return manifest
    from .export import update_bundle

    note = f"Weights and figures are those of {old.name}:{old.version}, whose golden cases these graphs reproduce."
    training = msgspec.structs.replace(manifest.training, note=f"{manifest.training.note} {note}".strip())
    saved = update_bundle(out, msgspec.structs.replace(manifest, metrics=old.metrics, training=training))
    remember(digest(dump(saved)))
    return saved


def _replays(out: Path, manifest: Manifest, source: Path, old: Manifest) -> bool:
    """Whether the graphs in `out` give the golden outputs of another bundle."""
    from ..run.replay import judge
    from ..runtime import open_session

    def inputs(m: Manifest) -> dict[str, list[str]]:
        return {name: list(m.tasks[name].inputs) for name in old.tasks if name in m.tasks}

    if inputs(manifest) != inputs(old):
        return False
    outputs = {}
    for name, cases in read_cases(source / GOLDEN, old).items():
        session = open_session(out / graph_file(name), "cpu", exact=True)
        outputs[name] = [session.run(case.inputs) for case in cases]
    return all(task.verdict != "differs" for task in judge(source, old, outputs, "cpu"))
