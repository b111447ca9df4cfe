"""A bundle made smaller: weights in 16 bits, or products in 8, with golden cases of its own.

What that costs is measured on the model's own metrics, before and after, on the same pictures; `zoo export` refuses a
bundle that lost more than `BOUND`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import onnx

from ..errors import ExportError, UsageError
from ..formats import manifest as manifests
from ..formats.golden import Case, read_cases, write_cases
from ..hookspecs import Metric, Tolerance
from ..media import tensors
from ..names import GOLDEN, MANIFEST, graph_file
from ..ports.inputs import complete
from ..ports.kind import RealInputs
from ..ports.kinds import kind_of
from ..ports.seed import seeds_of
from ..run.model import Model
from ..runtime import open_session
from ..store.locate import Bundle
from . import rewriting
from .rewriting import WATCHES, Arrays, Seen

PRECISIONS = {"fp16": "float16", "int8": "int8"}
"""What the command line says, and what the manifest says."""

BOUND = 0.02
"""A metric may get worse by this share of its value; one in points by this share of 100 points, which is 2."""

# Integer kernels of two processors add in another order, and a level of an activation is many of a pixel.
INT8_TOLERANCE = Tolerance(pixel_levels=8, pixel_share=0.99, pixel_levels_worst=64, absolute=0.05, relative=0.05)

CALIBRATION_BATCH = 16
DRAWN_BATCHES = 2
"""So many batches are drawn to see activations of: a loop shows those of every step."""

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
        """By which share of its value it got worse; below 0 where it got better. Of points, which may be 0: of 100.

        Infinite where it is no number any more.
        """
        if math.isnan(self.now):
            return math.inf
        whole = 100.0 if self.unit == "points" else max(abs(self.float32), 1e-12)
        change = (self.now - self.float32) / whole
        return -change if self.better == "higher" else change if self.better == "lower" else 0.0


def costs(before: list[Metric], after: list[Metric]) -> list[Cost]:
    """The metrics that both have, that say which way is better, and that were finite in float32."""
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
    """A smaller bundle of a model, and what that costs; both are gone at the end.

    Args:
        precision: `fp16` or `int8`.
        measure: a bundle's metrics, always with the same pictures and the same draws.
        pictures: as `lighten` takes them.
        half: fp16 computes in 16 bits where it is shipped to.
        accept_loss: also where a metric gets worse by more than `BOUND`, or nothing says what it costs.

    Raises:
        UsageError: no metric says which way is better.
        ExportError: one got worse by more than `BOUND`.
    """
    before = measure(bundle)
    if not costs(before, before) and not accept_loss:
        raise UsageError(
            f"nothing that was measured of {bundle.manifest.name} says what {precision} costs: --judge MODEL, a"
            " classifier of such pictures, does; --accept-loss goes on without"
        )
    with TemporaryDirectory(prefix="zoo-precision-") as place:
        lighter = lighten(bundle, precision, Path(place) / "model", pictures, on_progress, half=half)
        on_progress(f"measuring it in {precision}, with the same")
        computed = rounded(lighter, Path(place) / "rounded") if half and precision == "fp16" else lighter
        after = measure(computed)
        cost = costs(before, after)
        worst = max(cost, key=lambda c: c.worse, default=None)
        if worst and worst.worse > BOUND and not accept_loss:
            raise ExportError(
                f"{precision} makes {worst.name} worse by {worst.worse:.1%}, from {worst.float32:g} to {worst.now:g}"
                f" {worst.unit}".rstrip()
                + f"; the bound is {BOUND:.0%}, and --accept-loss takes it all the same"
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
    """Writes a smaller bundle of a model at `folder`, which must not exist.

    Its weights have the names that they had, but for those that are only read transposed, of linear layers over
    sequences: they are stored that way round, as `NAME.transposed`.

    Args:
        precision: `fp16` or `int8`.
        pictures: uint8 [number, height, width, channels], real ones that are not measured with: the ranges of
            activations are taken from them.
        half: fp16 computes in 16 bits too.

    Raises:
        ExportError: the smaller graphs give values that are not finite.
    """
    before = bundle.manifest
    if before.export.precision != "float32":
        raise UsageError(f"{before.name} is {before.export.precision} already; export the float32 model")
    folder.mkdir()
    models = {n: onnx.load(bundle.folder / graph_file(n), load_external_data=False) for n in before.tasks}
    arrays = {n: array for file in _weight_files(bundle) for n, array in tensors.load(bundle.folder / file).items()}
    rewriting.fold_transposes([model.graph for model in models.values()], arrays)
    if precision == "int8":
        _to_int8(models, arrays, Calibration(bundle, pictures), on_progress)
    elif half:
        _to_half(models, arrays, Calibration(bundle, pictures), on_progress)
        on_progress("looking at the golden cases, rounded")
        refuse_overflow(models, arrays, read_cases(bundle.folder / GOLDEN, before))
    else:
        for model in models.values():
            rewriting.halve(model.graph, arrays)
    _write_graphs(bundle, folder, models, arrays)
    on_progress("running the golden cases")
    return _write_rest(bundle, folder, PRECISIONS[precision])


def rounded(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle as a stack computes it that rounds in half precision, for our own runtime on the CPU, which does not.

    Args:
        folder: where to write it; it must not exist.
    """
    shutil.copytree(bundle.folder, folder)
    for name in bundle.manifest.tasks:
        model = onnx.load(folder / graph_file(name), load_external_data=False)
        rewriting.round_in_half(model.graph)
        (folder / graph_file(name)).write_bytes(model.SerializeToString(deterministic=True))
    return Bundle(folder, bundle.manifest, bundle.digest, f"{bundle.reference}, rounded")


def refuse_overflow(models: Models, arrays: Arrays, cases: Mapping[str, list[Case]]) -> None:
    """Runs the golden cases as a stack does that rounds in half precision, and looks at every value in it.

    Not at the outputs alone: a picture in whole levels looks finite whatever it was cast from.

    Raises:
        ExportError: one is not finite.
    """
    for task, model in models.items():
        names = rewriting.in_half(model.graph)
        if not names:
            continue
        watched = rewriting.watching(model, names)
        rewriting.round_in_half(watched.graph)
        for name, seen in _ranges(watched, names, arrays, [case.inputs for case in cases[task]]).items():
            if not np.isfinite(seen).all():
                raise ExportError(f"{task} overflows half precision on its golden cases, at {name}; take int8")


def with_metrics(bundle: Bundle, metrics: list[Metric]) -> Bundle:
    """The bundle with its measured metrics in its manifest, those that are numbers."""
    finite = tuple(metric for metric in metrics if math.isfinite(metric.value))
    manifest = msgspec.structs.replace(bundle.manifest, metrics=finite)
    data = manifests.dump(manifest)
    (bundle.folder / MANIFEST).write_bytes(data)
    return Bundle(bundle.folder, manifest, manifests.digest(data), bundle.reference)


# --- The graphs -------------------------------------------------------------------------------------------------------


def _to_int8(models: Models, arrays: Arrays, inputs: Calibration, on_progress: Callable[[str], None]) -> None:
    fit = rewriting.quantizable([model.graph for model in models.values()], arrays)
    ranges = _seen(models, arrays, fit, inputs, on_progress)
    delicate = set().union(*(rewriting.delicate(m.graph, arrays, fit, ranges[n]) for n, m in models.items()))
    fit -= delicate
    keep = _keep_32(sorted(delicate), "8 bits are too few for them")
    on_progress(f"{len(fit)} products compute in 8 bits{keep}")
    rest = {name: arrays[name] for name in delicate}
    for name, model in models.items():
        rewriting.quantize(model.graph, arrays, fit, ranges[name])
        rewriting.halve(model.graph, rest)
    arrays.update(rest)


def _to_half(models: Models, arrays: Arrays, inputs: Calibration, on_progress: Callable[[str], None]) -> None:
    ranges = _seen(models, arrays, rewriting.halvable(arrays), inputs, on_progress)
    for name, model in models.items():
        in_half, kept = rewriting.halve(model.graph, arrays, ranges[name])
        if in_half or kept:
            keep = _keep_32(kept, "half precision may not hold what they compute")
            on_progress(f"{name}: {in_half} products compute in 16 bits{keep}")


def _keep_32(weights: list[str], reason: str) -> str:
    return f"; {len(weights)} keep 32, {reason}: {', '.join(weights)}" if weights else ""


def _seen(
    models: Models, arrays: Arrays, fit: set[str], inputs: Calibration, on_progress: Callable[[str], None]
) -> dict[str, dict[str, Seen]]:
    """What goes into and comes out of the products of each task was, on real inputs."""
    found: dict[str, dict[str, Seen]] = {}
    wholes = {name: task.part_of for name, task in inputs.model.manifest.tasks.items()}
    for name in sorted(models, key=lambda n: wholes[n] is not None):  # parts last
        model, whole = models[name], wholes[name]
        names = rewriting.activations(model.graph, arrays, fit)
        shared = whole and rewriting.ranges_of_part(model, models[whole], found[whole], arrays, fit)
        if shared or not names:  # a step of its own would be seen at the golden cases' steps alone
            found[name] = shared or {}
            continue
        on_progress(f"looking at the activations of {name}")
        found[name] = _ranges(rewriting.watching(model, names), names, arrays, inputs.of(name))
    return found


def _ranges(
    watched: onnx.ModelProto, names: Sequence[str], arrays: Arrays, calls: list[dict[str, Any]]
) -> dict[str, Seen]:
    """What each of the values that a model watches was over some calls."""
    with TemporaryDirectory(prefix="zoo-watched-") as place:
        weights, graph = Path(place) / "weights.safetensors", Path(place) / "watched.onnx"
        tensors.save(weights, arrays)
        places = {name: (weights.name, found) for name, found in tensors.read_header(weights).items()}
        rewriting.point_at(watched.graph, places)
        graph.write_bytes(watched.SerializeToString())
        session = open_session(graph, "cpu")
        seen = [session.run(call) for call in calls]
    return {n: rewriting.together(Seen(*(float(o[f"{n}.{kind}"]) for kind in WATCHES)) for o in seen) for n in names}


# --- The folder -------------------------------------------------------------------------------------------------------


def _weight_files(bundle: Bundle) -> list[str]:
    return sorted(n for n in bundle.manifest.files if n.endswith(".safetensors") and n != GOLDEN)


def _write_graphs(bundle: Bundle, folder: Path, models: Models, arrays: Arrays) -> None:
    """The weights, each in the file that it was in, and the graphs that point at them."""
    places = {}
    for file in _weight_files(bundle):
        there = tensors.read_header(bundle.folder / file).keys()
        there |= {f"{name}.transposed" for name in there}
        there |= {f"{name}.scale" for name in there}
        tensors.save(folder / file, {name: array for name, array in arrays.items() if name in there})
        places |= {name: (file, found) for name, found in tensors.read_header(folder / file).items()}
    for name, model in models.items():
        rewriting.point_at(model.graph, places)
        (folder / graph_file(name)).write_bytes(model.SerializeToString(deterministic=True))


def _write_rest(bundle: Bundle, folder: Path, precision: str) -> Bundle:
    """The golden cases with what the new graphs give, the card and the manifest."""
    before = bundle.manifest
    cases = read_cases(bundle.folder / GOLDEN, before)
    write_cases(folder / GOLDEN, {name: [_answer(folder, name, case) for case in cases[name]] for name in before.tasks})
    shutil.copyfile(bundle.folder / "README.md", folder / "README.md")
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
    return Bundle(folder, manifests.read(folder), manifests.digest(data), f"{bundle.reference} in {precision}")


def _answer(folder: Path, task: str, case: Case) -> Case:
    """A golden case with what the new graph gives."""
    outputs = open_session(folder / graph_file(task), "cpu").run(case.inputs)
    for port, array in outputs.items():  # of floats; integers look finite whatever they were cast from
        if np.isfinite(case.outputs[port]).all() and not np.isfinite(array).all():
            raise ExportError(f"the smaller {task} gives a {port} that is not finite")
    return Case(case.inputs, outputs)


# --- Real inputs ------------------------------------------------------------------------------------------------------


class Calibration:
    """Real inputs of each task: pictures, their tokens, every label in turn, seeds from 0, defaults for the rest."""

    def __init__(self, bundle: Bundle, pictures: np.ndarray):
        self.model, self.cases = Model(bundle, "cpu"), read_cases(bundle.folder / GOLDEN, bundle.manifest)
        self.batches = [pictures[i : i + CALIBRATION_BATCH] for i in range(0, len(pictures), CALIBRATION_BATCH)]
        self.tokens = self._encode()

    def _encode(self) -> list[dict[str, np.ndarray]]:
        tasks = self.model.manifest.tasks
        if "encode" not in tasks or list(tasks["encode"].inputs) != ["image"]:
            return []
        return [self.model.encode(image=batch) for batch in self.batches]

    def of(self, name: str) -> list[dict[str, np.ndarray]]:
        """Calls of a task; its golden ones where it takes what can't be made here."""
        loops = seeds_of(self.model.manifest.tasks[name].inputs)  # each call is a whole loop
        numbers = range(len(self.batches))[: DRAWN_BATCHES if loops else None]
        calls = [call for number in numbers if (call := self._call(name, number)) is not None]
        return calls if len(calls) == len(numbers) else [case.inputs for case in self.cases[name]]

    def _call(self, name: str, number: int) -> dict[str, np.ndarray] | None:
        task = self.model.manifest.tasks[name]
        encoded = self.tokens[number] if self.tokens else {}
        real = RealInputs(self.batches[number], number * CALIBRATION_BATCH, encoded)
        given = {port_name: kind_of(port).real_case(port_name, port, real) for port_name, port in task.inputs.items()}
        return None if any(value is None for value in given.values()) else complete(name, task, given)
