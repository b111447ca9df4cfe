"""Calls from a command line: turns options and files into a call that can be run, recorded and repeated.

The options are the task's ports. Pictures are files; a tokens file fills all `tokens` ports and `size`; `-n N` makes N
pictures with the seeds S, S+1, …; a single picture, label or number is used for the whole batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import UsageError
from ..hookspecs import Port, Task
from ..media.files import InputFile, Note, refuse_stdin_twice
from ..media.sheet import View
from ..ports.image import images_of
from ..ports.inputs import complete
from ..ports.kind import BATCH, MAX_BATCH, Form, Option, Read, Source
from ..ports.kinds import drawn, kind_of
from ..ports.outputs import check_outputs
from ..text import did_you_mean, safe_text
from .batches import MOST_AT_ONCE, BatchSize, batch_length, run_in_parts, run_within_memory
from .likeness import fitted, unlike
from .tiling import check_tile, run_in_tiles

if TYPE_CHECKING:
    import numpy as np

    from .model import Model


@dataclass(frozen=True)
class Call:
    """A complete call: what to run, and what is needed to repeat it."""

    task: str
    inputs: dict[str, np.ndarray]  # checked
    options: dict[str, Any]  # values of ports that do not come from a file, seed or example
    files: dict[str, list[InputFile]]  # by option
    example: bool
    seed: int | None  # of the first picture; None for a task without one, and for the example's seeds
    number: int | None  # -n
    tile: int | None = None  # --tile: the side of a tile, pixels
    invert: bool = False  # --invert
    fit: bool = False  # --fit
    view: View = View()  # how its pictures are shown

    def form(self, port: Port, ports: Mapping[str, Port]) -> Form:
        """How an output becomes a file of its own, with the call's view; `ports` are all outputs of its task."""
        return kind_of(port).form_in(port, ports).viewed(self.view)


@dataclass(frozen=True)
class Result:
    """The result of a call."""

    outputs: dict[str, np.ndarray]
    provider: str
    device: str  # the provider, and if it is not CUDA, why not
    seconds: float
    left_on_cpu: dict[str, int] = field(default_factory=dict)
    runtime_version: str = ""  # of ONNX Runtime


def options_of(task: Task) -> list[Option]:
    """The options of a task, in the order of its ports; a shared option is listed once."""
    options = (kind_of(port).option(name, port, task) for name, port in task.inputs.items())
    return list({option.name: option for option in options if option}.values())


def gather(
    model: Model,
    task_name: str | None,
    given: Mapping[str, Any],
    *,
    number: int | None = None,
    example: bool = False,
    tile: int | None = None,
    invert: bool = False,
    fit: bool = False,
    each: bool = False,
    note: Note,
) -> Call:
    """A call from options. Every file is read and every range checked here, before ONNX Runtime is loaded.

    Args:
        given: by port: paths of pictures (a list; `-` is stdin), path of a `tokens` or tensor file, class names or
            numbers, `HEIGHTxWIDTH`, numbers. A seed may be a list, one per picture.
        number: of pictures, for a task with a seed.
        tile: work in tiles of this side length; pictures may then be larger than their port allows.
        example: take inputs missing in `given` from one of the model's golden cases.
        invert: make a negative of every picture that comes from a file, for a model of white on black.
        fit: scale pictures to the size that the model was trained on, without cropping them.
        each: what there is to know about several pictures alike is one line for each of them.
        note: called with one line for each thing that the user should know, such as a change to a picture or the seed
            that was drawn; not called if the call is refused.

    Raises:
        NotFoundError, UsageError, InvalidFileError: one line.
    """
    name, _ = model.manifest.task(task_name)
    task = task_as_asked(model, name, tile, fit)
    given = {key: value for key, value in given.items() if value is not None and value != ()}
    _refuse_unfit(name, task, given)
    notes: list[str] = []
    values = dict(model.example(name)) if example else {}
    read, files = _read(model, task, given, notes.append, fit)
    from_example = set(values) - read.keys()
    from_files = {port for values_read in read.values() if values_read.files for port in values_read.values}
    for values_read in read.values():
        values |= values_read.values
        from_example -= values_read.values.keys()
    pictures = [port for port in images_of(task.inputs) if port in files]
    if invert and not pictures:
        raise UsageError(f"--invert is for pictures from files; {name} was given none")
    for port in pictures if invert else ():
        values[port] = 255 - values[port]
    if tile is None:
        notes += unlike(model, task, files, values, each)
    _require(name, task, values)

    listed = [len(given[port]) for port in drawn(task.inputs) if isinstance(given.get(port), list)]
    unlisted = max([1, *(_length(task.inputs[name], values[name]) for name in from_files | from_example)])
    several = {name for name, port in task.inputs.items() if _length(port, values.get(name, given.get(name))) > 1}
    batch = _spread(task, values, number if number is not None else next(iter(listed), None))
    seed = _fill_drawn(task, values, given, batch, notes.append)
    inputs = complete(name, task, values)
    for line in notes:
        note(line)
    recorded = {
        port_name: port
        for port_name, port in task.inputs.items()
        if (not kind_of(port).drawn or isinstance(given.get(port_name), list))
        and port_name not in from_files
        and port_name not in from_example
    }
    options = {port_name: kind_of(port).recorded(port, inputs[port_name]) for port_name, port in recorded.items()}
    lists = any(isinstance(options[name], list) and port.shape[:1] == (BATCH,) for name, port in recorded.items())
    if number is None and not lists and unlisted < batch:  # nothing else would say how many there are
        options |= {
            port_name: kind_of(port).recorded(port, inputs[port_name], whole=True)
            for port_name, port in recorded.items()
            if port_name in several
        }
    return Call(name, inputs, options, files, example, seed, number, tile, invert, fit)


def _read(
    model: Model, task: Task, given: Mapping[str, Any], note: Note, whole: bool
) -> tuple[dict[str, Read], dict[str, list[InputFile]]]:
    """The values from the given options, by option, and the files that were read for them."""
    read: dict[str, Read] = {}
    files: dict[str, list[InputFile]] = {}
    asked = {name: kind_of(port).option(name, port, task) for name, port in task.inputs.items()}
    # An option that fills several ports comes last: it does not change ports that were given by their own option.
    for name, option in sorted(asked.items(), key=lambda item: bool(item[1] and item[1].shared)):
        port, kind = task.inputs[name], kind_of(task.inputs[name])
        if option is None or option.name not in given or option.name in read or kind.drawn:
            continue
        source = Source(name, port, task, model.reference, model.digest, given.keys(), note, whole)
        read[option.name] = kind.read(given[option.name], source)
        if read[option.name].files:
            files[option.name] = read[option.name].files
    for name in files.keys() & task.inputs.keys():
        kind_of(task.inputs[name]).check_together(name, files, task)
    return read, files


def execute(model: Model, call: Call, size: BatchSize | None = None, *, one_batch: bool = False) -> Result:
    """Runs a call. The result's `seconds` is the time of the call itself, without opening the session.

    Args:
        size: of the batches; None: a call of many pictures runs in batches that fit the memory, others in one.
        one_batch: the call is a batch itself; only if it does not fit in the memory, it is run in halves.
    """
    session = model.session(call.task)
    start = time.perf_counter()
    task = model.manifest.tasks[call.task]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = session.run(inputs)
        check_outputs(call.task, task, inputs, outputs)
        return outputs

    if call.tile:
        outputs = run_in_tiles(run, task, call.inputs, call.tile)
    elif one_batch:
        outputs = run_within_memory(run, task, call.inputs, size)
    elif size or batch_length(task.inputs, call.inputs) > MOST_AT_ONCE:
        outputs = run_in_parts(run, task, call.inputs, size or BatchSize(None, session.processes), session.interrupt)
    else:
        outputs = run(call.inputs)
    seconds = time.perf_counter() - start
    return Result(outputs, session.provider, str(session), seconds, session.left_on_cpu, session.runtime_version)


def task_as_asked(model: Model, name: str, tile: int | None, fit: bool) -> Task:
    """The task with the ports that pictures are read for: those that `tile` and `fit` of `gather` make of its own.

    Raises:
        UsageError: the task cannot work in tiles, or does not say to which size its pictures are scaled.
    """
    task = model.manifest.tasks[name]
    if tile is not None:
        check_tile(name, task, tile)
        task = _of_any_size(task)
    return fitted(model, name, task) if fit else task


def _of_any_size(task: Task) -> Task:
    """The task with the limit on pixels raised to the general limit for pictures."""
    ports = {name: msgspec.structs.replace(port, maximum_pixels=None) for name, port in task.inputs.items()}
    return msgspec.structs.replace(task, inputs=ports)


def _refuse_unfit(name: str, task: Task, given: Mapping[str, Any]) -> None:
    """Before a file is read: a task that no options can run, options that it does not have, stdin given twice."""
    if unfit := next((n for n, port in task.inputs.items() if not kind_of(port).option(n, port, task)), None):
        raise UsageError(
            f"{name} takes {task.inputs[unfit].kind} ({unfit}), for which there is no option; use zoo.load"
        )
    known = {option.name for option in options_of(task)} | task.inputs.keys()
    unknown = next((key for key in given if key not in known), None)
    if unknown is not None:
        raise UsageError(f"{name} has no input '{safe_text(unknown)}'" + did_you_mean(unknown, task.inputs))
    refuse_stdin_twice(
        [v for value in given.values() for v in (value if isinstance(value, (list, tuple)) else [value])]
    )


def _require(name: str, task: Task, values: Mapping[str, Any]) -> None:
    """The error that names the missing option, as on the command line."""
    for port_name, port in task.inputs.items():
        if port_name in values or port.default is not None or kind_of(port).drawn:
            continue
        option, asks = kind_of(port).missing(port_name, port, task)
        raise UsageError(
            f"{name} needs {option_name(option)} {asks}; --example uses the model's own example, --help lists options"
        )


def option_name(port: str) -> str:
    """`--NAME`; a port with the name of one of `zoo run`'s own options gets `--port-NAME`."""
    name = port.replace("_", "-")
    return f"--port-{name}" if name in OWN_OPTIONS else f"--{name}"


OWN_OPTIONS = frozenset(
    {"batch-size", "device", "example", "fit", "from-file", "help", "invert", "isolate", "json", "keep-going"}
    | {"no-isolate", "out", "registry", "resume", "scale", "sheet", "show", "tile"}
)


def check_number(number: int | None) -> None:
    """Refuses a number of pictures (`-n`) that one call cannot make."""
    if number is not None and not 1 <= number <= MAX_BATCH:
        raise UsageError(f"-n is {number}; it must be 1 .. {MAX_BATCH}")


def _length(port: Port, value: Any) -> int:
    """For how many pictures a value is; 1 if it is for any number."""
    return len(value) if port.shape[:1] == (BATCH,) and hasattr(value, "__len__") and getattr(value, "ndim", 1) else 1


def _spread(task: Task, values: dict[str, Any], number: int | None) -> int:
    """Repeats single values for the whole batch; returns the batch's length.

    Raises:
        UsageError: two inputs with different numbers of values.
    """
    import numpy as np

    check_number(number)
    if number is not None and not drawn(task.inputs):
        raise UsageError("-n is only for tasks with a seed; this one gives the same picture every time")
    several = {
        name: value
        for name, value in values.items()
        if task.inputs[name].shape[:1] == (BATCH,) and not kind_of(task.inputs[name]).drawn
        if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim)
    }
    lengths = {name: len(value) for name, value in several.items()}
    batch = number or max(lengths.values(), default=1)
    for name, length in lengths.items():
        if length not in (1, batch):
            raise UsageError(f"{length} values of {name} for {batch} pictures; give one for all, or {batch}")
        if length < batch:
            value = several[name]
            values[name] = value * batch if isinstance(value, list) else np.repeat(value, batch, axis=0)
    return batch


def _fill_drawn(task: Task, values: dict[str, Any], given: Mapping[str, Any], batch: int, note: Note) -> int | None:
    """Draws the values of seeds and similar ports, S, S+1, …; returns the first one, or None if there is none or if it
    comes from an example."""
    first = None
    for name in drawn(task.inputs):
        if given.get(name) is None and name in values and len(values[name]) == batch:  # from the example
            continue
        values[name], first = kind_of(task.inputs[name]).draw(name, given.get(name), batch, note)
    return first
