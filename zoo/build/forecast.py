"""What a training will take, before it starts: operations, memory and time of a step.

A throwaway trainer takes a step with a few pictures, in which operations and the tensors kept for the backward pass are
counted. Both grow with the number of pictures. If the memory suffices, a whole step is timed.
"""

import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UsageError, ZooError
from ..hookspecs import Trainer
from ..plugins import Loaded
from ..settings import TrainingSettings, read
from ..system import memory
from ..text import human_bytes
from .augment import Augment
from .batching import batch_of
from .data import Dataset, Sampler
from .losses import named_losses
from .train import Processes, Run, augmented, new_trainer

FEW = 4  # pictures of the counted step
LONG = 20.0  # seconds; a step that would take longer is not timed
SHORT = 5.0  # seconds; a step that takes less is timed twice, since the first one also warms up
PLANNED_SHARE = 0.85  # of the given time is for steps; the rest for looks, held-out figures and a slower machine
FEWEST_STEPS, SMALLEST_BATCH = 2_000, 16  # before fewer steps are planned, batches get smaller
MANY_MORE = 1.5  # times as many steps that a batch of half the size must give
COUNTS = ("_steps", "_start")  # endings of the settings that count steps
COPIES = 5  # of the weights: themselves, their average, gradients, Adam's two averages


@dataclass(frozen=True)
class Forecast:
    """What a training takes, in each of its processes."""

    parameters: int  # of the model
    flops: int  # floating-point operations of a step
    memory_bytes: int  # at the peak, roughly
    free_bytes: int | None  # of the device's memory; None: unknown
    step_seconds: float
    device: str
    counts: Mapping[str, int] = field(default_factory=dict)  # the trainer's settings that count steps


def forecast(loaded: Loaded, run: Run, data: Dataset) -> Forecast:
    """Estimates a training.

    Raises:
        UsageError: invalid settings, pictures that the trainer refuses, or too little memory for a step.
    """
    processes = Processes()
    settings = read(TrainingSettings, run.settings, f"{run.family} training")
    number = len(range(settings.batch_size)[processes.share(settings.batch_size)])
    Sampler(len(data), settings.batch_size, settings.seed)  # refuses a batch that is larger than the data
    parts = settings.accumulate
    if parts > 1:
        new_trainer(loaded, run, processes.device)  # refuses parts if it cannot compute them
    whole = {name: value for name, value in run.settings.items() if name != "accumulate"}
    trainer = new_trainer(loaded, replace(run, settings=whole), processes.device)
    few, at_once = min(number, FEW), -(-number // parts)

    kept: dict[int, int] = {}
    # What is there before the step and does not grow with the batch: weights, their average, the optimiser's state.
    own = {tensor.untyped_storage().data_ptr() for tensor in _tensors(trainer.state_dict())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        seconds = _seconds(loaded, trainer, run, data, few, processes.device)
    weights = sum(p.numel() * p.element_size() for p in trainer.trained_module().parameters())
    needed = COPIES * weights + sum(kept.values()) * at_once // few
    free = free_memory(processes.device)
    if free is not None and needed > free:
        advice = "--accumulate N, to compute a batch in N parts, or " if getattr(trainer, "accumulates", False) else ""
        raise UsageError(
            f"a step needs about {human_bytes(needed)} of memory, and {human_bytes(free)} are free: give {advice}a"
            f" smaller --batch-size than {settings.batch_size:,}"
        )
    if seconds * at_once / few < LONG:
        took = _seconds(loaded, trainer, run, data, at_once, processes.device)
        if took < SHORT:
            took = min(took, _seconds(loaded, trainer, run, data, at_once, processes.device))
        seconds = took * number / at_once
    else:
        seconds *= number / few
    return Forecast(
        parameters=sum(p.numel() for p in trainer.trained_module().parameters()),
        flops=counter.get_total_flops() * number // few,
        memory_bytes=needed,
        free_bytes=free,
        step_seconds=seconds,
        device=processes.name,
        counts=_counts(trainer),
    )


def is_planned(name: str) -> bool:
    """Whether `planned` chooses this setting."""
    return name in ("steps", "batch_size") or name.endswith(COUNTS)


def _counts(trainer: Trainer) -> dict[str, int]:
    """The settings of a trainer whose names say that they count steps: `warmup_steps`, `discriminator_start`."""
    settings = getattr(trainer, "settings", None)
    names = settings.__struct_fields__ if isinstance(settings, msgspec.Struct) else ()
    return {name: getattr(settings, name) for name in names if name.endswith(COUNTS)}


def planned(
    loaded: Loaded, run: Run, data: Dataset, found: Forecast, seconds: float, given: Collection[str] = ()
) -> Run:
    """A run whose steps fit a given time, since the learning rate only falls to its end in a training that is complete.

    If few steps fit, the batches are made smaller first, as long as that gives many more of them: many small steps
    train better than few large ones. Settings that count steps are scaled with them.

    Args:
        found: the forecast of the run.
        seconds: the given time.
        given: settings that stay as they are, since the user chose them.
    """
    asked = run.settings["steps"]

    def fit(forecast: Forecast) -> int:
        return min(asked, max(1, int(PLANNED_SHARE * seconds / forecast.step_seconds)))

    few = min(asked, FEWEST_STEPS)
    while "batch_size" not in given and fit(found) < few and run.settings["batch_size"] >= 2 * SMALLEST_BATCH:
        smaller = replace(run, settings=run.settings | {"batch_size": run.settings["batch_size"] // 2})
        then = forecast(loaded, smaller, data)
        if fit(then) < MANY_MORE * fit(found):
            break
        run, found = smaller, then
    steps = fit(found)
    scaled = {name: count * steps // asked for name, count in found.counts.items() if name not in given}
    return replace(run, settings=run.settings | (scaled if steps < asked else {}) | {"steps": steps})


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    """All tensors of a nested state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def _seconds(loaded: Loaded, trainer: Trainer, run: Run, data: Dataset, number: int, device: torch.device) -> float:
    """How long the last step of a training takes, in which every loss has an effect."""
    batch = batch_of(data, slice(number), device)
    began = time.monotonic()
    step = run.settings["steps"] - 1
    try:
        batch = augmented(batch, Augment(**run.augment), data.aligned, trainer, (0, step, 0))
        losses = named_losses(trainer.step(batch, step, torch.Generator().manual_seed(0)), "step")
    except ZooError:
        raise
    except Exception as e:
        raise loaded.failed("its trainer failed at a first step on this data", e) from e
    for value in losses.values():
        float(value)  # waits for the device
    return time.monotonic() - began


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still take; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return memory.free_memory()


def used_memory() -> int | None:
    """Bytes that this process has taken at its peak, on the GPU if it uses one; None if unknown."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return memory.peak(os.getpid()) or None
