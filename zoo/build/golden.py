"""Golden cases: inputs drawn by code, and torch's outputs for them.

Sizes and batches vary, so that a graph that is fixed to the traced ones cannot pass. There are fewer cases of tasks
that take long.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from ..errors import UsageError
from ..formats.golden import Case
from ..hookspecs import Golden, Task, Tasks, Tolerance
from ..ports.count import count_of
from ..ports.kinds import kind_of
from ..text import did_you_mean

MAX_DRAWS = 200
"""How often a picture is redrawn until its tokens have no ties."""

HOPELESS_DRAWS = 50
"""After this many drawings, all with ties, a size is given up: codes tie everywhere, as after a few training steps."""

FEWEST_CASES = 2
"""However long they take: together they have two batches and two sizes, neither of them the traced ones."""

CASES_SECONDS = 10.0
"""A task gets no further case after this time: processor time, on which other programs have no influence."""

TIES_SECONDS = 30.0
"""After this time the inputs of a case are no longer redrawn, ties or not: processor time, too."""

NOTED_SECONDS = 2.0
"""A case that takes longer is reported."""

ITERATED_PICTURES = 4
"""A loop goes this often beyond its least number of iterations for a batch of 1, and less often for a larger one."""

SHRINK = (1, 2, 3)
"""A picture whose drawings all had ties is drawn this much smaller: fewer of its tokens can tie."""


@dataclass(frozen=True)
class Plan:
    """The sizes of a case, for the dimensions that are dynamic."""

    batch: int
    height: int  # 0: the smallest that the port allows, or any value for other dimensions
    width: int


# Batches 1, 3 and 5 differ from the traced one; sizes are odd, even, smallest, wide and tall.
PLANS = (Plan(1, 0, 0), Plan(3, 28, 28), Plan(5, 21, 11), Plan(2, 9, 30))
TRACE = Plan(2, 13, 18)
"""The sizes with which a task is traced: a batch of 1 would silently be fixed in the graph."""
DRIFT = Plan(1, 13, 18)
"""The sizes with which a loop is run for many iterations: its length is what is tested there, not the batch."""

Call = Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
Margins = Callable[[str, Mapping[str, np.ndarray]], np.ndarray | None]


def draw_cases(
    tasks: Tasks,
    call: Call,
    margins: Margins,
    *,
    plans: Sequence[Plan] = PLANS,
    seed: int | None = None,
    golden: Mapping[str, Golden] | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> dict[str, list[Case]]:
    """Cases of every task, at most one per plan: the golden ones, or others for other plans and seeds.

    A port that another task gives under the same name and kind (tokens, size) gets the output of that task in the same
    case; the others are drawn in their range.

    Args:
        call: runs a task in torch: name and inputs to outputs, arrays by port.
        margins: how far each choice behind the outputs is from another, float32 [batch, …]; None if a task does not
            say.
        golden: what the cases of a task cost; default: what the family says.
        on_progress: called with a line for each case that takes more than `NOTED_SECONDS`.

    Returns:
        The cases. If none without ties was found, as for a barely trained model, a case has `margins`.
    """
    cases: dict[str, list[Case]] = {}
    for name in _feeders_first(tasks):
        cost = (tasks.golden if golden is None else golden).get(name, Golden())
        feeders = {port: _feeder(tasks, name, port, cases) for port in tasks.tasks[name].inputs}
        most = min([cost.cases or len(plans), len(plans), *(len(cases[f]) for f in feeders.values() if f)])
        cases[name] = []
        began = time.thread_time()
        for number, plan in enumerate(plans[:most]):
            if not cost.cases and number >= FEWEST_CASES and time.thread_time() - began > CASES_SECONDS:
                break
            if cost.size and number:
                plan = replace(plan, height=cost.size[0], width=cost.size[1])
            fixed = {port: cases[feeder][number].outputs[port] for port, feeder in feeders.items() if feeder}
            rng = np.random.default_rng([*([] if seed is None else [seed]), number, *name.encode()])
            before = time.monotonic()
            inputs, gaps = _draw_clear_of_ties(name, tasks, plan, fixed, cost.values, margins, rng)
            cases[name].append(Case(inputs, call(name, inputs), gaps))
            if (took := time.monotonic() - before) > NOTED_SECONDS:
                on_progress(f"{name}: golden case {number + 1} of at most {most} took {took:.0f} s in torch")
    return {name: cases[name] for name in tasks.tasks}


def check_golden(golden: Mapping[str, Golden], tasks: Tasks) -> Mapping[str, Golden]:
    """What a family says about the cost of its golden cases, if it can be.

    Raises:
        UsageError: it names a task, an input or a number that there is not.
    """

    def refuse(why: str) -> NoReturn:
        raise UsageError(f"list_tasks: the golden cases of '{name}': {why}")

    for name, cost in golden.items():
        if name not in tasks.tasks:  # not exported, unless the family is wrong
            continue
        inputs = tasks.tasks[name].inputs
        if not 0 <= cost.cases <= len(PLANS):
            refuse(f"cases is {cost.cases}; it must be 1 .. {len(PLANS)}, or 0")
        if cost.size is not None and any(side < 1 for side in cost.size):
            refuse(f"size is {tuple(cost.size)}; height and width must be at least 1")
        if cost.counts is not None and any(count < 0 for count in cost.counts):
            refuse(f"counts are {tuple(cost.counts)}; none may be negative")
        for port, value in cost.values.items():
            if port not in inputs:
                refuse(f"there is no input '{port}'; there are {', '.join(inputs)}{did_you_mean(port, inputs)}")
            if value != value // 1 and np.issubdtype(inputs[port].dtype, np.integer):
                refuse(f"{port} is {value}; it must be a whole number")
            low, high = kind_of(inputs[port]).bounds(inputs[port])
            if (low is not None and value < low) or (high is not None and value > high):
                refuse(f"{port} is {value}; it must be {kind_of(inputs[port]).range_text(inputs[port])}")
    return golden


def about_ties(cases: Sequence[Case], tolerance: Tolerance) -> str:
    """What cannot be compared in the cases of a task, for people; empty if all can."""
    tied = [case.margins <= tolerance.token_margin for case in cases if case.margins is not None]
    if len(tied) == len(cases) and all(rows.all() for rows in tied):
        return (
            "choices tie in every golden case, so it is only checked that most elements agree;"
            " docs/contract.md#build_task explains margins"
        )
    number = sum(int(rows.sum()) for rows in tied)
    return f"choices are so close that {number} elements of golden cases tie, and cannot be compared" if number else ""


def _feeders_first(tasks: Tasks) -> list[str]:
    """The tasks in an order in which each follows those that feed it; unchanged if they feed each other."""
    order: list[str] = []
    waiting = list(tasks.tasks)
    while waiting:
        ready = (
            name for name in waiting if not any(_feeder(tasks, name, p, waiting) for p in tasks.tasks[name].inputs)
        )
        order.append(next(ready, waiting[0]))
        waiting.remove(order[-1])
    return order


def _feeder(tasks: Tasks, name: str, port: str, among: Collection[str]) -> str | None:
    """The first other task with an output of the port's name and kind; pictures are drawn, not fed."""
    taken = tasks.tasks[name].inputs[port]
    if not kind_of(taken).fed:
        return None
    for other, task in tasks.tasks.items():
        given = task.outputs.get(port)
        if other in among and other != name and given and kind_of(given) is kind_of(taken):
            return other
    return None


def _draw_clear_of_ties(
    name: str,
    tasks: Tasks,
    plan: Plan,
    fed: Mapping[str, np.ndarray],
    values: Mapping[str, int | float],
    margins: Margins,
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Inputs of a case; elements of the batch whose choices are close to a tie are redrawn, one by one.

    Also returns the smallest margin of each element, float32 [batch], if some stayed close to a tie; else None.
    """
    task, limit = tasks.tasks[name], 2 * tasks.tolerance.token_margin
    inputs: dict[str, np.ndarray] = {}
    gaps: np.ndarray | None = None
    deadline = time.thread_time() + TIES_SECONDS
    for divisor in SHRINK:
        smaller = replace(plan, height=plan.height // divisor, width=plan.width // divisor)
        inputs = draw_inputs(task, smaller, rng, fed, values)
        gaps = smallest(margins(name, inputs))
        for number in range(MAX_DRAWS):
            if gaps is None or not (unclear := gaps <= limit).any():
                return inputs, None
            if time.thread_time() > deadline:
                return inputs, gaps
            if number == HOPELESS_DRAWS and unclear.all():
                break
            fresh = draw_inputs(task, smaller, rng, fed, values)
            for port in task.inputs.keys() - fed.keys():
                if task.inputs[port].shape[:1] == ("batch",):
                    inputs[port][unclear] = fresh[port][unclear]
            gaps = smallest(margins(name, inputs))
    return inputs, gaps


def smallest(margins: np.ndarray | None) -> np.ndarray | None:
    """The smallest margin of each element of the batch."""
    return None if margins is None else margins.reshape(len(margins), -1).min(axis=1)


def draw_inputs(
    task: Task,
    plan: Plan,
    rng: np.random.Generator,
    fed: Mapping[str, np.ndarray] = {},
    values: Mapping[str, int | float] = {},
) -> dict[str, np.ndarray]:
    """Values for every input of a task, in the order of its ports; `fed` ones are used unchanged, and `values` are
    numbers that fill a whole port."""
    sizes = _dimensions(task, plan)
    for port, array in fed.items():
        sizes |= {dim: n for dim, n in zip(task.inputs[port].shape, array.shape, strict=True) if isinstance(dim, str)}
    shapes = {
        name: [sizes[dim] if isinstance(dim, str) else dim for dim in port.shape] for name, port in task.inputs.items()
    }
    drawn = {
        name: fed[name] if name in fed else kind_of(port).draw_case(port, shapes[name], rng)
        for name, port in task.inputs.items()
    }
    if count := count_of(task.inputs):
        most = int(task.inputs[count].minimum or 1) + ITERATED_PICTURES // plan.batch
        drawn[count] = np.asarray(np.minimum(drawn[count], most))
    return drawn | {name: np.full_like(drawn[name], value) for name, value in values.items() if name in drawn}


def _dimensions(task: Task, plan: Plan) -> dict[str, int]:
    """A size for each named dimension: pictures and batches from the plan, the others small and distinct."""
    sizes: dict[str, int] = {}
    for port in task.inputs.values():
        sizes |= kind_of(port).dimensions(port, plan.height, plan.width)
    for port in task.inputs.values():
        for dim in port.shape:
            if isinstance(dim, str):
                sizes.setdefault(dim, plan.batch if dim == "batch" else 3 + 2 * len(sizes) + plan.batch)
    return sizes
