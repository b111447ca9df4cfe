"""Training of a denoiser: Ho et al. 2020, algorithm 1, with labels left out at random (Ho and Salimans 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.build.optim import AveragedTrainer
from zoo.errors import UsageError
from zoo.hookspecs import Batch, TrainRequest
from zoo.settings import read

from . import schedule
from .config import DiffusionConfig, DiffusionSettings
from .pixels import to_float


def target(prediction: str, x0: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """What the network should say of x_t: the noise, the picture, or the velocity between them."""
    if prediction == "epsilon":
        return eps
    return x0 if prediction == "x0" else schedule.velocity(x0, eps, abar)


def denoising_loss(
    network: nn.Module, c: DiffusionConfig, abar: Tensor, x0: Tensor, t: Tensor, eps: Tensor, label: Tensor
) -> Tensor:
    """L_simple: mean squared error of the prediction (Ho et al. 2020, equation 14, for epsilon).

    Args:
        network: of x_t, t (times `timestep_scale`) and label.
        abar: [T].
        x0, eps: [N, C, H, W].
        t: int64 [N], 0 .. T-1.
        label: int64 [N], -1 for none.
    """
    signal = abar[t]
    x_t = schedule.diffuse(x0, eps, signal)
    predicted = network(x_t, t * c.timestep_scale, label)
    return F.mse_loss(predicted, target(c.prediction, x0, eps, signal))


class DenoiserTrainer(AveragedTrainer):
    """AdamW with a cosine rate; what is published is the moving average of the weights.

    Settings: `DiffusionSettings`.
    """

    def __init__(self, request: TrainRequest, diffusion: DiffusionConfig):
        s = read(DiffusionSettings, request.settings, f"{request.family} training")
        if diffusion.variance == "learned":
            raise UsageError("a learned variance can be imported, not trained: give --set diffusion.variance=small")
        request.module.to(memory_format=torch.channels_last)
        super().__init__(request, s)
        self.diffusion = diffusion
        self.abar = schedule.alphas_bar(schedule.betas(diffusion)).float().to(request.device)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=s.learning_rate, betas=(0.9, 0.99), weight_decay=s.weight_decay
        )

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        self._check(batch.labels)
        x0, label = to_float(batch.images), batch.labels
        number, device = len(x0), x0.device

        def chance(share: float) -> Tensor:
            return (torch.rand(number, generator=generator) < share).to(device)

        if s.mirror:
            x0 = torch.where(chance(0.5)[:, None, None, None], x0.flip(3), x0)
        if self.module.config.null_label:
            label = torch.where(chance(s.label_dropout), -1, label)
        # One timestep out of each N-th of the range: every batch sees all noise levels, each timestep equally often.
        places = (torch.arange(number) + torch.rand(number, generator=generator)) / number
        t = (places * len(self.abar)).long().clamp(max=len(self.abar) - 1).to(device)
        eps = torch.randn(x0.shape, generator=generator).to(device)
        return {"loss": denoising_loss(self.network, self.diffusion, self.abar, x0, t, eps, label)}

    def _check(self, labels: Tensor) -> None:
        network = self.module.config
        if not network.num_classes:
            return
        if labels.max() >= network.num_classes:
            raise UsageError(
                f"a label is {int(labels.max())}, and num_classes is {network.num_classes}: "
                "give --set network.num_classes=…"
            )
        if labels.min() < 0 and not network.null_label:
            raise UsageError(
                "pictures have no label, and the network knows no null label: give --set network.null_label=true"
            )
