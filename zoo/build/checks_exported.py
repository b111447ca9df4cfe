"""Checks of a family's module and of the bundle that is exported from it.

Each returns what it checked, or raises a Finding.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch

from ..formats import assets
from ..formats.golden import Case, read_cases
from ..graph.check import check as check_graphs
from ..hookspecs import BuildRequest, Golden, Port, Task
from ..names import GOLDEN, graph_file
from ..plugins import places
from ..ports.seed import seeds_of
from ..run.comparison import compare_task
from .bundling import read_weights
from .card import CARD
from .diagnosis import non_persistent
from .export import TorchTasks
from .golden import Plan
from .subject import PLANS, Subject, count
from .tracing import IR_VERSION, MAX_OPSET, OPSET
from .train import load_weights

SIZES = (Plan(1, 0, 0), Plan(2, 57, 33))
"""The smallest picture that a port takes, and one larger than the traced one."""

MAX_IR = 10


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
                if result[port_name].size and not np.isfinite(result[port_name]).any():
                    s.fail(f"'{port_name}' of {name} is NaN or infinite everywhere", "build_task", s.code_of(name))
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
    return f"{count(compared, 'output')} the same in a batch of {PLANS[0].batch} as in batches of 1"


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
    return f"{count(len(s.manifest.files) + 1, 'file')} byte for byte the same"


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
