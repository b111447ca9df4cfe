"""Training of the codec: equation 3 of van den Oord et al. 2017, over batches of pictures."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.build.optim import WeightAverage, cosine_rate
from zoo.hookspecs import Batch, TrainRequest
from zoo.settings import read

from .config import CodecSettings
from .quantize import perplexity
from .tasks import pad_to_multiple, to_float


def reconstruction_loss(reconstruction: Tensor, x: Tensor) -> Tensor:
    """-log p(x | z_q) of a Gaussian decoder with fixed variance, up to scale and a constant: the mean squared error."""
    return F.mse_loss(reconstruction, x)


class CodecTrainer:
    """Adam with a cosine rate; what is published is the moving average of the weights."""

    def __init__(self, request: TrainRequest):
        self.settings = settings = read(CodecSettings, request.settings, "vqvae training")
        self.module = request.module.to(memory_format=torch.channels_last)
        self.codec = request.distribute(self.module["codec"])
        self.config = self.module["codec"].config
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        self.average = WeightAverage(self.module, settings.average_decay)

    def step(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        x = pad_to_multiple(to_float(batch.images), self.config.downsampling)
        reconstruction, quantized = self.codec(x, generator)
        losses = {"reconstruction": reconstruction_loss(reconstruction, x), **quantized.losses}
        loss = losses["reconstruction"] + self.config.commitment_weight * losses["commitment"]
        loss = loss + losses.get("codebook", 0.0)

        for group in self.optimizer.param_groups:
            group["lr"] = cosine_rate(step, s.steps, s.learning_rate, s.warmup_steps)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), s.clip_gradient)
        self.optimizer.step()
        self.average.update(step)

        counts = torch.bincount(quantized.indices.flatten(), minlength=self.config.num_codes)
        return {name: value.detach() for name, value in losses.items()} | {"perplexity": perplexity(counts)}

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
