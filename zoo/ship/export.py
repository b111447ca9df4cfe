"""Exports a model to another stack, as a folder that runs there and checks itself.

    folder/
      model/        a bundle: graphs, weights, manifest, golden cases, card; `zoo run folder/model` also runs it
      model.json    its manifest as JSON, for hosts
      golden/       its golden cases as raw little-endian arrays; cases.json describes them
      export.json   target, digests, compatibility report, size and SHA-256 of every file
      LICENSE       the weights' licence
      …             the target's own files: the host program and README.md; for some, one self-contained graph per task

Targets come from plugins (`zoo.target`); what they have in common is here. docs/targets.md describes the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from ..errors import ExportError, IntegrityError, InvalidFileError, UsageError
from ..formats import manifest as manifests
from ..formats.fields import File, compare_files
from ..formats.golden import read_cases, write_cases
from ..formats.manifest import Manifest
from ..hookspecs import Target, TargetRequest, Task, WriteTargetRequest
from ..names import EXPORT, GOLDEN, MANIFEST, graph_file
from ..ports.kind import MAX_BATCH
from ..ports.kinds import kind_of
from ..ports.seed import seeds_of
from ..run.replay import replay
from ..system.files import folder_beside, put_in_place
from ..text import safe_text

if TYPE_CHECKING:
    from ..plugins import Loaded
    from ..store.locate import Bundle
    from ..system.worker import Worker
    from .compatibility import TaskReport
    from .fixing import Choices
    from .precision import Cost

MODEL = "model"
CASES = "golden/cases.json"
FORMAT = 1


class Export(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """export.json, which describes an export's folder."""

    format: int
    target: str
    runtime: str  # the runtime it was written for
    written_by: str  # `zoo-targets 0.1.0`
    model: str  # name:version
    digest: str  # of the bundle that was exported
    precision: str
    batch: Annotated[int, Meta(ge=1, le=MAX_BATCH)] | None = None  # of the graphs on their own, if it is fixed
    opset: Annotated[int, Meta(ge=1, le=1000)] | None = None  # that was chosen for them
    cost: list[dict[str, Any]] = []  # a Cost for each metric, if the precision is not float32
    report: list[dict[str, Any]]  # a TaskReport for each task
    host: list[str]  # the files that the target wrote; the rest is the model's
    files: dict[str, File]


class RawArray(msgspec.Struct, frozen=True):
    """An array of a golden case: little-endian, C order."""

    file: str  # in golden/
    dtype: str
    shape: list[int]


class RawCase(msgspec.Struct, frozen=True):
    """golden/cases.json is a list of these."""

    task: str
    case: int
    inputs: dict[str, RawArray]
    outputs: dict[str, RawArray]


def export(
    bundle: Bundle,
    target_name: str,
    out: Path,
    *,
    tasks: Sequence[str] = (),
    force: bool = False,
    cost: Sequence[Cost] = (),
    choices: Choices | None = None,
) -> tuple[Export, list[TaskReport]]:
    """Writes an export of a model to `out`, or fails and leaves nothing behind.

    Args:
        tasks: the names of the tasks to export; empty: all that the target can run.
        force: replace an existing export. Nothing but an export is ever replaced.
        cost: of the bundle's precision, for export.json.
        choices: for the graphs on their own, for targets that take them (`single_files`); None: nothing is fixed.

    Returns:
        export.json, and the report on every task of the bundle, including those that were left out.

    Raises:
        ExportError: the target can run none of the tasks, or not one that was requested.
        NotFoundError: no such target or task.
        UsageError: `out` exists, or the target takes no choices.
    """
    from .compatibility import report_on
    from .fixing import Choices
    from .single import prove_single_files, write_single_files

    check_out(out, force)
    loaded, target = find_target(target_name)
    choices = choices or Choices()
    if choices and not target.single_files:
        raise UsageError(f"{target.name} takes graphs as they are; --target onnx can fix sizes, values and the opset")
    if not choices.loops:
        target = replace(target, loops=False, int64_bits=32)
    if wrong := manifests.check_files(bundle.folder, bundle.manifest):
        raise IntegrityError(f"{safe_text(bundle.reference)}: {safe_text('; '.join(wrong))}")
    reports = report_on(bundle.folder, bundle.manifest, target, bundle.worker)
    chosen = _choose(bundle.manifest, target, reports, tasks)
    with folder_beside(out) as folder:
        manifest = _write_model(bundle, folder / MODEL, chosen, target, choices)
        _write_raw_cases(folder, manifest)
        _write_common(folder, manifest)
        if target.single_files:
            high = write_single_files(
                folder / MODEL, manifest, folder, batch=choices.batch, opset=choices.opset, worker=bundle.worker
            )
            prove_single_files(folder / MODEL, manifest, folder, batch=choices.batch, worker=bundle.worker)
            reports = [_in_opset(report, choices.opset, high) for report in reports]
        common = set(_files(folder))
        _call_writer(loaded, folder, manifest)
        files, plugin = _files(folder), loaded.plugin
        written = Export(
            format=FORMAT,
            target=target.name,
            runtime=target.runtime,
            written_by=f"{plugin.distribution} {plugin.version}",
            model=f"{manifest.name}:{manifest.version}",
            digest=bundle.digest,
            precision=manifest.export.precision,
            batch=choices.batch,
            opset=choices.opset,
            cost=[msgspec.to_builtins(c) for c in cost],
            report=[msgspec.to_builtins(r) for r in reports],
            host=sorted(set(files) - common),
            files={name: manifests.describe_file(path) for name, path in files.items()},
        )
        (folder / EXPORT).write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n")
        put_in_place(folder, out)
    return written, reports


def find_target(name: str) -> tuple[Loaded, Target]:
    """The plugin of a target, and its description of the target.

    Raises:
        NotFoundError: no such target.
    """
    from ..plugins import load_target

    loaded = load_target(name)
    return loaded, loaded.call("describe_target", TargetRequest(target=name))


def check_out(out: Path, force: bool) -> None:
    """Refuses a path that exists."""
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise UsageError(f"{safe_text(out)} exists; choose another folder, or --force to replace it")
    if not (out / EXPORT).is_file() or out.is_symlink():
        raise UsageError(f"{safe_text(out)} is not an export of a model, and --force replaces nothing else")


def _choose(manifest: Manifest, target: Target, reports: list[TaskReport], wanted: Sequence[str]) -> list[str]:
    """The tasks to export, in the manifest's order."""
    from .compatibility import running_parts

    for name in wanted:
        manifest.task(name)  # refuses an unknown name
    by_name = {report.task: report for report in reports}
    if refused := [by_name[name] for name in wanted if not by_name[name].runs]:
        raise ExportError(f"{target.name} cannot run {refused[0].task}: {safe_text(refused[0].reason)}")
    chosen = []
    for name, task in manifest.tasks.items():
        whole = task.part_of or name
        useful = target.parts or not by_name[whole].runs
        needed = not task.part_of or (useful and name in running_parts(manifest, by_name, whole))
        if by_name[name].runs and (name in wanted or ((not wanted or whole in wanted) and needed)):
            chosen.append(name)
    if not chosen:
        reasons = "; ".join(f"{r.task}: {r.reason}" for r in reports)
        raise ExportError(f"{target.name} can run no task of {manifest.name}: {safe_text(reasons)}")
    return chosen


def _in_opset(report: TaskReport, opset: int | None, high: Mapping[str, str]) -> TaskReport:
    """The report on a task whose graph on its own is in a lower opset, or, for the reason in `high`, is not."""
    if opset is None or opset >= report.opset or not report.runs:
        return report
    if report.task not in high:
        return replace(report, opset=opset)
    return replace(report, reason="; ".join(filter(None, (report.reason, f"keeps its opset: {high[report.task]}"))))


# --- The model --------------------------------------------------------------------------------------------------------


def _write_model(bundle: Bundle, folder: Path, chosen: list[str], target: Target, choices: Choices) -> Manifest:
    """The bundle of the export: the published one byte for byte, if all of it is shipped unchanged."""
    import onnx

    from ..graph.plain import make_plain
    from ..graph.walk import weight_files
    from .bodies import move_out_of_bodies
    from .fixing import Fixing
    from .noise import take_noise
    from .single import runner

    folder.mkdir()
    before = bundle.manifest
    models = {n: onnx.load(bundle.folder / graph_file(n), load_external_data=False) for n in chosen}
    weights = {file for model in models.values() for file in weight_files(model.graph)}
    kept = {n for n in before.files if n in weights or not n.endswith((".onnx", ".safetensors"))}
    for name in sorted(kept):
        shutil.copyfile(bundle.folder / name, folder / name)
    cases = read_cases(bundle.folder / GOLDEN, before)
    fixing = Fixing(choices, runner(folder, bundle.worker))
    graphs, tasks, changed = {}, {}, len(chosen) < len(before.tasks)
    for name, model in models.items():
        data, task = (bundle.folder / graph_file(name)).read_bytes(), _standing_alone(before, name, chosen)
        if draws := target.int64_bits < 64 and seeds_of(task.inputs):
            model, task, cases[name] = take_noise(model, task, cases[name], bundle.worker)
        if target.initializers == "outside":
            move_out_of_bodies(model.graph)
        if target.single_files:
            model, task, cases[name] = fixing.fix(model, task, cases[name])
            make_plain(model)
        if draws or target.initializers == "outside" or target.single_files:
            data, changed = model.SerializeToString(deterministic=True), True
        graphs[graph_file(name)], tasks[name] = data, task
    if not changed:
        for name in (*before.files, MANIFEST):
            shutil.copyfile(bundle.folder / name, folder / name)
        return before
    for name, data in graphs.items():
        (folder / name).write_bytes(data)
    write_cases(folder / GOLDEN, {name: cases[name] for name in chosen})
    manifest = msgspec.structs.replace(
        before,
        tasks=tasks,
        default_task=before.default_task if before.default_task in tasks else chosen[0],
        files={path.name: manifests.describe_file(path) for path in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_bytes(manifests.dump(manifest))
    _prove(folder, manifests.read(folder), bundle.worker)
    return manifest


def _standing_alone(manifest: Manifest, name: str, chosen: list[str]) -> Task:
    """A task; a part whose whole is not shipped becomes an ordinary task."""
    task = manifest.tasks[name]
    return task if task.part_of in chosen else msgspec.structs.replace(task, part_of=None)


def _prove(folder: Path, manifest: Manifest, worker: Worker | None) -> None:
    """Checks that changed graphs pass the check for strangers' graphs and still give the expected outputs."""
    from ..graph.check import check

    if findings := check(folder, manifest):
        raise ExportError(f"the changed graphs cannot be exported: {safe_text('; '.join(findings))}")
    if off := [r.task for r in replay(folder, manifest, "cpu", worker) if r.verdict == "differs"]:
        raise ExportError(f"the changed graphs of {', '.join(off)} do not give the golden outputs")


def manifest_json(manifest: Manifest) -> bytes:
    """The manifest as JSON, and for every port what a host must know about its kind.

    In ASCII, so that no text in it can end a line or a string if a host is careless.
    """
    import json

    tree = msgspec.to_builtins(manifest)
    for name, task in manifest.tasks.items():
        for side, ports in (("inputs", task.inputs), ("outputs", task.outputs)):
            for port_name, port in ports.items():
                tree["tasks"][name][side][port_name] |= kind_of(port).host(port)
    return json.dumps(tree, indent=1).encode("ascii") + b"\n"


def _write_raw_cases(folder: Path, manifest: Manifest) -> None:
    (folder / "golden").mkdir()
    cases = []
    for task, numbered in read_cases(folder / MODEL / GOLDEN, manifest).items():
        for number, case in enumerate(numbered):
            sides = (_write_arrays(folder / "golden", f"{task}.{number}", s) for s in (case.inputs, case.outputs))
            cases.append(RawCase(task, number, *sides))
    (folder / CASES).write_bytes(msgspec.json.format(msgspec.json.encode(cases), indent=1) + b"\n")


def _write_arrays(folder: Path, stem: str, arrays: dict[str, Any]) -> dict[str, RawArray]:
    raw = {}
    for port, array in arrays.items():
        file = f"{stem}.{port}.bin"
        (folder / file).write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
        raw[port] = RawArray(file, str(array.dtype), list(array.shape))
    return raw


def _write_common(folder: Path, manifest: Manifest) -> None:
    """Writes the files that every target has in addition to model/ and golden/."""
    (folder / "model.json").write_bytes(manifest_json(manifest))
    (folder / "LICENSE").write_text(_license(manifest), encoding="utf-8")


def _license(manifest: Manifest) -> str:
    note = f"\n{manifest.license_note}\n" if manifest.license_note else ""
    return (
        f"The weights of {manifest.name}, version {manifest.version}, are licensed under (SPDX): {manifest.license}\n"
        f"The text of each licence is at https://spdx.org/licenses/, under its name.\n{note}"
    )


def _files(folder: Path) -> dict[str, Path]:
    """Every file in a folder except export.json, by its relative path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in found if path != folder / EXPORT}


def _call_writer(loaded: Loaded, folder: Path, manifest: Manifest) -> None:
    digest = manifests.describe_file(folder / MODEL / MANIFEST).sha256
    request = WriteTargetRequest(target=loaded.name, folder=folder, manifest=manifest, digest=digest)
    loaded.call("write_target", request)
    if not (folder / "README.md").is_file():
        raise ExportError(f"{loaded.plugin.distribution} wrote no README.md for the target {loaded.name}")


# --- Reading an export again ------------------------------------------------------------------------------------------


def is_export(folder: Path) -> bool:
    """Whether a folder is an export: it contains an export.json."""
    return (folder / EXPORT).is_file()


def read_export(folder: Path) -> Export:
    """export.json of a folder.

    Raises:
        InvalidFileError: it is not what zoo writes.
    """
    path = folder / EXPORT
    try:
        if path.stat().st_size > 1 << 24:
            raise ValueError("it is too large")
        found = msgspec.json.decode(path.read_bytes(), type=Export)
        if found.format != FORMAT:
            raise ValueError(f"format {found.format}; this version of zoo reads format {FORMAT}: upgrade zoo")
        for name in (*found.files, *found.host):
            if name.startswith("/") or ".." in name.split("/") or "\\" in name:
                raise ValueError(f"'{name}' is not a file in the folder")
    except (OSError, ValueError, RecursionError) as e:
        raise InvalidFileError(f"{safe_text(path)}: {safe_text(e)[:300]}") from None
    return found


def check_export(folder: Path, found: Export) -> list[str]:
    """What is wrong with an export's files, one line each. Files added later, such as node_modules, are ignored."""
    return compare_files(folder, found.files, EXPORT)


def changed_host_files(folder: Path, found: Export, loaded: Loaded, bundle: Bundle) -> list[str]:
    """The files outside model/ and golden/ that are not byte for byte what the installed exporter writes for the model.

    These include files that it does not write, since a host may load files next to it. They do not include pictures and
    arrays, which the host's own commands leave there and which are not code, nor what `run_host` leaves out.

    Args:
        bundle: of model/; its graphs must have passed `zoo.graph.check`.
    """
    from .single import write_single_files

    target = loaded.call("describe_target", TargetRequest(target=loaded.name))
    manifest = bundle.manifest
    with TemporaryDirectory(prefix="zoo-export-") as name:
        again = Path(name)
        shutil.copytree(folder / MODEL, again / MODEL)
        shutil.copytree(folder / "golden", again / "golden")
        _write_common(again, manifest)
        if target.single_files:
            write_single_files(
                bundle.folder, manifest, again, batch=found.batch, opset=found.opset, worker=bundle.worker
            )
        _call_writer(loaded, again, manifest)
        ours, theirs = _files(again), _files(folder)
        names = [n for n in ours | theirs if n in ours or not n.endswith((".png", ".npy"))]
        names = [n for n in names if n in ours or n.split("/")[0] not in target.installed]
        return sorted(n for n in names if n not in ours or n not in theirs or not _same(ours[n], theirs[n]))


def _same(one: Path, other: Path) -> bool:
    return not other.is_symlink() and one.read_bytes() == other.read_bytes()


def installed_later(folder: Path, loaded: Loaded) -> list[str]:
    """What the target's own tools put into the folder, such as node_modules: somebody's code, which nobody compares."""
    target = loaded.call("describe_target", TargetRequest(target=loaded.name))
    return [name for name in target.installed if (folder / name).exists() or (folder / name).is_symlink()]


@contextmanager
def without(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A copy of an export that lacks some files and folders; the folder itself, if it has none to leave out."""
    if not names:
        yield folder
        return
    with TemporaryDirectory(prefix="zoo-host-") as place:
        copy = Path(place, "export")
        shutil.copytree(folder, copy, ignore=lambda at, _: names if Path(at) == folder else ())
        yield copy


def run_host(folder: Path, loaded: Loaded, out: Path) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    """Runs the host program on every golden case; returns the runtime, and the outputs of each task, case by case.

    Raises:
        NotFoundError: the target's runtime is not installed.
        ExportError: the host failed, or an output is missing.
    """
    from ..hookspecs import RunTargetRequest

    by = loaded.call("run_target", RunTargetRequest(target=loaded.name, folder=folder, out=out))
    outputs: dict[str, list[dict[str, Any]]] = {}
    for case in raw_cases(folder):
        arrays = {port: _read_array(out / raw.file, raw) for port, raw in case.outputs.items()}
        outputs.setdefault(case.task, []).append(arrays)
    return by, outputs


def raw_cases(folder: Path) -> list[RawCase]:
    """golden/cases.json."""
    try:
        return msgspec.json.decode((folder / CASES).read_bytes(), type=list[RawCase])
    except (OSError, ValueError) as e:
        raise InvalidFileError(f"{safe_text(folder / CASES)}: {safe_text(e)[:300]}") from None


def _read_array(path: Path, raw: RawArray) -> Any:
    """An output that the host wrote; an array of the wrong length is returned flat, and the comparison reports it."""
    import numpy as np

    try:
        data = np.frombuffer(path.read_bytes(), np.dtype(raw.dtype).newbyteorder("<")).astype(raw.dtype)
    except (OSError, ValueError) as e:
        raise ExportError(f"the host did not write a usable {path.name}: {safe_text(e)[:200]}") from None
    return data.reshape(raw.shape) if data.size == int(np.prod(raw.shape)) else data
