"""Learning rates and weight averages that families share."""

import copy
import math

import torch
from torch import nn


def cosine_rate(step: int, steps: int, peak: float, warmup_steps: int = 0) -> float:
    """Linear from 0 to `peak` over `warmup_steps`, then half a cosine down to 0 at `steps`.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts. `step` counts from 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class WeightAverage:
    """A moving average of a module's parameters; buffers are copied as they are.

    average <- d average + (1 - d) weights, with d = min(decay, (1 + step) / (10 + step)), so that the start is soon
    forgotten.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.source, self.decay = module, decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, weights = list(self.module.parameters()), list(self.source.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.module.buffers(), self.source.buffers(), strict=True):
            average.copy_(buffer)
