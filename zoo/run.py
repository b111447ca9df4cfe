"""A task's call from a command line: options and files in, a call that can be run, recorded and made again.

The options are the task's ports. Pictures are files; a tokens file fills all `tokens` ports and `size`; `-n N` makes N
pictures with the seeds S, S+1, …; one picture, label or number stands for the whole batch.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import UsageError
from .hookspecs import Kind, Port, Task
from .media import STDIN, InputFile, Note, check_masks, read_input, read_pictures
from .model import Model
from .ports import MAX_SEED, complete, label_numbers, range_text
from .text import did_you_mean, safe_text
from .tiling import check_tile, run_in_tiles
from .tokens import read_npy, read_tokens

if TYPE_CHECKING:
    import numpy as np

MAX_NUMBER = 10_000
"""Of pictures in one call: what is asked for by mistake would fill the memory."""

BATCH = "batch"
TOKENS = "tokens"
"""The option that fills every `tokens` port and `size`."""

_PICTURES = ("image", "mask")


@dataclass(frozen=True)
class Option:
    """What a task asks of a command line for a port."""

    port: str  # the key of its value in `gather`
    kind: Kind
    help: str
    multiple: bool = False


@dataclass(frozen=True)
class Call:
    """A call, complete: what runs, and what must be known to run it again."""

    task: str
    inputs: dict[str, np.ndarray]  # checked
    options: dict[str, Any]  # values of the ports that came from no file, seed or example
    files: dict[str, list[InputFile]]  # by option
    example: bool
    seed: int | None  # of the first picture; None for a task without, and for the example's seeds
    number: int | None  # -n
    tile: int | None = None  # --tile: the side of a tile, pixels


@dataclass(frozen=True)
class Result:
    """What a call gave."""

    outputs: dict[str, np.ndarray]
    provider: str
    device: str  # the provider, and why it is not CUDA
    seconds: float
    left_on_cpu: dict[str, int] = field(default_factory=dict)


def options_of(task: Task) -> list[Option]:
    """The options of a task, in the order of its ports."""
    options: list[Option] = []
    for name, port in task.inputs.items():
        if port.kind in ("audio", "video"):
            continue
        if port.kind == "tokens":
            if not any(o.port == TOKENS for o in options):
                options.append(Option(TOKENS, "tokens", "Tokens file: .safetensors that `encode` wrote, or .npy."))
            continue
        options.append(Option(name, port.kind, _help(name, port, task), multiple=port.kind in (*_PICTURES, "label")))
    return options


def _help(name: str, port: Port, task: Task) -> str:
    said = safe_text(port.summary)
    said = said[:1].upper() + said[1:]
    limits = {
        "image": f"at least {port.minimum_size or 1} pixels a side; PNG, JPEG, WebP, GIF, BMP, or - for stdin",
        "mask": "white (128 and more): draw anew; a picture file",
        "label": (f"a class name, or {range_text(port)}" if port.classes else range_text(port)),
        "seed": "of the first picture, the next gets one more; default: drawn and printed",
        "size": "HEIGHTxWIDTH" + ("; default: the tokens file's" if _has_tokens(task) else ""),
        "tensor": f"a .npy file, {port.dtype} [{', '.join(map(str, port.shape))}]",
    }.get(port.kind, range_text(port))
    default = "" if port.default is None else f"default: {port.default}"
    notes = "; ".join(part for part in (limits, default) if part)
    return f"{said or name.capitalize()}" + (f"  [{notes}]" if notes else "")


def _has_tokens(task: Task) -> bool:
    return any(port.kind == "tokens" for port in task.inputs.values())


def gather(
    model: Model,
    task_name: str | None,
    given: Mapping[str, Any],
    *,
    number: int | None = None,
    example: bool = False,
    tile: int | None = None,
    note: Note,
) -> Call:
    """A call out of options. Every file is read and every range checked here, before ONNX Runtime is loaded.

    Args:
        given: by port: paths of pictures (a list; `-` is stdin), path of a `tokens` or tensor file, class names or
            numbers, `HEIGHTxWIDTH`, numbers. A seed may be a list, one a picture.
        number: of pictures, for a task that has a seed.
        tile: work in tiles of this side; pictures may then be larger than their port says.
        example: the model's first golden case gives every input that `given` lacks.
        note: told, in one line each, what a person should know: what was done to a picture, the seed that was drawn;
            nothing where the call is refused.

    Raises:
        NotFoundError, UsageError, InvalidFileError: one line.
    """
    name, task = model.manifest.task(task_name)
    if tile is not None:
        check_tile(name, task, tile)
        task = _of_any_size(task)
    if unfit := next((n for n, port in task.inputs.items() if port.kind in ("audio", "video")), None):
        raise UsageError(f"{name} takes {task.inputs[unfit].kind} ({unfit}), which no option gives; use zoo.load")
    given = {key: value for key, value in given.items() if value is not None and value != ()}
    if unknown := next((key for key in given if key not in task.inputs and key != TOKENS), None):
        raise UsageError(f"{name} has no input '{safe_text(unknown)}'" + did_you_mean(unknown, task.inputs))
    _refuse_stdin_twice(given)
    notes: list[str] = []
    files: dict[str, list[InputFile]] = {}
    values = dict(_example(model, name)) if example else {}
    from_example = set(values)
    for port_name, port in task.inputs.items():
        if port_name not in given or port.kind in ("tokens", "seed"):
            continue
        value = given[port_name]
        if port.kind in _PICTURES:
            files[port_name] = [read_input(source) for source in value]
            values[port_name] = read_pictures(files[port_name], port_name, port, notes.append)
        elif port.kind == "tensor":
            files[port_name] = [read_input(value)]
            values[port_name] = read_npy(files[port_name][0])
        elif port.kind == "size" and isinstance(value, str):
            values[port_name] = _size(port_name, value)
        elif port.kind == "label":
            values[port_name] = label_numbers(port_name, port, value)
        else:
            values[port_name] = value
        from_example.discard(port_name)
    for mask in (n for n, port in task.inputs.items() if port.kind == "mask" and n in files):
        for image in (n for n, port in task.inputs.items() if port.kind == "image" and n in files):
            check_masks(files[image], files[mask])
    if TOKENS in given and _has_tokens(task):
        files[TOKENS] = [read_input(given[TOKENS])]
        read = read_tokens(files[TOKENS][0], task, model.digest, model.reference, notes.append)
        read = {k: v for k, v in read.items() if task.inputs[k].kind == "tokens" or k not in given}
        values |= read
        from_example -= set(read)
    _require(name, task, values)

    batch = _spread(task, values, number)
    seed = _fill_seeds(task, values, given, batch, notes.append)
    inputs = complete(name, task, values)
    for line in notes:
        note(line)
    in_files = set(files) | ({n for n, p in task.inputs.items() if p.kind == "tokens"} if TOKENS in files else set())
    if TOKENS in files:
        in_files |= {n for n, p in task.inputs.items() if p.kind == "size" and n not in given}
    options = {
        port_name: _plain(inputs[port_name], port)
        for port_name, port in task.inputs.items()
        if port.kind != "seed" and port_name not in in_files and port_name not in from_example
    }
    return Call(name, inputs, options, files, example, seed, number, tile)


def execute(model: Model, call: Call) -> Result:
    """Runs a call. `seconds` is the call's own time, without opening the session."""
    session = model.session(call.task)
    start = time.perf_counter()
    if call.tile:
        outputs = run_in_tiles(session.run, model.manifest.tasks[call.task], call.inputs, call.tile)
    else:
        outputs = session.run(call.inputs)
    return Result(outputs, session.provider, str(session), time.perf_counter() - start, session.left_on_cpu)


def _of_any_size(task: Task) -> Task:
    """The task with the limit on pixels lifted to what any picture may have."""
    ports = {name: msgspec.structs.replace(port, maximum_pixels=None) for name, port in task.inputs.items()}
    return msgspec.structs.replace(task, inputs=ports)


def _refuse_stdin_twice(given: Mapping[str, Any]) -> None:
    sources = [v for value in given.values() for v in (value if isinstance(value, (list, tuple)) else [value])]
    if sources.count(STDIN) > 1:
        raise UsageError("'-' (stdin) can be read once; give a file for the other")


def _example(model: Model, task: str) -> dict[str, np.ndarray]:
    """The inputs of the task's largest golden case: the smallest ones are there for checking, not for looking at."""
    from .replay import GOLDEN, read_cases

    cases = read_cases(model.folder / GOLDEN, model.manifest)[task]
    return max(cases, key=lambda case: sum(array.size for array in case.inputs.values())).inputs


def _size(name: str, text: str) -> list[int]:
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise UsageError(f"{name} is '{safe_text(text)}'; it must look like HEIGHTxWIDTH, 28x28")
    return [int(height), int(width)]


def _require(name: str, task: Task, values: Mapping[str, Any]) -> None:
    """Names the option that is missing, in the words of the command line."""
    for port_name, port in task.inputs.items():
        if port_name in values or port.default is not None or port.kind == "seed":
            continue
        option = TOKENS if port.kind in ("tokens", "size") and _has_tokens(task) else port_name
        what = {"label": "NAME|NUMBER", "count": "N", "scalar": "NUMBER", "size": "HEIGHTxWIDTH"}
        shown = "FILE" if option == TOKENS else what.get(port.kind, "FILE")
        raise UsageError(
            f"{name} needs {option_name(option)} {shown}; --example takes the model's own example, --help lists options"
        )


def option_name(port: str) -> str:
    """`--port`; a port that has the name of one of `zoo run`'s own options gets `--port-NAME`."""
    name = port.replace("_", "-")
    return f"--port-{name}" if name in OWN_OPTIONS else f"--{name}"


OWN_OPTIONS = frozenset({"device", "example", "help", "json", "out", "registry", "tile"})


def _spread(task: Task, values: dict[str, Any], number: int | None) -> int:
    """Repeats what is there once for the whole batch; the batch's length.

    Raises:
        UsageError: two inputs of different numbers.
    """
    import numpy as np

    if number is not None and not 1 <= number <= MAX_NUMBER:
        raise UsageError(f"-n is {number}; it must be 1 .. {MAX_NUMBER}")
    if number is not None and not any(port.kind == "seed" for port in task.inputs.values()):
        raise UsageError("-n is for tasks that have a seed; this one gives the same picture every time")
    several = {
        name: value
        for name, value in values.items()
        if task.inputs[name].shape[:1] == (BATCH,) and task.inputs[name].kind != "seed"
        if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim)
    }
    lengths = {name: len(value) for name, value in several.items()}
    batch = number or max(lengths.values(), default=1)
    for name, length in lengths.items():
        if length not in (1, batch):
            raise UsageError(f"{length} of {name} for {batch} pictures; give one for all, or {batch}")
        if length < batch:
            value = several[name]
            values[name] = value * batch if isinstance(value, list) else np.repeat(value, batch, axis=0)
    return batch


def _fill_seeds(task: Task, values: dict[str, Any], given: Mapping[str, Any], batch: int, note: Note) -> int | None:
    """Seeds S, S+1, … for every `seed` port; the first one, None without or in an example."""
    import numpy as np

    first = None
    for name, port in task.inputs.items():
        if port.kind != "seed":
            continue
        seed = given.get(name)
        if seed is None and name in values and len(values[name]) == batch:  # the example's
            continue
        if seed is None:
            seed = secrets.randbelow(2**31)
            note(f"seed {seed}")
        if not 0 <= seed <= MAX_SEED - (batch - 1):
            raise UsageError(f"{name} is {seed}; it must be 0 .. {MAX_SEED - (batch - 1)}")
        values[name] = np.arange(seed, seed + batch, dtype=np.int64)
        first = seed
    return first


def _plain(array: np.ndarray, port: Port) -> Any:
    """JSON of an option's value: one number where all pictures have the same."""
    values = array.tolist()
    return values[0] if port.shape == (BATCH,) and len(set(values)) == 1 else values
