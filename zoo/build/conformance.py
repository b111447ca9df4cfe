"""The conformance kit: checks that every plugin must pass, whoever wrote it.

`zoo plugin check` prints the outcomes as a table, `zoo.testing` turns them into tests. The checks of a family share one
`Subject`: the family's smallest preset with random weights, exported once.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
import numpy as np
import onnx
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from ..errors import PluginError, UsageError, ZooError
from ..formats import assets
from ..formats import manifest as manifests
from ..formats import registry as registry_files
from ..formats.golden import Case, read_cases
from ..graph.check import check as check_graphs
from ..hookspecs import (
    BuildRequest,
    Golden,
    Imported,
    ImportRequest,
    MeasureRequest,
    Metric,
    Port,
    Task,
    Tasks,
)
from ..names import GOLDEN, MANIFEST, graph_file
from ..plugins import Plugin, places
from ..plugins.finding import brief, commands_of, for_author, project_of, registries_of
from ..ports.kind import BATCH
from ..ports.kinds import problem as problem_of
from ..ports.seed import seeds_of
from ..run.comparison import compare_task
from ..run.model import Model
from ..settings import TrainingSettings, read
from ..store.locate import read_folder
from ..system.urls import path_of, split
from .bundling import read_weights
from .card import CARD
from .diagnosis import non_persistent
from .export import TorchTasks
from .golden import Plan, check_golden
from .subject import PLANS, RESUMED_STEPS, Finding, Subject
from .tracing import IR_VERSION, MAX_OPSET, OPSET
from .train import load_weights
from .written import first_change, lost_in_writing

LOAD_SECONDS = 1.0
"""Time limit for importing a plugin's module: every command that lists families may have to wait for it."""

REQUIRED = ("describe_family", "validate_config", "list_tasks", "build_module", "build_task")

SIZES = (Plan(1, 0, 0), Plan(2, 57, 33))
"""The smallest picture that a port takes, and one larger than the traced one."""

MEASURED = 16
"""Pictures that metrics are measured on, which says nothing but that they can be."""


Verdict = Literal["pass", "fail", "blocked"]  # blocked: a check that it needs failed


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one check of a family."""

    family: str
    check: str
    verdict: Verdict
    why: str  # what was found wrong; for a pass, what was looked at
    where: str = ""  # file and line in the plugin's code
    read: str = ""  # section of the docs

    @property
    def line(self) -> str:
        """Why, where, and what to read."""
        told = [part for part in (self.where, self.read) if part and part not in self.why]
        return "; ".join([self.why, *told])


# --- The checks: each returns what it checked, or raises a Finding ----------------------------------------------------


def loads(s: Subject) -> str:
    if problem := s.probe.plugin.problem:
        raise Finding(for_author(problem), read="docs/contract.md")
    seconds = s.probe.import_seconds or 0.0
    if seconds > LOAD_SECONDS:
        raise Finding(
            f"importing {s.plugin.module} takes {seconds:.2f} s of processor time,"
            f" at most {LOAD_SECONDS:g} s are allowed:"
            " import heavy modules inside the hooks",
            read="docs/contract.md",
        )
    return f"in {seconds * 1000:.0f} ms, without torch and onnxruntime"


def contract(s: Subject) -> str:
    for hook in REQUIRED:
        if not s.loaded.implements(hook):
            raise Finding(f"it does not implement the hook {hook}", read=f"docs/contract.md#{hook}")
    return f"contract {s.plugin.contract}, {len(s.probe.hooks)} hooks with their signatures"


def family_card(s: Subject) -> str:
    if not s.described.paper.startswith("https://"):
        s.fail(f"the link to its paper is '{s.described.paper}'; it must start with https://", "describe_family")
    if not s.described.presets:
        s.fail("it has no preset; it needs at least one, so that it can be trained and tested", "describe_family")
    if not (licence := _licence(s.plugin)):
        raise Finding(
            'its distribution names no licence; add it to pyproject.toml, e.g. license = "Apache-2.0"',
            read="docs/writing-a-plugin.md",
        )
    return f"{_count(len(s.described.presets), 'preset')}, paper, licence of the code {licence}"


def _licence(plugin: Plugin) -> str:
    if plugin.folder:
        return project_of(Path(plugin.folder)).license
    about = metadata.metadata(plugin.distribution)
    return next(iter(about.get_all("License-Expression") or about.get_all("License") or [""]))


def presets(s: Subject) -> str:
    for name, preset in s.described.presets.items():
        config = s.validated(preset.config)
        if lost := lost_in_writing(config):
            s.fail(f"preset {name}: its config cannot be written to a manifest: {lost}", "validate_config")
        if change := first_change(config, s.validated(config)):
            s.fail(
                f"preset {name}: validating a complete config again must change nothing: {change}", "validate_config"
            )
        if change := first_change(config, s.validated(msgspec.json.decode(msgspec.json.encode(config)))):
            s.fail(f"preset {name}: its config changes when it is written and read again: {change}", "validate_config")
        if s.loaded.implements("build_trainer"):
            try:
                read(TrainingSettings, preset.training, f"the training of the preset {name}")
            except UsageError as e:
                s.fail(str(e), "describe_family")
        _check_tasks(s, name, s.tasks_of(config))
    return ", ".join(s.described.presets)


def _check_tasks(s: Subject, preset: str, tasks: Tasks) -> None:
    for array, port in tasks.example.items():
        if wrong := problem_of(port) or ("" if port.shape[:1] == (BATCH,) else f"its first dimension must be {BATCH}"):
            s.fail(f"preset {preset}: the array '{array}' of an example: {wrong}", "list_tasks")
    if unknown := tasks.golden.keys() - tasks.tasks.keys():
        s.fail(f"preset {preset}: golden names '{min(unknown)}', which is not a task", "list_tasks")
    check_golden(tasks.golden, tasks)
    if tasks.default not in tasks.tasks:
        s.fail(
            f"preset {preset}: the default task '{tasks.default}' is not one of {', '.join(tasks.tasks)}", "list_tasks"
        )
    for name, task in tasks.tasks.items():
        if shared := task.inputs.keys() & task.outputs.keys():
            s.fail(
                f"preset {preset}: '{min(shared)}' is both input and output of {name}; rename one of them",
                "list_tasks",
            )
        for port_name, port in (task.inputs | task.outputs).items():
            if wrong := problem_of(port):
                s.fail(f"preset {preset}: the port '{port_name}' of {name}: {wrong}", "list_tasks")
        if task.part_of and task.part_of not in tasks.tasks:
            s.fail(f"preset {preset}: {name} is part of '{task.part_of}', which is not a task", "list_tasks")
        try:
            msgspec.convert(msgspec.to_builtins(task), Task)
        except msgspec.ValidationError as e:
            s.fail(f"preset {preset}: the task {name} cannot be written in a manifest: {e}", "list_tasks")


def config_errors(s: Subject) -> str:
    wrong = list(_wrong_values(s.config))
    for path, value in wrong:
        config = deepcopy(s.config)
        *parents, last = path.split(".")
        target = config
        for parent in parents:
            target = target[parent]
        target[last] = value
        try:
            s.validated(config)
        except UsageError as e:
            if last not in str(e) or "\n" in str(e):
                s.fail(
                    f"a wrong {path} is refused with '{e}', not with one line that names the field", "validate_config"
                )
        else:
            s.fail(
                f"a config with {path} = {value} was accepted; refuse it with a UsageError that names it",
                "validate_config",
            )
    return f"{_count(len(wrong), 'wrong config')} refused, each with a line that names the field"


def _wrong_values(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """A field too many for each mapping of a config, and a value of another type for each field, by their paths."""
    yield f"{path}no_such_field", 1
    for name, value in config.items():
        if not isinstance(value, Mapping):
            yield f"{path}{name}", {"wrong": ["type"]}
        elif value:
            yield from _wrong_values(value, f"{path}{name}.")


def builds(s: Subject) -> str:
    own = {tensor.data_ptr() for tensor in s.module.state_dict().values()}
    for name, task in s.modules.items():
        if copies := [n for n, tensor in task.named_parameters() if tensor.data_ptr() not in own]:
            why = f"preset {s.preset}: {copies[0]} of {name} is a copy; it must be the module's own tensor"
            s.fail(why, "build_task", places.of_code(type(task).__init__, s.plugin.module))
    return f"{s.preset} has {sum(parameter.numel() for parameter in s.module.parameters()):,} parameters"


def exports(s: Subject) -> str:
    return f"{s.preset}: {', '.join(path.name for path in sorted(s.bundle.glob('*.onnx')))}"


def ports(s: Subject) -> str:
    for name, task in s.tasks.tasks.items():
        for case, result in zip(s.cases[name], s.results[name]):
            sizes = _sizes(task.inputs, case.inputs)
            for port_name, port in task.outputs.items():
                if reason := _misfit(port, result[port_name], sizes):
                    s.fail(f"'{port_name}' of {name} {reason}", "list_tasks", s.code_of(name))
    return "names, types, shapes and ranges of real calls"


def _sizes(declared: Mapping[str, Port], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    pairs = [pair for name, port in declared.items() for pair in zip(port.shape, arrays[name].shape)]
    return {dim: size for dim, size in pairs if isinstance(dim, str)}


def _misfit(port: Port, array: np.ndarray, sizes: dict[str, int]) -> str:
    """How an output differs from its port; records the lengths of its named dimensions in `sizes`."""
    if array.dtype != port.dtype or array.ndim != len(port.shape):
        return f"is {array.dtype} with {array.ndim} axes; its port says {port.dtype} with {len(port.shape)} axes"
    for axis, (dim, size) in enumerate(zip(port.shape, array.shape)):
        wanted = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
        if size != wanted:
            return f"has {size} along axis {axis}; its port says {dim}{f', which is {wanted}' if dim != wanted else ''}"
    low, high = port.minimum, port.maximum
    if array.size and ((low is not None and array.min() < low) or (high is not None and array.max() > high)):
        return f"goes from {array.min()} to {array.max()}; its port says {low} to {high}"
    return ""


def parity(s: Subject) -> str:
    verdicts = [
        comparison.verdict
        for name, cases in s.cases.items()
        for case, result in zip(cases, s.results[name])
        for comparison in s.compare(name, case, result)
    ]
    return f"{verdicts.count('identical')} of {len(verdicts)} outputs are identical, the others within the tolerance"


def batches(s: Subject) -> str:
    compared = 0
    for name, task in s.tasks.tasks.items():
        rowed = [port for port, declared in task.inputs.items() if declared.shape[:1] == ("batch",)]
        outputs = {port: declared for port, declared in task.outputs.items() if declared.shape[:1] == ("batch",)}
        case, result = s.cases[name][0], s.results[name][0]
        if not rowed or not outputs:
            continue
        rows = range(len(case.inputs[rowed[0]]))
        alone = [
            s.sessions[name].run(case.inputs | {port: case.inputs[port][row : row + 1] for port in rowed})
            for row in rows
        ]
        joined = {port: np.concatenate([one[port] for one in alone]) for port in outputs}
        for port, comparison in compare_task(outputs, joined, result, s.tasks.tolerance, case.margins).items():
            compared += 1
            if comparison.verdict == "differs":
                why = f"{port} of {name} depends on what else is in the batch: {comparison.text}"
                s.fail(why, "build_task", s.code_of(name))
    return f"{_count(compared, 'output')} the same in a batch of {PLANS[0].batch} as in batches of 1"


def sizes(s: Subject) -> str:
    dynamic = {
        name: {dim for port in task.inputs.values() for dim in port.shape if isinstance(dim, str)} - {"batch"}
        for name, task in s.tasks.tasks.items()
    }
    if not any(dynamic.values()):
        return "only the batch is dynamic"
    for name, cases in s.draw(SIZES).items():
        for case in cases if dynamic[name] else []:
            s.compare(name, case, s.sessions[name].run(case.inputs))
    return f"{', '.join(sorted(set().union(*dynamic.values())))}: the smallest size, and one larger than the traced one"


def seeds(s: Subject) -> str:
    seeded = [name for name, task in s.tasks.tasks.items() if seeds_of(task.inputs)]
    for name in s.tasks.tasks:
        for case, result in zip(s.cases[name], s.results[name]):
            again = s.sessions[name].run(case.inputs)
            if any(array.tobytes() != again[port].tobytes() for port, array in result.items()):
                s.fail(f"two calls of {name} with the same inputs differ", "build_task", s.code_of(name))
    module = s.trained[0] if s.loaded.implements("build_trainer") else s.module
    in_torch = TorchTasks(s.modules_of(module, s.config, s.tasks), s.tasks)
    for name in (name for name in seeded if not s.tasks.tasks[name].part_of):
        if not any(_other_seed_tells(in_torch, s.tasks.tasks[name], name, case) for case in s.cases[name]):
            s.fail(f"another seed gives the same outputs of {name}", "build_task", s.code_of(name))
    return f"{', '.join(seeded) or 'no task has a seed'}; two calls of every task are identical"


def _other_seed_tells(in_torch: TorchTasks, task: Task, name: str, case: Case) -> bool:
    other = case.inputs | {port: case.inputs[port] ^ 1 for port in seeds_of(task.inputs)}
    before, after = in_torch.call(name, case.inputs), in_torch.call(name, other)
    return any(not np.array_equal(before[port], after[port]) for port in before)


MAX_IR = 10


def operators(s: Subject) -> str:
    if findings := check_graphs(s.bundle, s.manifest):
        s.fail("; ".join(findings), "build_task")
    for task in s.tasks.tasks:
        model = onnx.load(s.bundle / graph_file(task), load_external_data=False)
        opset = max(entry.version for entry in model.opset_import)
        if opset > MAX_OPSET or model.ir_version > MAX_IR:
            s.fail(
                f"{graph_file(task)} has opset {opset} and IR {model.ir_version};"
                f" the targets support at most {MAX_OPSET} and {MAX_IR}",
                "build_task",
                s.code_of(task),
            )
    return f"ONNX's own domain, none random; opset {OPSET}, IR {IR_VERSION}"


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
    return f"{_count(RESUMED_STEPS, 'step')} with a checkpoint in the middle give the weights of as many without"


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
            s.fail(why, "import_checkpoint", _found(_PLACE, str(e)))
        except ZooError as e:
            if "\n" in str(e):
                s.fail(f"given {what}, it is refused with more than one line: {e}", "import_checkpoint")
            continue
        if isinstance(imported, Imported):
            try:
                load_weights(s.build(s.validated(imported.config)), imported.state_dict)
            except ZooError as e:
                s.fail(f"given {what}, what it imports does not fit build_module: {e}", "import_checkpoint")
    return f"{_count(len(files), 'checkpoint')}, each imported or refused in one line"


def commands(s: Subject) -> str:
    found = commands_of(s.plugin, s.commands)
    for command in found:
        if command.problem:
            raise Finding(for_author(command.problem), read="docs/writing-a-plugin.md#commands")
        where = f"{command.module}:{command.attribute}"
        try:
            value = getattr(import_module(command.module), command.attribute)
        except (Exception, SystemExit) as e:
            why = f"the command '{command.name}' cannot be imported from {where}: {brief(e)}"
            raise Finding(why, places.of_error(e, s.plugin.module), "docs/writing-a-plugin.md#commands") from e
        if not isinstance(value, click.Command):
            why = (
                f"the command '{command.name}', {where}, is not a click command, but of the type {type(value).__name__}"
            )
            raise Finding(why, read="docs/writing-a-plugin.md#commands")
        for words in _helps(value):
            shown = " ".join(["zoo", command.name, *words])
            result = CliRunner().invoke(value, words)
            if result.exit_code:
                e = result.exception
                why = f"`{shown}` failed: {brief(e) if e else result.output.strip()}"
                raise Finding(why, places.of_error(e, s.plugin.module), "docs/writing-a-plugin.md#commands")
    return ", ".join(f"zoo {command.name} --help" for command in found) or "it has no commands"


def _helps(command: click.Command) -> Iterator[list[str]]:
    """The arguments that print the help of a command, and of those inside of a group."""
    yield ["--help"]
    if isinstance(command, click.Group):
        for name in command.commands:
            yield [name, "--help"]


def registry(s: Subject) -> str:
    models = []
    for found in registries_of(s.plugin):
        read = "docs/writing-a-plugin.md#a-registry-of-its-own-models"
        if found.folder is None:
            raise Finding(f"the package of its registry '{found.name}' does not exist", read=read)
        try:
            document = registry_files.read(found.folder, found.name)
            for name, model in document.document.models.items():
                for version in model.versions:
                    if wrong := _wrong_files(registry_files.Entry(document, name, version)):
                        raise Finding(f"{name}:{version} of its registry '{found.name}': {wrong}", read=read)
                    models.append(f"{found.name}/{name}:{version}")
        except ZooError as e:
            raise Finding(f"its registry '{found.name}': {e}", read=read) from e
    return ", ".join(models) or "it has no registry with models"


def _wrong_files(entry: registry_files.Entry) -> str:
    """What is wrong with a model that a plugin brings; empty if nothing is. Files elsewhere are not fetched."""
    manifest_url = entry.registry.file_url(entry.files[MANIFEST])
    if split(manifest_url).scheme != "file":
        return ""
    folder = path_of(manifest_url).parent
    data = manifests.read_bytes(folder)
    if manifests.digest(data) != entry.digest:
        return f"{MANIFEST} does not have the digest that the registry names; publish the model again"
    manifest = manifests.parse(data, str(folder / MANIFEST))
    findings = manifests.check_files(folder, manifest) or check_graphs(folder, manifest)
    return "; ".join(findings)


def round_trip(s: Subject) -> str:
    weights = read_weights(s.bundle, s.manifest)
    state = s.module.state_dict()
    if assets.read(s.bundle, s.manifest) != s.assets:
        s.fail("the assets read from the bundle differ from those that it made", "make_assets")
    if weights.keys() != state.keys() or not all(torch.equal(weights[name], state[name]) for name in state):
        s.fail("the weights read from the bundle differ from those written to it", "build_module")
    torch.manual_seed(s.seed + 1)
    request = BuildRequest(family=s.family, config=s.manifest.config, assets=s.assets)
    again = s.loaded.call("build_module", request).eval()
    load_weights(again, weights)
    s.export(s.folder / "second", again, s.manifest.config, _as_before(s))
    for path in sorted(s.bundle.iterdir()):
        if (s.folder / "second" / path.name).read_bytes() != path.read_bytes():
            names = ", ".join(non_persistent(s.module))
            why = f"; the weights do not have its non-persistent buffers {names}" if names else ""
            s.fail(f"saving, loading and saving again changes {path.name}{why}", "build_module")
    return f"{_count(len(s.manifest.files) + 1, 'file')} byte for byte the same"


def _as_before(s: Subject) -> dict[str, Golden]:
    """What makes a second export have as many golden cases, and as many counts of a loop, whatever they took."""
    costs = {}
    for task, cases in read_cases(s.bundle / GOLDEN, s.manifest).items():
        counts = tuple(drift.count for drift in s.manifest.export.drift.get(task, ()))
        costs[task] = replace(s.tasks.golden.get(task, Golden()), cases=len(cases), counts=counts)
    return costs


def card(s: Subject) -> str:
    text = (s.bundle / CARD).read_text(encoding="utf-8")
    if missing := [part for part in (s.manifest.license, *s.tasks.tasks) if part not in text]:
        s.fail(f"the card does not name {', '.join(missing)}", "list_tasks")
    return f"{CARD} with licence, tasks and ports"


class Check(msgspec.Struct, frozen=True):
    """A check, and the checks that must pass before it."""

    name: str
    summary: str  # what is checked, as a statement that should be true
    run: Callable[[Subject], str]
    needs: tuple[str, ...] = ()


CHECKS = (
    Check("loads", "its module loads fast and without torch", loads),
    Check("contract", "its contract version and hook signatures are right", contract, ("loads",)),
    Check("family", "it describes itself, and names a licence", family_card, ("contract",)),
    Check("presets", "its presets are valid configs, and their tasks fit a manifest", presets, ("family",)),
    Check("config errors", "a wrong config is refused in one line that names the field", config_errors, ("presets",)),
    Check("builds", "it builds, and its tasks contain the module's own tensors", builds, ("presets",)),
    Check("exports", "every task exports", exports, ("builds",)),
    Check("ports", "ports match the graphs' real inputs and outputs", ports, ("exports",)),
    Check("parity", "new weights and inputs give torch's numbers within the tolerance", parity, ("exports",)),
    Check("batches", "a picture does not depend on its batch", batches, ("exports",)),
    Check("sizes", "dimensions with a name are dynamic", sizes, ("exports",)),
    Check("training", "training steps lower the first loss on one batch", training, ("builds",)),
    Check("resuming", "a resumed training gives the same weights", resuming, ("training",)),
    Check("seeds", "the same seed gives the same output, another seed a different one", seeds, ("exports", "training")),
    Check("round trip", "save, load, save is byte-identical", round_trip, ("exports",)),
    Check("operators", "no contrib or random operators; opset and IR that targets support", operators, ("exports",)),
    Check("card", "the bundle has a card with the licence", card, ("exports",)),
    Check("measure", "its metrics can be measured and written", measure, ("exports",)),
    Check("importer", "foreign checkpoints are imported, or refused in one line", importer, ("builds",)),
    Check("commands", "its commands can be imported, and show their help", commands, ("loads",)),
    Check("registry", "the models in its registry have the files that it names", registry, ("loads",)),
)

_PLACE = re.compile(r"\(([\w./-]+\.py:\d+)\)")
_SECTION = re.compile(r"(docs/[\w.-]+\.md(?:#\w+)?)")


class Examination:
    """The checks of a subject; each runs once, when its outcome is first requested."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, name: str) -> Outcome:
        """The outcome of a check; checks that it needs run first."""
        if name not in self._outcomes:
            self._outcomes[name] = self._run(next(check for check in CHECKS if check.name == name))
        return self._outcomes[name]

    def _run(self, check: Check) -> Outcome:
        def outcome(verdict: Verdict, why: str, where: str = "", read: str = "") -> Outcome:
            family = self.subject.family
            return Outcome(family=family, check=check.name, verdict=verdict, why=why, where=where, read=read)

        for needed in check.needs:
            if self.outcome(needed).verdict != "pass":
                return outcome("blocked", f"'{needed}' has to pass first")
        try:
            return outcome("pass", check.run(self.subject))
        except Finding as finding:
            return outcome("fail", finding.why, finding.where or _found(_PLACE, finding.why), finding.read)
        except ZooError as e:
            why = for_author(str(e))
            return outcome("fail", why, _found(_PLACE, why), _found(_SECTION, why) or "docs/contract.md")
        except Exception as e:  # the plugin's own modules are called, which may raise anything
            where = places.of_error(e, self.subject.plugin.module)
            return outcome("fail", brief(e), where, "docs/contract.md#build_task")


def examine(subject: Subject) -> Iterator[Outcome]:
    """The outcome of every check of a family, in order."""
    examination = Examination(subject)
    for check in CHECKS:
        yield examination.outcome(check.name)


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" + ("" if number == 1 else "s")
