"""The training loop that all families share: data, processes, checkpoints, logs, Ctrl-C.

What happens in a step is up to the family (`Trainer` in the contract). A resumed run is the same run: the pictures of a
step and its random numbers only depend on seed, step and process.
"""

import os
import platform
import re
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ..errors import InvalidFileError, UsageError, ZooError
from ..formats.manifest import Training
from ..hookspecs import Batch, BuildRequest, DescribeRequest, Trainer, TrainRequest
from ..names import License, Line, Name, Text, Version
from ..plugins import Loaded
from ..settings import TrainingSettings, read
from ..system.urls import without_secrets
from ..text import did_you_mean, safe_text
from . import checkpoint as checkpoints
from .augment import Augment
from .batching import batch_of
from .checkpoint import CHECKPOINT, Checkpoint
from .data import Dataset, Sampler
from .log import Log
from .losses import named_losses
from .watch import Look, Watch, is_due

LOG_EVERY = 10  # steps


class Interrupted(ZooError):
    """Training was stopped by Ctrl-C or SIGTERM, after a checkpoint."""

    exit_code = 130
    meaning = "interrupted (Ctrl-C)"


@dataclass(frozen=True)
class Run:
    """A training's parameters, as its checkpoint stores them: enough to continue it, and to make the bundle."""

    family: str
    config: dict[str, Any]
    settings: dict[str, Any]  # steps, batch_size, learning_rate, seed, and the family's own settings
    name: Name
    version: Version
    summary: Line
    license: License
    license_note: Text = ""
    classes: list[str] = field(default_factory=list)
    stage: str = ""
    command: str = ""
    data: Text = ""
    data_license: Text = ""
    data_sha256: str = ""
    parent: str = ""
    note: Text = ""  # from the trainer, for the card
    augment: dict[str, Any] = field(default_factory=dict)  # see augment.Augment
    assets: dict[str, bytes] = field(default_factory=dict)  # see formats.assets

    @classmethod
    def asked(cls, values: Mapping[str, Any]) -> "Run":
        """The run that a person asks for; UsageError where a value cannot be."""
        return read(cls, values, "the model")

    @classmethod
    def of(cls, saved: Checkpoint) -> "Run":
        """The run that a checkpoint belongs to."""
        try:
            return msgspec.convert(saved.run | {"assets": saved.assets}, cls)
        except msgspec.ValidationError as e:
            raise InvalidFileError(f"the checkpoint was written by another version of zoo: {safe_text(e)}") from None

    def plain(self) -> dict[str, Any]:
        """The run without its assets, as text and numbers."""
        return asdict(replace(self, assets={}))

    def record(self, steps: int, seconds: float) -> Training:
        """The manifest's training record after `steps`."""
        return Training(
            command=without_secrets(self.command),
            data=self.data,
            data_license=self.data_license,
            data_sha256=self.data_sha256,
            images_seen=steps * self.settings["batch_size"],
            steps=steps,
            seed=self.settings["seed"],
            seconds=round(seconds, 1),
            parent=self.parent,
            note=self.note,
            environment=f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}",
        )


def use_threads(number: int) -> None:
    """Sets the number of CPU threads that torch uses in this process."""
    torch.set_num_threads(number)


@dataclass(frozen=True)
class Trained:
    """The result of a training; `module` is None in all processes but the first."""

    module: nn.Module | None
    record: Training


@dataclass(frozen=True)
class Progress:
    """What is known after a step."""

    step: int  # steps done
    steps: int  # in all
    losses: Mapping[str, float]  # if they are logged, else empty; the first is minimised
    look: Look | None = None  # held-out figures and a sheet, if it is time for them


class Processes:
    """The processes of a `torchrun`, or only this one."""

    def __init__(self) -> None:
        self.number = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def name(self) -> str:
        """The device, for people."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU, {torch.get_num_threads()} threads"

    @contextmanager
    def connected(self) -> Iterator[None]:
        if self.number == 1:
            yield
            return
        dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        try:
            try:
                yield
            except Interrupted:
                dist.barrier()  # torchrun ends all processes once one has ended: wait until none is still writing
                raise
            dist.barrier()  # a process that leaves early can abort the others
        finally:
            dist.destroy_process_group()

    def share(self, batch_size: int) -> slice:
        """The part of each batch that is this process's."""
        if batch_size % self.number:
            raise UsageError(f"batch size {batch_size}; it must be a multiple of the {self.number} processes")
        size = batch_size // self.number
        return slice(self.rank * size, (self.rank + 1) * size)

    def distribute(self, module: nn.Module) -> nn.Module:
        if self.number == 1:
            return module
        # Buffers are synchronised by the family itself (a codebook's averages are summed over processes).
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all of them get the same answer."""
        if self.number == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)


def train(
    loaded: Loaded,
    run: Run,
    data: Dataset,
    folder: Path,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
    resume: bool = False,
    checkpoint_every: int = 500,
    max_seconds: float | None = None,
    held_out: Dataset | None = None,
    watched: bool = False,
    tensorboard: Path | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    open_parent: Callable[[], Any] | None = None,
    preparing: Callable[[Iterator, int], Iterator] = lambda iterator, length: iterator,
) -> Trained:
    """Trains to `run.settings['steps']` and returns the module to publish.

    Args:
        loaded: the family's plugin, as `zoo.plugins.load` returns it.
        folder: for the checkpoint and the log; created if needed.
        weights: a `state_dict` to start from (`--from`).
        resume: continue from the folder's checkpoint.
        checkpoint_every: steps between checkpoints.
        max_seconds: stop after this time, with a checkpoint, and return what was reached.
        held_out: pictures that are not trained on, for figures while it runs.
        watched: look at the model at growing intervals (watch.py).
        tensorboard: a folder for event files, or None.
        on_step: called after each step.
        open_parent: opens the model of `--from` in ONNX Runtime.
        preparing: shows how far a trainer is with what it makes before the first step.

    Raises:
        Interrupted: after Ctrl-C; the checkpoint is written.
        UsageError: invalid settings.
    """
    processes = Processes()
    common = read(TrainingSettings, run.settings, f"{run.family} training")
    steps, seed = common.steps, common.seed
    share = processes.share(common.batch_size)
    sampler = Sampler(len(data), common.batch_size, seed)

    with processes.connected():
        trainer = new_trainer(loaded, run, processes.device, weights, processes.distribute, open_parent)
        watch = Watch(loaded, run, data, held_out, processes.device) if watched and processes.rank == 0 else None
        augment, aligned = Augment(**run.augment), data.aligned
        run = replace(run, note=getattr(trainer, "note", ""))
        start, seconds = 0, 0.0
        if resume:
            saved = checkpoints.load(folder)
            trainer.load_state_dict(saved.state)
            start, seconds = saved.step, saved.seconds
        first = processes.rank == 0
        now = time.monotonic()
        began, deadline = now - seconds, now + (max_seconds or 0.0)
        _prepare(trainer, loaded, processes, folder, preparing)
        with _signals() as stopped, Log(folder, tensorboard, start) if first else nullcontext() as log:
            done = start
            for step in range(start, steps):
                indices = sampler.indices(step)[share]
                batch = batch_of(data, indices, processes.device)
                place = (seed, step, processes.rank)
                torch.manual_seed(_mix(*place, 2))  # dropout draws from torch's own generator
                try:
                    batch = augmented(batch, augment, aligned, trainer, place)
                    losses = named_losses(trainer.step(batch, step, seeded(*place)), "step")
                except ZooError:
                    raise
                except Exception as e:
                    raise loaded.failed(f"its trainer failed at step {step}", e) from e
                done = step + 1
                late = max_seconds is not None and time.monotonic() >= deadline
                stop, late = processes.any(stopped()), processes.any(late)
                due = stop or late or done % checkpoint_every == 0 or done == steps
                if log is not None:
                    shown, look = {}, None
                    looking = watch is not None and not stop and (late or is_due(done, steps))
                    if due or looking or done % LOG_EVERY == 0:
                        shown = {name: float(value) for name, value in losses.items()}
                        _refuse_nan(shown, done)
                        if watch is not None and looking:
                            look = _looked(watch, trainer, done, folder, loaded)
                        log.write(done, shown, look)
                    on_step(Progress(done, steps, shown, look))
                    if due:
                        now = time.monotonic() - began
                        saved = Checkpoint(run.plain(), done, now, trainer.state_dict(), run.assets)
                        checkpoints.save(folder / CHECKPOINT, saved)
                if stop:
                    raise Interrupted(
                        f"stopped after step {done} of {steps}; continue with the same command and --resume"
                    )
                if late:
                    break
        record = run.record(done, time.monotonic() - began)
        return Trained(trainer.trained_module().cpu().eval() if first else None, record)


def _prepare(
    trainer: Trainer,
    loaded: Loaded,
    processes: Processes,
    folder: Path,
    progress: Callable[[Iterator, int], Iterator],
) -> None:
    """Lets a trainer make what its steps need; the first process does, the others find it made."""
    prepare = getattr(trainer, "prepare", None)
    if prepare is None:
        return
    for rank in range(processes.number):
        if rank == processes.rank:
            try:
                prepare(folder, progress)
            except ZooError:
                raise
            except KeyboardInterrupt:
                raise Interrupted("stopped before the first step; the same command goes on where it was") from None
            except Exception as e:
                raise loaded.failed("its trainer failed while it prepared its first step", e) from e
        if processes.number > 1:
            dist.barrier()


def augmented(
    batch: Batch, augment: Augment, aligned: Collection[str], trainer: Trainer, place: tuple[int, int, int]
) -> Batch:
    """The batch with zoo's changes to its pictures, then with those of the trainer, if it has its own.

    Args:
        aligned: the arrays that cover the pictures, and change with them.
        place: seed, step and process, on which alone the changes depend.
    """
    if augment:
        changed = {name: augment(batch.arrays[name], seeded(*place, 1)) for name in aligned}
        images = augment(batch.images, seeded(*place, 1))
        batch = replace(batch, images=images, arrays={**batch.arrays, **changed})
    own = getattr(trainer, "augment", None)
    if own is None:
        return batch
    changed = own(batch, seeded(*place, 3))
    if (
        not isinstance(changed, Batch)
        or changed.images.dtype != torch.uint8
        or len(changed.images) != len(batch.images)
    ):
        raise UsageError(
            "the trainer's augment must return a Batch with as many images, uint8 [batch, height, width, channels]"
        )
    return changed


def restore(loaded: Loaded, run: Run, saved: Checkpoint) -> nn.Module:
    """The module that a checkpoint would publish."""
    trainer = new_trainer(loaded, run, Processes().device)
    trainer.load_state_dict(saved.state)
    return trainer.trained_module().cpu().eval()


def new_trainer(
    loaded: Loaded,
    run: Run,
    device: torch.device,
    weights: Mapping[str, torch.Tensor] | None = None,
    distribute: Callable[[nn.Module], nn.Module] = lambda module: module,
    open_parent: Callable[[], Any] | None = None,
) -> Trainer:
    """The family's trainer at its first step."""
    torch.manual_seed(run.settings["seed"])
    build = BuildRequest(family=run.family, config=run.config, classes=tuple(run.classes), assets=run.assets)
    module = loaded.call("build_module", build)
    if weights is not None:
        parts = loaded.call("describe_family", DescribeRequest(family=run.family)).weights
        load_weights(module, weights, parts)
    request = TrainRequest(
        family=run.family,
        config=run.config,
        settings=run.settings,
        module=module.to(device).train(),
        device=device,
        distribute=distribute,
        stage=run.stage,
        classes=tuple(run.classes),
        parent=run.parent,
        assets=run.assets,
        open_parent=open_parent,
    )
    try:
        trainer = loaded.call("build_trainer", request)
    except UsageError as e:
        raise UsageError(f"{e}{_of_config(str(e), run)}") from None
    if run.settings.get("accumulate", 1) > 1 and not getattr(trainer, "accumulates", False):
        raise UsageError(f"the family {run.family} cannot compute a batch in parts: leave out --accumulate")
    return trainer


def _looked(watch: Watch, trainer: Trainer, step: int, folder: Path, loaded: Loaded) -> Look:
    try:
        return watch.look(trainer, step, folder)
    except ZooError:
        raise
    except Exception as e:  # of the trainer's `validate` or `examine`
        raise loaded.failed(f"its trainer failed when it was looked at after step {step}", e) from e


def _of_config(message: str, run: Run) -> str:
    """The end of a message about an unknown setting, which may have been meant as a field of the config."""
    unknown = re.search(r"there is no '([\w.]+)'", message)
    if not unknown or unknown[1] not in run.settings:
        return ""
    fields = {path.rpartition(".")[2]: path for path in _paths(run.config)}
    if near := re.search(r"'(.+)'", did_you_mean(unknown[1], fields)):
        return f"; did you mean '{fields[near[1]]}' of the config?"
    return "" if "did you mean" in message else f"; the config has {', '.join(fields.values())}"


def _paths(config: Mapping[str, Any], start: str = "") -> Iterator[str]:
    """The fields of a config: `codec.num_codes`."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{start}{name}.")
        else:
            yield f"{start}{name}"


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], parts: Sequence[str] = ()) -> None:
    """Loads a `state_dict`; the error names each tensor that is missing, unexpected, or of another shape.

    Args:
        parts: submodules that may be completely missing in the weights, such as an untrained prior; they keep their own
            weights.
    """
    own = module.state_dict()
    lacking = tuple(f"{part}." for part in parts if not any(name.startswith(f"{part}.") for name in weights))
    if len(lacking) < len(parts):
        weights = dict(weights) | {name: tensor for name, tensor in own.items() if name.startswith(lacking)}
    wrong = [f"{name} is missing" for name in own.keys() - weights.keys()]
    wrong += [f"{name} is unexpected" for name in weights.keys() - own.keys()]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if wrong:
        raise InvalidFileError(f"these weights belong to another config: {safe_text('; '.join(sorted(wrong)))}")
    module.load_state_dict(weights)


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, without the collisions of a sum."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU that only depends on these numbers."""
    return torch.Generator().manual_seed(_mix(*numbers))


def _refuse_nan(losses: Mapping[str, float], step: int) -> None:
    for name, value in losses.items():
        if value != value or abs(value) == float("inf"):
            raise UsageError(f"the loss '{name}' is {value} at step {step}; try a lower --learning-rate")


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM set a flag that the loop reads between steps; a second Ctrl-C interrupts immediately."""
    flag = False

    def handler(number: int, frame: Any) -> None:
        nonlocal flag
        if flag and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag = True

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: flag
    finally:
        for number, old in before.items():
            signal.signal(number, old)
