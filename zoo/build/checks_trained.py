"""Checks of what a family does besides tasks: training, measuring, importing.

Each returns what it checked, or raises a Finding.
"""

from collections.abc import Mapping

import msgspec
import torch
from safetensors.torch import save_file

from ..errors import PluginError, ZooError
from ..hookspecs import Imported, ImportRequest, MeasureRequest, Metric
from ..plugins import places
from ..plugins.finding import brief, for_author
from ..run.model import Model
from ..store.locate import read_folder
from .subject import RESUMED_STEPS, Finding, Subject, count, place_in
from .train import load_weights

MEASURED = 16
"""Pictures that metrics are measured on, which says nothing but that they can be."""


def training(s: Subject) -> str:
    if not s.loaded.implements("build_trainer"):
        return "it has no build_trainer: nothing to train"
    _, name, losses = s.trained
    if not losses[-1] < losses[0]:
        s.fail(
            f"the first loss, '{name}', went from {losses[0]:.4g} to {losses[-1]:.4g}"
            f" in {len(losses)} steps on one batch; it must fall",
            "build_trainer",
        )
    return f"{name} from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps on one batch"


def resuming(s: Subject) -> str:
    if not s.loaded.implements("build_trainer"):
        return "it has no build_trainer: nothing to resume"
    whole = s.trained_briefly(resumed=False)
    if other := _first_other(whole, s.trained_briefly(resumed=False)):
        s.fail(
            f"two trainings of {RESUMED_STEPS} steps with the same generators differ, in {other}: `step` must draw all"
            " random numbers from the generator that it is given",
            "build_trainer",
        )
    try:
        resumed = s.trained_briefly(resumed=True)
    except (ZooError, Finding):
        raise
    except Exception as e:
        where = places.of_error(e, s.plugin.module)
        raise Finding(f"resuming its training raised {brief(e)}", where, "docs/contract.md#trainer") from e
    if other := _first_other(whole, resumed):
        s.fail(
            f"a training resumed after {RESUMED_STEPS // 2} of {RESUMED_STEPS} steps differs from one without a break,"
            f" in {other}: `state_dict` and `load_state_dict` must keep everything that `step` changes",
            "build_trainer",
        )
    return f"{count(RESUMED_STEPS, 'step')} with a checkpoint in the middle give the weights of as many without"


def _first_other(weights: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> str:
    """The first tensor that differs; empty if none does."""
    return next((name for name, tensor in weights.items() if not torch.equal(tensor, others[name])), "")


def measure(s: Subject) -> str:
    if not s.loaded.implements("measure"):
        return "it has no measure: nothing to measure"
    batch = s.draw_batch(MEASURED)
    images, labels = batch.images.numpy(), batch.labels.numpy()
    request = MeasureRequest(
        family=s.family,
        config=s.manifest.config,
        model=Model(read_folder(s.bundle, isolated=False), device="cpu"),
        images=images,
        labels=labels,
        judge=None,
        progress=lambda iterator, number: iterator,
        training_images=images[::-1].copy() if "generate" in s.tasks.tasks else None,
        arrays={name: array.numpy() for name, array in batch.arrays.items()},
        assets=s.assets,
    )
    metrics = s.loaded.call("measure", request)
    for metric in metrics:
        if not isinstance(metric, Metric):
            s.fail(f"measure returned a list with a {type(metric).__name__}; it must be a list of Metric", "measure")
        try:
            msgspec.convert(msgspec.to_builtins(metric), Metric)
        except msgspec.ValidationError as e:
            s.fail(f"the metric '{metric.name}' cannot be written in a manifest: {e}", "measure")
    names = [metric.name for metric in metrics]
    if twice := {name for name in names if names.count(name) > 1}:
        s.fail(f"measure returned the metric '{min(twice)}' twice", "measure")
    return f"{', '.join(names) or 'no metric'} without a judge, on {MEASURED} drawn pictures"


def importer(s: Subject) -> str:
    if not s.loaded.implements("import_checkpoint"):
        return "it has no import_checkpoint: nothing to import"
    own = {name: tensor.clone() for name, tensor in s.module.state_dict().items()}
    short = dict(list(own.items())[:-1])
    misshapen = own | {name: tensor[..., None] for name, tensor in list(own.items())[:1]}
    files = {
        "a file without any of its tensors": {"no.such.layer.weight": torch.zeros(3)},
        "its own weights": own,
        "its own weights without the last tensor": short,
        "its own weights with a misshapen tensor": misshapen,
    }
    for what, tensors in files.items():
        s.folder.mkdir(parents=True, exist_ok=True)
        path = s.folder / "foreign.safetensors"
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
        request = ImportRequest(family=s.family, path=path, tensors=tensors, config=None)
        try:
            imported = s.loaded.call("import_checkpoint", request)
        except PluginError as e:
            why = f"given {what}: {for_author(str(e))}; return None for another layout, or raise an InvalidFileError"
            s.fail(why, "import_checkpoint", place_in(str(e)))
        except ZooError as e:
            if "\n" in str(e):
                s.fail(f"given {what}, it is refused with more than one line: {e}", "import_checkpoint")
            continue
        if isinstance(imported, Imported):
            try:
                load_weights(s.build(s.validated(imported.config)), imported.state_dict)
            except ZooError as e:
                s.fail(f"given {what}, what it imports does not fit build_module: {e}", "import_checkpoint")
    return f"{count(len(files), 'checkpoint')}, each imported or refused in one line"
