"""Training of the codec, equation 3 of van den Oord et al. 2017, and of a prior over its tokens."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.build.optim import WeightAverage, cosine_rate
from zoo.errors import UsageError
from zoo.hookspecs import Batch, TrainRequest
from zoo.settings import read

from .config import CodecSettings, PriorSettings
from .prior import prior_loss
from .quantize import perplexity
from .tasks import Encode, pad_to_multiple, to_float


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


class PriorTrainer:
    """AdamW with a cosine rate on the tokens that the codec gives; the codec stays as it is, to the bit."""

    def __init__(self, request: TrainRequest):
        if not request.parent:
            raise UsageError("a prior learns the tokens of a trained codec: name it with --from MODEL")
        self.settings = s = read(PriorSettings, request.settings, "prior training")
        self.module = request.module
        self.encode = Encode(self.module["codec"]).eval().requires_grad_(False)
        self.inner = self.module["prior"]
        self.prior = request.distribute(self.inner)
        self.optimizer = torch.optim.AdamW(
            self.inner.parameters(), lr=s.learning_rate, betas=(0.9, 0.96), weight_decay=s.weight_decay
        )
        self.average = WeightAverage(self.inner, s.average_decay)

    def step(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        s, number = self.settings, len(batch.images)

        def chance(share: float) -> Tensor:
            return (torch.rand(number, generator=generator) < share).to(batch.images.device)

        images = batch.images
        if s.mirror:
            images = torch.where(chance(0.5)[:, None, None, None], images.flip(2), images)
        tokens = self.tokens(images)
        label = torch.where(chance(s.label_dropout), -1, self.labels(batch.labels))
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            loss = prior_loss(self.prior, self.inner.config.kind, tokens, label, generator)

        for group in self.optimizer.param_groups:
            group["lr"] = cosine_rate(step, s.steps, s.learning_rate, s.warmup_steps)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.inner.parameters(), s.clip_gradient)
        self.optimizer.step()
        self.average.update(step)
        return {"nats_per_token": loss.detach()}

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """int64 [N, L]."""
        tokens, _ = self.encode(images)
        c, (rows, columns) = self.inner.config, tokens.shape[1:]
        if (rows, columns) != (c.rows, c.columns):
            raise UsageError(
                f"the pictures give {rows}x{columns} tokens, and the prior is for {c.rows}x{c.columns}: give "
                f"--set prior.rows={rows} --set prior.columns={columns}"
            )
        return tokens.flatten(1)

    def labels(self, labels: Tensor) -> Tensor:
        num_classes = self.inner.config.num_classes
        if not num_classes:
            return torch.full_like(labels, -1)
        if labels.max() >= num_classes:
            raise UsageError(
                f"a label is {int(labels.max())}, and prior.num_classes {num_classes}: --set prior.num_classes=…"
            )
        return labels

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
        return torch.nn.ModuleDict({"codec": self.module["codec"], "prior": self.average.module})
