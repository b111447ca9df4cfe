"""Training of a denoiser: Ho et al. 2020, algorithm 1, with labels dropped at random (Ho and Salimans 2022).

With prediction `flow` it is a rectified flow: Liu et al. 2022 (https://arxiv.org/abs/2209.03003), equation 1.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.build.optim import AveragedTrainer
from zoo.errors import UsageError
from zoo.hookspecs import Batch, TrainRequest
from zoo.settings import read

from .config import DiffusionConfig, DiffusionSettings
from .pixels import to_float
from .sampling import Denoiser, Images, Point, alphas_bar, betas, diffuse, flow, velocity


def target(prediction: str, x0: Images, eps: Images, t: Point) -> Images:
    """What the network should predict for x_t: the noise, the image, or the velocity between them."""
    if prediction == "epsilon":
        return eps
    if prediction == "flow":
        return eps - x0
    return x0 if prediction == "x0" else velocity(x0, eps, t)


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """How a network computes while it trains. On a CPU, attention is plain products: over few places, torch's flash
    attention is slow backwards (1.1 to 1.2 times the time of a whole step)."""
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"), attention:
        yield


def denoising_loss(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    c: DiffusionConfig,
    alpha_bar: Float32[Tensor, " T"],
    x0: Images,
    t: Int64[Tensor, " batch"] | Float32[Tensor, " batch"],
    eps: Images,
    label: Int64[Tensor, " batch"],
) -> Float32[Tensor, ""]:
    """L_simple: mean squared error of the prediction (Ho et al. 2020, equation 14, for epsilon).

    Args:
        t: 0 .. T-1; the network's input is t times `timestep_scale`. Of a flow: 0 .. 1; the input is T times that.
        label: -1: no label.
    """
    if c.prediction == "flow":
        place, t = flow(t[:, None, None, None]), t * c.num_timesteps
    else:
        place = Point.of(alpha_bar[t][:, None, None, None])
    predicted = network(diffuse(x0, eps, place), t * c.timestep_scale, label)
    return F.mse_loss(predicted, target(c.prediction, x0, eps, place))


def drawn(
    x0: Images, c: DiffusionConfig, times: str, generator: torch.Generator
) -> tuple[Int64[Tensor, " batch"] | Float32[Tensor, " batch"], Images]:
    """A timestep, of a flow a time, and noise for each image. One is from each N-th of the distribution: every batch
    covers all noise levels.

    Args:
        times: `uniform`, or `logit_normal`: Esser et al. 2024 (https://arxiv.org/abs/2403.03206), equation 19, with
            m = 0 and s = 1.
    """
    number, device = len(x0), x0.device
    places = (torch.arange(number) + torch.rand(number, generator=generator)) / number
    if times == "logit_normal":
        places = torch.sigmoid(torch.special.ndtri(places))
    if c.prediction == "flow":
        t = places.clamp(1 / c.num_timesteps, 1)
    else:
        t = (places * c.num_timesteps).long().clamp(max=c.num_timesteps - 1)
    return t.to(device), torch.randn(x0.shape, generator=generator).to(device)


class DenoiserTrainer(AveragedTrainer):
    """AdamW with a cosine learning rate; the moving average of the weights is published.

    Settings: `DiffusionSettings`.
    """

    # Narrower types than in the base class, which gets them here and never replaces them.
    settings: DiffusionSettings

    def __init__(self, request: TrainRequest, diffusion: DiffusionConfig, settings: DiffusionSettings | None = None):
        s = settings or read(DiffusionSettings, request.settings, f"{request.family} training")
        if diffusion.variance == "learned":
            raise UsageError("a learned variance can be imported, not trained: give --set diffusion.variance=small")
        request.module.to(memory_format=torch.channels_last)
        super().__init__(request, s)
        self.image = cast(Denoiser, request.module).config
        self.diffusion = diffusion
        self.alpha_bar = alphas_bar(betas(diffusion)).float().to(request.device)
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
        if self.image.null_label:
            label = torch.where(chance(s.label_dropout), -1, label)
        t, eps = drawn(x0, self.diffusion, s.times, generator)
        return {"loss": denoising_loss(self.predict, self.diffusion, self.alpha_bar, x0, t, eps, label)}

    def predict(self, x: Images, t: Tensor, label: Int64[Tensor, " batch"]) -> Images:
        """What the network predicts."""
        with computing(self.device, self.settings.precision):
            return self.network(x, t, label).float()

    def _check(self, labels: Tensor) -> None:
        num_classes = self.image.num_classes
        if not num_classes:
            return
        if labels.max() >= num_classes:
            raise UsageError(
                f"a label is {int(labels.max())}, but num_classes is {num_classes}: give --set network.num_classes=…"
            )
        if labels.min() < 0 and not self.image.null_label:
            raise UsageError(
                "some pictures have no label, but the network has no null label: give --set network.null_label=true"
            )
