"""Training of a judge: cross-entropy, summed over the labels, on pictures that are shifted, mirrored and coloured."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from zoo.build.optim import WeightAverage, cosine_rate, parts_of
from zoo.errors import UsageError
from zoo.hookspecs import Batch, TrainRequest
from zoo.settings import read

from .config import JudgeSettings, read_config
from .model import Judge, to_float


def augment(
    x: Float32[Tensor, "batch channels height width"], shift: int, mirror: bool, generator: torch.Generator
) -> Float32[Tensor, "batch channels height width"]:
    """Each image moved by up to `shift` pixels (edge -1, black) and, if requested, mirrored at random."""
    n, _, height, width = x.shape
    rows = torch.randint(2 * shift + 1, (n, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(2 * shift + 1, (n, 1), generator=generator) + torch.arange(width)
    if mirror:
        flipped = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    padded = F.pad(x, (shift,) * 4, value=-1.0).permute(0, 2, 3, 1)
    picture = torch.arange(n)[:, None, None]
    moved = padded[picture, rows[:, :, None].to(x.device), columns[:, None, :].to(x.device)]
    return moved.permute(0, 3, 1, 2)


def coloured(
    x: Float32[Tensor, "batch channels height width"], most: float, generator: torch.Generator
) -> Float32[Tensor, "batch channels height width"]:
    """Each channel's distance from white, 1, times 1 - most .. 1 + most, drawn for each picture; at least -1."""
    change = 1 + most * (2 * torch.rand(*x.shape[:2], 1, 1, generator=generator) - 1)
    return (1 - (1 - x) * change.to(x.device)).clamp(min=-1)


class JudgeTrainer:
    """AdamW with a cosine learning rate; the moving average of the weights is published."""

    accumulates = True

    def __init__(self, request: TrainRequest):
        self.settings = s = read(JudgeSettings, request.settings, "judge training")
        self.module = request.module.to(memory_format=torch.channels_last)
        self.names, self.sizes = list(read_config(request.config).sizes), cast(Judge, request.module).sizes
        self.named = bool(read_config(request.config).labels)
        self.judge = request.distribute(self.module)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
        self.average = WeightAverage(self.module, s.average_decay)

    def step(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        self._check(self._labels(batch))
        for group in self.optimizer.param_groups:
            group["lr"] = cosine_rate(step, s.steps, s.learning_rate, s.warmup_steps)
        self.optimizer.zero_grad()
        losses: dict[str, Tensor] = {}
        for part, share in parts_of(batch, s.accumulate):
            x = augment(to_float(part.images), s.shift, s.mirror, generator)
            if s.colour:
                x = coloured(x, s.colour, generator)
            found = self._losses(self.judge, x, self._labels(part))
            (found["loss"] * share).backward()
            for name, value in found.items():
                losses[name] = losses.get(name, 0.0) + value.detach() * share
        self.optimizer.step()
        self.average.update(step)
        return losses

    @torch.no_grad()
    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return self._losses(self.average.module, to_float(batch.images), self._labels(batch))

    def _labels(self, batch: Batch) -> list[Int64[Tensor, " batch"]]:
        """The labels, in the order of the config."""
        return [batch.arrays[name] for name in self.names] if self.named else [batch.labels]

    def _losses(
        self,
        judge: nn.Module,
        x: Float32[Tensor, "batch channels height width"],
        labels: list[Int64[Tensor, " batch"]],
    ) -> dict[str, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            logits = judge(x).float().split(self.sizes, dim=1)
        pairs = list(zip(logits, labels, strict=True))
        losses = [F.cross_entropy(*pair, label_smoothing=self.settings.label_smoothing) for pair in pairs]
        found = {"loss": torch.stack(losses).sum() if self.named else losses[0]}
        for name, (each, label) in zip(self.names, pairs, strict=True):
            accuracy = (each.argmax(1) == label).float().mean()
            found[f"{name}_accuracy" if self.named else "accuracy"] = accuracy
        return found

    def _check(self, labels: list[Int64[Tensor, " batch"]]) -> None:
        for label, num_classes in zip(labels, self.sizes, strict=True):
            if label.min() < 0:
                raise UsageError("the family judge needs labels: give a folder with one subfolder per class, or labels")
            if label.max() >= num_classes:
                raise UsageError(
                    f"a label is {int(label.max())}, but num_classes is {num_classes}: give --set num_classes=…"
                )

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def trained_module(self) -> torch.nn.Module:
        return self.average.module
