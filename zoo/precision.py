"""A bundle made smaller: weights in 16 bits, or products in 8, with golden cases of its own.

What that costs is measured on the model's own metrics, before and after, on the same pictures; `zoo export` refuses a
bundle that lost more than `BOUND`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import manifest as manifests
from . import tensors
from .errors import ExportError, UsageError
from .hookspecs import Metric, Tolerance
from .manifest import MANIFEST, Manifest, graph_file
from .replay import GOLDEN, Case, read_cases, write_cases

if TYPE_CHECKING:
    import numpy as np

    from .bundle import Bundle
    from .graph.precision import Seen

PRECISIONS = {"fp16": "float16", "int8": "int8"}
"""What the command line says, and what the manifest says."""

BOUND = 0.02
"""A metric may get worse by this share of its value."""

# Integer kernels of two processors add in another order, and a level of an activation is many of a pixel.
INT8_TOLERANCE = Tolerance(pixel_levels=8, pixel_share=0.99, pixel_levels_worst=64, absolute=0.05, relative=0.05)

CALIBRATION_BATCH = 16
DRAWN_BATCHES = 2
"""So many batches are drawn to see activations of: a loop shows those of every step."""


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
        """By which share of its value it got worse; below 0 where it got better. Of points, which may be 0: of 100."""
        whole = 100.0 if self.unit == "points" else max(abs(self.float32), 1e-12)
        change = (self.now - self.float32) / whole
        return -change if self.better == "higher" else change if self.better == "lower" else 0.0


def costs(before: list[Metric], after: list[Metric]) -> list[Cost]:
    """The metrics that both have, and that say which way is better."""
    now = {metric.name: metric.value for metric in after}
    return [Cost(m.name, m.unit, m.better, m.value, now[m.name]) for m in before if m.better and m.name in now]


def lighten(
    bundle: Bundle,
    precision: str,
    folder: Path,
    pictures: Any,
    on_progress: Callable[[str], None] = lambda line: None,
    *,
    half: bool = False,
) -> Bundle:
    """Writes a smaller bundle of a model at `folder`, which must not exist.

    Args:
        precision: `fp16` or `int8`.
        pictures: uint8 [number, height, width, channels], real ones that are not measured with: the ranges of
            activations are taken from them.
        half: fp16 computes in 16 bits too.

    Raises:
        ExportError: the smaller graphs give values that are not finite.
    """
    import onnx

    from .bundle import Bundle
    from .graph import precision as rewriting

    folder.mkdir()
    before = bundle.manifest
    if before.export.precision != "float32":
        raise UsageError(f"{before.name} is {before.export.precision} already; export the float32 model")
    files = sorted(n for n in before.files if n.endswith(".safetensors") and n != GOLDEN)
    home = {name: file for file in files for name in tensors.read_header(bundle.folder / file)}
    arrays = {name: array for file in files for name, array in tensors.load(bundle.folder / file).items()}
    cases = read_cases(bundle.folder / GOLDEN, before)
    models = {n: onnx.load(bundle.folder / graph_file(n), load_external_data=False) for n in before.tasks}
    rewriting.fold_transposes([model.graph for model in models.values()], arrays)
    int8 = precision == "int8"
    fit = rewriting.quantizable([m.graph for m in models.values()], arrays) if int8 else rewriting.halvable(arrays)
    ranges: dict[str, dict[str, rewriting.Seen]] = {}
    if int8 or half:
        inputs = Calibration(bundle, pictures, cases)
        for name in sorted(models, key=lambda n: before.tasks[n].part_of is not None):  # parts last
            model, whole = models[name], before.tasks[name].part_of
            shared = whole and rewriting.ranges_of_part(model, models[whole], ranges[whole], arrays, fit)
            if shared:  # a step of its own would be seen at the golden cases' steps alone
                ranges[name] = shared
                continue
            watched = rewriting.watching(model, arrays, fit)
            if watched[1]:
                on_progress(f"looking at the activations of {name}")
            ranges[name] = _ranges(watched, arrays, inputs.of(name)) if watched[1] else {}
    delicate: set[str] = set()
    if int8:
        delicate = set().union(*(rewriting.delicate(m.graph, arrays, fit, ranges[n]) for n, m in models.items()))
        fit -= delicate
        on_progress(
            f"{len(fit)} products compute in 8 bits" + _keep_32(sorted(delicate), "8 bits are too few for them")
        )
    rest = {name: arrays[name] for name in delicate}
    for name, model in models.items():
        if int8:
            rewriting.quantize(model.graph, arrays, fit, ranges[name])
            rewriting.halve(model.graph, rest)
        else:
            in_half, kept = rewriting.halve(model.graph, arrays, ranges.get(name))
            if in_half or kept:
                on_progress(
                    f"{name}: {in_half} products compute in 16 bits" + _keep_32(kept, "their activations are too large")
                )
    arrays |= rest
    places = {}
    for file in files:
        tensors.save(folder / file, {n: a for n, a in arrays.items() if home.get(n.removesuffix(".scale")) == file})
        places |= {n: (file, found) for n, found in tensors.read_header(folder / file).items()}
    for name, model in models.items():
        rewriting.point_at(model.graph, places)
        (folder / graph_file(name)).write_bytes(model.SerializeToString(deterministic=True))
    on_progress("running the golden cases")
    answers = {name: [_answer(folder, name, case) for case in cases[name]] for name in before.tasks}
    write_cases(folder / GOLDEN, answers)
    shutil.copyfile(bundle.folder / "README.md", folder / "README.md")
    manifest = _manifest(before, folder, PRECISIONS[precision])
    digest = manifests.digest((folder / MANIFEST).read_bytes())
    return Bundle(folder, manifest, digest, f"{bundle.reference} in {precision}")


def rounded(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle as a stack computes it that rounds in half precision, for our own runtime on the CPU, which does not.

    Args:
        folder: where to write it; it must not exist.

    Raises:
        ExportError: a golden case's outputs are not finite.
    """
    import onnx

    from .bundle import Bundle
    from .graph.precision import round_in_half

    shutil.copytree(bundle.folder, folder)
    for name in bundle.manifest.tasks:
        model = onnx.load(folder / graph_file(name), load_external_data=False)
        round_in_half(model.graph)
        (folder / graph_file(name)).write_bytes(model.SerializeToString(deterministic=True))
    for name, cases in read_cases(folder / GOLDEN, bundle.manifest).items():
        for case in cases:
            _answer(folder, name, case)
    return Bundle(folder, bundle.manifest, bundle.digest, f"{bundle.reference}, rounded")


def with_metrics(bundle: Bundle, metrics: list[Metric]) -> Bundle:
    """The bundle with its measured metrics in its manifest."""
    from .bundle import Bundle

    manifest = msgspec.structs.replace(bundle.manifest, metrics=tuple(metrics))
    data = manifests.dump(manifest)
    (bundle.folder / MANIFEST).write_bytes(data)
    return Bundle(bundle.folder, manifest, manifests.digest(data), bundle.reference)


def _manifest(before: Manifest, folder: Path, precision: str) -> Manifest:
    tolerance = next(iter(before.tolerances.values())) if precision == "float16" else INT8_TOLERANCE
    manifest = msgspec.structs.replace(
        before,
        tolerances={f"{precision}/{provider}": tolerance for provider in ("cpu", "cuda")},
        metrics=(),
        export=msgspec.structs.replace(before.export, precision=precision),
        files={path.name: manifests.describe_file(path) for path in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_bytes(manifests.dump(manifest))
    return manifests.read(folder)


def _keep_32(weights: list[str], reason: str) -> str:
    return f"; {len(weights)} keep 32, {reason}: {', '.join(weights)}" if weights else ""


def _answer(folder: Path, task: str, case: Case) -> Case:
    """A golden case with what the new graph gives."""
    import numpy as np

    from .runtime import open_session

    outputs = open_session(folder / graph_file(task), "cpu").run(case.inputs)
    for port, array in outputs.items():
        if np.isfinite(case.outputs[port]).all() and not np.isfinite(array).all():
            raise ExportError(f"the smaller {task} gives a {port} that is not finite")
    return Case(case.inputs, outputs)


def _ranges(
    watched: tuple[Any, list[str]], arrays: dict[str, np.ndarray], calls: list[dict[str, Any]]
) -> dict[str, Seen]:
    """What each activation was over some calls."""
    from tempfile import TemporaryDirectory

    from .graph.precision import WATCHES, Seen, point_at, together
    from .runtime import open_session

    model, names = watched
    with TemporaryDirectory(prefix="zoo-watched-") as place:
        weights, graph = Path(place) / "weights.safetensors", Path(place) / "watched.onnx"
        tensors.save(weights, arrays)
        point_at(model.graph, {name: (weights.name, found) for name, found in tensors.read_header(weights).items()})
        graph.write_bytes(model.SerializeToString())
        session = open_session(graph, "cpu")
        seen = [session.run(call) for call in calls]
    return {
        name: together([Seen(*(float(outputs[f"{name}.{kind}"]) for kind in WATCHES)) for outputs in seen])
        for name in names
    }


class Calibration:
    """Real inputs of each task: pictures, their tokens, every label in turn, seeds from 0, defaults for the rest."""

    def __init__(self, bundle: Bundle, pictures: np.ndarray, cases: Mapping[str, list[Case]]):
        from .model import Model

        self.model, self.cases = Model(bundle, "cpu"), cases
        self.batches = [pictures[i : i + CALIBRATION_BATCH] for i in range(0, len(pictures), CALIBRATION_BATCH)]
        self.tokens = self._encode()

    def _encode(self) -> list[dict[str, np.ndarray]]:
        tasks = self.model.manifest.tasks
        if "encode" not in tasks or list(tasks["encode"].inputs) != ["image"]:
            return []
        return [self.model.encode(image=batch) for batch in self.batches]

    def of(self, name: str) -> list[dict[str, np.ndarray]]:
        """Calls of a task; its golden ones where it takes what can't be made here."""
        ports = self.model.manifest.tasks[name].inputs
        draws = any(port.kind == "seed" for port in ports.values())  # each call is a whole loop
        count = min(DRAWN_BATCHES, len(self.batches)) if draws else len(self.batches)
        calls = [self._call(name, i) for i in range(count)]
        return [case.inputs for case in self.cases[name]] if None in calls else [c for c in calls if c is not None]

    def _call(self, name: str, number: int) -> dict[str, np.ndarray] | None:
        import numpy as np

        from .ports import complete

        task, batch, given = self.model.manifest.tasks[name], self.batches[number], {}
        index = np.arange(len(batch)) + number * CALIBRATION_BATCH
        for port_name, port in task.inputs.items():
            if port.kind == "image":
                given[port_name] = _shrunk(batch, port.shape)
            elif port.kind == "mask":
                given[port_name] = _right_half(batch)
            elif port.kind in ("tokens", "size"):
                given[port_name] = self.tokens[number][port_name] if self.tokens else None
            elif port.kind == "seed":
                given[port_name] = index
            elif port.kind == "label":
                given[port_name] = index % (int(port.maximum or 0) + 1)
            elif port.default is None:
                return None
        return None if any(value is None for value in given.values()) else complete(name, task, given)


def _shrunk(pictures: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray | None:
    """Pictures in a port's fixed size, each pixel the mean of a block; None where no blocks fit."""
    height, width = (have if isinstance(want, str) else want for have, want in zip(pictures.shape[1:3], shape[1:3]))
    number, rows, columns, channels = pictures.shape
    if rows % height or columns % width:
        return None
    blocks = pictures.reshape(number, height, rows // height, width, columns // width, channels)
    return blocks.mean(axis=(2, 4)).round().astype(pictures.dtype)


def _right_half(pictures: np.ndarray) -> np.ndarray:
    """A mask that has the right half of each picture drawn anew."""
    import numpy as np

    mask = np.zeros((*pictures.shape[:3], 1), np.uint8)
    mask[:, :, pictures.shape[2] // 2 :] = 255
    return mask
