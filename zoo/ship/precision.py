"""Makes a bundle smaller: weights in 16 bits, or products in 8, with its own golden cases.

The cost is measured with the model's own metrics, before and after, on the same pictures; `zoo export` refuses a bundle
that lost more than `BOUND`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx

from ..errors import ExportError, UsageError
from ..formats import manifest as manifests
from ..formats.golden import Case, read_cases, write_cases
from ..hookspecs import Metric, Tolerance
from ..media import tensors
from ..names import CARD, GOLDEN, MANIFEST, graph_file
from ..ports.inputs import complete
from ..ports.kind import RealInputs
from ..ports.kinds import kind_of
from ..ports.seed import seeds_of
from ..run.isolated import opener
from ..run.model import Model
from ..store.locate import Bundle
from . import fp16, int8, products
from .products import WATCHES, Arrays, Seen

if TYPE_CHECKING:
    from ..system.worker import Worker

PRECISIONS = {"fp16": "float16", "int8": "int8"}
"""The name on the command line, and the name in the manifest."""

BOUND = 0.02
"""A metric may get worse by this share of its value; one in points, by this share of 100 points, which is 2."""

# The integer kernels of different processors sum in different orders, and one level of an activation is many levels
# of a pixel.
INT8_TOLERANCE = Tolerance(pixel_levels=8, pixel_share=0.99, pixel_levels_worst=64, absolute=0.05, relative=0.05)

CALIBRATION_BATCH = 16
DRAWN_BATCHES = 2
"""The number of batches drawn to measure activations: a loop shows those of every step."""

Models = dict[str, onnx.ModelProto]
"""The graphs of a bundle, by task."""


@dataclass(frozen=True)
class Cost:
    """A metric before and after."""

    name: str
    unit: str
    better: str
    float32: float
    now: float

    @property
    def worse(self) -> float:
        """The share of its value by which it got worse; below 0 if it got better. For points, which may be 0: of 100.

        Infinite if it is now NaN.
        """
        if math.isnan(self.now):
            return math.inf
        whole = 100.0 if self.unit == "points" else max(abs(self.float32), 1e-12)
        change = (self.now - self.float32) / whole
        return -change if self.better == "higher" else change if self.better == "lower" else 0.0


def costs(before: list[Metric], after: list[Metric]) -> list[Cost]:
    """The metrics that both have, for which higher or lower is better, and that were finite in float32."""
    now = {metric.name: metric.value for metric in after}
    return [
        Cost(m.name, m.unit, m.better, m.value, now[m.name])
        for m in before
        if m.better and m.name in now and math.isfinite(m.value)
    ]


@contextmanager
def in_precision(
    bundle: Bundle,
    precision: str,
    measure: Callable[[Bundle], list[Metric]],
    pictures: np.ndarray,
    on_progress: Callable[[str], None],
    *,
    half: bool,
    accept_loss: bool,
) -> Iterator[tuple[Bundle, list[Cost]]]:
    """A smaller bundle of a model, and its cost; the bundle is deleted at the end.

    Args:
        precision: `fp16` or `int8`.
        measure: measures a bundle's metrics, always with the same pictures and the same seeds.
        pictures: as for `lighten`.
        half: the target computes fp16 in 16 bits.
        accept_loss: even if a metric gets worse by more than `BOUND`, or no metric shows the cost.

    Raises:
        UsageError: there is no metric for which higher or lower is better.
        ExportError: a metric got worse by more than `BOUND`.
    """
    before = measure(bundle)
    if not costs(before, before) and not accept_loss:
        raise UsageError(
            f"no metric of {bundle.manifest.name} shows what {precision} costs: give --judge MODEL, a classifier for"
            " such pictures, or --accept-loss to export anyway"
        )
    with TemporaryDirectory(prefix="zoo-precision-") as place:
        lighter = lighten(bundle, precision, Path(place) / "model", pictures, on_progress, half=half)
        on_progress(f"measuring it in {precision}, in the same way")
        computed = rounded(lighter, Path(place) / "rounded") if half and precision == "fp16" else lighter
        after = measure(computed)
        cost = costs(before, after)
        worst = max(cost, key=lambda c: c.worse, default=None)
        if worst and worst.worse > BOUND and not accept_loss:
            raise ExportError(
                f"{precision} makes {worst.name} worse by {worst.worse:.1%}, from {worst.float32:g} to {worst.now:g}"
                f" {worst.unit}".rstrip()
                + f"; the bound is {BOUND:.0%}; --accept-loss exports it anyway"
            )
        yield with_metrics(lighter, after), cost


def lighten(
    bundle: Bundle,
    precision: str,
    folder: Path,
    pictures: np.ndarray,
    on_progress: Callable[[str], None] = lambda line: None,
    *,
    half: bool = False,
) -> Bundle:
    """Writes a smaller bundle of a model to `folder`, which must not exist.

    Its weights keep their names, except those of linear layers over sequences, which are only read transposed: they are
    stored transposed, as `NAME.transposed`.

    Args:
        precision: `fp16` or `int8`.
        pictures: uint8 [number, height, width, channels], real pictures that are not used for the metrics: the ranges
            of activations are measured on them.
        half: fp16 also computes in 16 bits.

    Raises:
        ExportError: the smaller graphs give values that are not finite.
    """
    before = bundle.manifest
    if before.export.precision != "float32":
        raise UsageError(f"{before.name} is already {before.export.precision}; export the float32 model")
    folder.mkdir()
    models = {n: onnx.load(bundle.folder / graph_file(n), load_external_data=False) for n in before.tasks}
    arrays = {n: array for file in _weight_files(bundle) for n, array in tensors.load(bundle.folder / file).items()}
    products.fold_transposes([model.graph for model in models.values()], arrays)
    if precision == "int8":
        _to_int8(models, arrays, Calibration(bundle, pictures), on_progress)
    elif half:
        _to_half(models, arrays, Calibration(bundle, pictures), on_progress)
        on_progress("checking the golden cases with forced rounding")
        refuse_overflow(models, arrays, read_cases(bundle.folder / GOLDEN, before), bundle.worker)
    else:
        for model in models.values():
            fp16.halve(model.graph, arrays)
    _write_graphs(bundle, folder, models, arrays)
    on_progress("running the golden cases")
    return _write_rest(bundle, folder, PRECISIONS[precision])


def rounded(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with forced half-precision rounding, for our own runtime on the CPU, which does not round by itself.

    Args:
        folder: where to write it; it must not exist.
    """
    shutil.copytree(bundle.folder, folder)
    for name in bundle.manifest.tasks:
        model = onnx.load(folder / graph_file(name), load_external_data=False)
        fp16.round_in_half(model.graph)
        (folder / graph_file(name)).write_bytes(model.SerializeToString(deterministic=True))
    return replace(bundle, folder=folder, reference=f"{bundle.reference}, rounded")


def refuse_overflow(
    models: Models, arrays: Arrays, cases: Mapping[str, list[Case]], worker: Worker | None = None
) -> None:
    """Runs the golden cases as a stack that rounds in half precision does, and checks every value in the graph.

    Checking the outputs is not enough: a picture of integers looks finite whatever it was cast from.

    Raises:
        ExportError: a value is not finite.
    """
    for task, model in models.items():
        names = fp16.in_half(model.graph)
        if not names:
            continue
        watched = products.watching(model, names)
        fp16.round_in_half(watched.graph)
        for name, seen in _ranges(watched, names, arrays, [c.inputs for c in cases[task]], worker).items():
            if not np.isfinite(seen).all():
                raise ExportError(f"{task} overflows half precision on its golden cases, at {name}; use int8")


def with_metrics(bundle: Bundle, metrics: list[Metric]) -> Bundle:
    """The bundle with its measured metrics, except NaN, in its manifest."""
    finite = tuple(metric for metric in metrics if math.isfinite(metric.value))
    manifest = msgspec.structs.replace(bundle.manifest, metrics=finite)
    data = manifests.dump(manifest)
    (bundle.folder / MANIFEST).write_bytes(data)
    return replace(bundle, manifest=manifest, digest=manifests.digest(data))


# --- The graphs -------------------------------------------------------------------------------------------------------


def _to_int8(models: Models, arrays: Arrays, inputs: Calibration, on_progress: Callable[[str], None]) -> None:
    fit = int8.quantizable([model.graph for model in models.values()], arrays)
    ranges = _seen(models, arrays, fit, inputs, on_progress)
    delicate = set().union(*(int8.delicate(m.graph, arrays, fit, ranges[n]) for n, m in models.items()))
    fit -= delicate
    keep = _keep_32(sorted(delicate), "8 bits are not enough for them")
    on_progress(f"{len(fit)} products compute in 8 bits{keep}")
    rest = {name: arrays[name] for name in delicate}
    for name, model in models.items():
        int8.quantize(model.graph, arrays, fit, ranges[name])
        fp16.halve(model.graph, rest)
    arrays.update(rest)


def _to_half(models: Models, arrays: Arrays, inputs: Calibration, on_progress: Callable[[str], None]) -> None:
    ranges = _seen(models, arrays, fp16.halvable(arrays), inputs, on_progress)
    for name, model in models.items():
        in_half, kept = fp16.halve(model.graph, arrays, ranges[name])
        if in_half or kept:
            keep = _keep_32(kept, "their results may exceed half precision")
            on_progress(f"{name}: {in_half} products compute in 16 bits{keep}")


def _keep_32(weights: list[str], reason: str) -> str:
    return f"; {len(weights)} keep 32, {reason}: {', '.join(weights)}" if weights else ""


def _seen(
    models: Models, arrays: Arrays, fit: set[str], inputs: Calibration, on_progress: Callable[[str], None]
) -> dict[str, dict[str, Seen]]:
    """The statistics of the inputs and outputs of each task's products, on real inputs."""
    found: dict[str, dict[str, Seen]] = {}
    wholes = {name: task.part_of for name, task in inputs.model.manifest.tasks.items()}
    for name in sorted(models, key=lambda n: wholes[n] is not None):  # parts last
        model, whole = models[name], wholes[name]
        names = products.activations(model.graph, arrays, fit)
        shared = whole and products.ranges_of_part(model, models[whole], found[whole], arrays, fit)
        if shared or not names:  # a separate step would only be seen at the golden cases' steps
            found[name] = shared or {}
            continue
        on_progress(f"measuring the activations of {name}")
        found[name] = _ranges(products.watching(model, names), names, arrays, inputs.of(name), inputs.worker)
    return found


def _ranges(
    watched: onnx.ModelProto, names: Sequence[str], arrays: Arrays, calls: list[dict[str, Any]], worker: Worker | None
) -> dict[str, Seen]:
    """The statistics of each of a model's watched values over some calls."""
    with TemporaryDirectory(prefix="zoo-watched-") as place:
        weights, graph = Path(place) / "weights.safetensors", Path(place) / "watched.onnx"
        tensors.save(weights, arrays)
        places = {name: (weights.name, found) for name, found in tensors.read_header(weights).items()}
        products.point_at(watched.graph, places)
        graph.write_bytes(watched.SerializeToString())
        session = opener(worker)(graph, "cpu")
        seen = [session.run(call) for call in calls]
    return {n: products.together(Seen(*(float(o[f"{n}.{kind}"]) for kind in WATCHES)) for o in seen) for n in names}


# --- The folder -------------------------------------------------------------------------------------------------------


def _weight_files(bundle: Bundle) -> list[str]:
    return sorted(n for n in bundle.manifest.files if n.endswith(".safetensors") and n != GOLDEN)


def _write_graphs(bundle: Bundle, folder: Path, models: Models, arrays: Arrays) -> None:
    """Writes the weights, each into the same file as before, and the graphs that point to them."""
    places = {}
    for file in _weight_files(bundle):
        there = tensors.read_header(bundle.folder / file).keys()
        there |= {f"{name}.transposed" for name in there}
        there |= {f"{name}.scale" for name in there}
        tensors.save(folder / file, {name: array for name, array in arrays.items() if name in there})
        places |= {name: (file, found) for name, found in tensors.read_header(folder / file).items()}
    for name, model in models.items():
        products.point_at(model.graph, places)
        (folder / graph_file(name)).write_bytes(model.SerializeToString(deterministic=True))


def _write_rest(bundle: Bundle, folder: Path, precision: str) -> Bundle:
    """Writes the golden cases with the outputs of the new graphs, the card and the manifest."""
    before = bundle.manifest
    cases = read_cases(bundle.folder / GOLDEN, before)
    write_cases(
        folder / GOLDEN, {name: [_answer(bundle, folder, name, case) for case in cases[name]] for name in before.tasks}
    )
    for name in (CARD, *before.assets):
        shutil.copyfile(bundle.folder / name, folder / name)
    tolerance = next(iter(before.tolerances.values())) if precision == "float16" else INT8_TOLERANCE
    manifest = msgspec.structs.replace(
        before,
        tolerances={f"{precision}/{provider}": tolerance for provider in ("cpu", "cuda")},
        metrics=(),
        export=msgspec.structs.replace(before.export, precision=precision),
        files={path.name: manifests.describe_file(path) for path in sorted(folder.iterdir())},
    )
    data = manifests.dump(manifest)
    (folder / MANIFEST).write_bytes(data)
    reference = f"{bundle.reference} in {precision}"
    return replace(
        bundle, folder=folder, manifest=manifests.read(folder), digest=manifests.digest(data), reference=reference
    )


def _answer(bundle: Bundle, folder: Path, task: str, case: Case) -> Case:
    """A golden case with the outputs of the new graph."""
    outputs = opener(bundle.worker)(folder / graph_file(task), "cpu").run(case.inputs)
    for port, array in outputs.items():  # only floats: integers look finite whatever they were cast from
        if np.isfinite(case.outputs[port]).all() and not np.isfinite(array).all():
            raise ExportError(f"the smaller {task} gives a {port} that is not finite")
    return Case(case.inputs, outputs, case.margins)


# --- Real inputs ------------------------------------------------------------------------------------------------------


class Calibration:
    """Real inputs of each task: pictures, their tokens, every label in turn, seeds from 0, defaults for the rest."""

    def __init__(self, bundle: Bundle, pictures: np.ndarray):
        self.model, self.cases = Model(bundle, "cpu"), read_cases(bundle.folder / GOLDEN, bundle.manifest)
        self.worker = bundle.worker
        self.batches = [pictures[i : i + CALIBRATION_BATCH] for i in range(0, len(pictures), CALIBRATION_BATCH)]
        self.tokens = self._encode()

    def _encode(self) -> list[dict[str, np.ndarray]]:
        tasks = self.model.manifest.tasks
        if "encode" not in tasks or list(tasks["encode"].inputs) != ["image"]:
            return []
        return [self.model.encode(image=batch) for batch in self.batches]

    def of(self, name: str) -> list[dict[str, np.ndarray]]:
        """Calls of a task; its golden cases if it takes inputs that cannot be made here."""
        loops = seeds_of(self.model.manifest.tasks[name].inputs)  # each call is a whole loop
        calls = [self._call(name, i) for i in range(len(self.batches))[: DRAWN_BATCHES if loops else None]]
        made = [call for call in calls if call is not None]
        return made if len(made) == len(calls) else [case.inputs for case in self.cases[name]]

    def _call(self, name: str, number: int) -> dict[str, np.ndarray] | None:
        task = self.model.manifest.tasks[name]
        encoded = self.tokens[number] if self.tokens else {}
        real = RealInputs(self.batches[number], number * CALIBRATION_BATCH, encoded)
        given = {port_name: kind_of(port).real_case(port_name, port, real) for port_name, port in task.inputs.items()}
        return None if any(value is None for value in given.values()) else complete(name, task, given)
