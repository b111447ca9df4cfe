"""Learning rates, weight averages and a trainer, shared by families."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..hookspecs import Batch, TrainRequest
from ..settings import AveragedSettings
from .losses import minimised, named_losses


def cosine_rate(step: int, steps: int, peak: float, warmup_steps: int = 0) -> float:
    """Linear from 0 to `peak` over `warmup_steps`, then half a cosine down to 0 at `steps`.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts. `step` counts from 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class WeightAverage:
    """A moving average of a module's parameters; buffers are copied.

    average <- d average + (1 - d) weights, with d = min(decay, (1 + step) / (10 + step)), so that the start is soon
    forgotten.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.source, self.decay = module, decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights after `step`, which counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(self.source.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]  # no public name
        for average, buffer in zip(self.module.buffers(), self.source.buffers(), strict=True):
            average.copy_(buffer)


def parts_of(batch: Batch, number: int) -> Iterator[tuple[Batch, float]]:
    """A batch in `number` parts, each with its share of the whole."""
    arrays = {name: array.chunk(number) for name, array in batch.arrays.items()}
    parts = zip(batch.images.chunk(number), batch.labels.chunk(number), strict=True)
    for i, (images, labels) in enumerate(parts):
        part = {name: chunks[i] for name, chunks in arrays.items()}
        yield Batch(images=images, labels=labels, arrays=part), len(images) / len(batch.images)


class AveragedTrainer:
    """A `Trainer` for one module: Adam with a cosine learning rate; the moving average of the weights is published.

    A family adds `losses`, and may replace `optimizer`. `self.module` is the module; `self.network` is the trained part
    of it, for calls: under torchrun it is wrapped, so that gradients are summed over the processes. `self.device` is
    where both are.

        class MyTrainer(AveragedTrainer):
            def losses(self, batch, generator):
                x = batch.images.permute(0, 3, 1, 2).float() / 127.5 - 1  # [batch, channels, height, width]
                noise = torch.randn(x.shape, generator=generator).to(self.device)
                return {"loss": (self.network(x + noise) - x).square().mean()}
    """

    def __init__(self, request: TrainRequest, settings: AveragedSettings, part: nn.Module | None = None):
        """Only `part` of the request's module is trained; default: all of it."""
        self.settings, self.device = settings, request.device
        self.accumulates = type(self).step is AveragedTrainer.step  # a subclass's own may not compute parts
        self.module = request.module
        self.part = self.module if part is None else part
        self.network = request.distribute(self.part)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.part.parameters(), lr=settings.learning_rate)
        self.average = WeightAverage(self.part, settings.average_decay)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses, tensors of one element; the first is minimised, the others are for the log. All randomness must
        come from `generator` (on the CPU).

        Args:
            batch: uint8 images [batch, height, width, channels] and int64 labels [batch], on `self.device`.
        """
        raise NotImplementedError

    def step(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One update of the weights and of their average; see `Trainer.step`."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = cosine_rate(step, s.steps, s.learning_rate, s.warmup_steps)
        self.optimizer.zero_grad()
        losses: dict[str, Tensor] = {}
        for part, share in parts_of(batch, s.accumulate):
            found = named_losses(self.losses(part, generator), "losses")
            (minimised(found, "losses") * share).backward()
            for name, loss in found.items():
                losses[name] = losses.get(name, 0.0) + torch.as_tensor(loss).detach() * share
        if s.clip_gradient is not None:
            torch.nn.utils.clip_grad_norm_(self.part.parameters(), s.clip_gradient)
        self.optimizer.step()
        self.average.update(step)
        return losses

    @torch.no_grad()
    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of the averaged weights on a batch; nothing changes. See `Trainer` in the contract."""
        network, self.network = self.network, self.average.module
        try:
            return self.losses(batch, generator)
        finally:
            self.network = network

    def state_dict(self) -> dict[str, Any]:
        """Module, average and optimiser, for a checkpoint."""
        return {
            "module": self.module.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a `state_dict`."""
        self.module.load_state_dict(state["module"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def trained_module(self) -> nn.Module:
        """The module with averaged weights, for publishing."""
        return self.average.module
