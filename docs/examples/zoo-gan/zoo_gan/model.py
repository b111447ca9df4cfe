"""GAN: Goodfellow et al., "Generative Adversarial Nets", 2014, with the networks of Radford, Metz, Chintala 2016.

https://arxiv.org/abs/1406.2661 and https://arxiv.org/abs/1511.06434 (DCGAN). The whole model, top to bottom: generator,
discriminator, the two losses and their training, and the task whose `forward` is what a graph does.

Departs from the papers: two levels instead of four, for 28x28 images; the published generator is a moving average of
the trained one, whose batch statistics are then measured again (Brock, Donahue, Simonyan 2019, section 4.1).
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.build.optim import WeightAverage
from zoo.build.random import normal
from zoo.hookspecs import Batch, TrainRequest

from .plugin import GANConfig, GANSettings

INIT_DEVIATION = 0.02  # of all weights, DCGAN section 4
LEAK = 0.2  # slope of the discriminator's LeakyReLU, DCGAN section 4
BETAS = (0.5, 0.999)  # of Adam, DCGAN section 4


class Generator(nn.Module):
    """G(z): a projection, then transposed convolutions with batch normalisation and ReLU; tanh at the end."""

    def __init__(self, c: GANConfig):
        super().__init__()
        self.config = c
        h, side = c.hidden_channels, c.image_size // 4
        self.shape = (h, side, side)
        self.start = nn.Linear(c.latent_size, h * side * side, bias=False)
        self.norm_1 = nn.BatchNorm2d(h)
        self.up_1 = nn.ConvTranspose2d(h, h // 2, 4, stride=2, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(h // 2)
        self.up_2 = nn.ConvTranspose2d(h // 2, c.image_channels, 4, stride=2, padding=1)
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:  # [N, latent_size] -> [N, C, H, W], -1 .. 1
        h = F.relu(self.norm_1(self.start(z).unflatten(1, self.shape)))
        h = F.relu(self.norm_2(self.up_1(h)))
        return self.up_2(h).tanh()


class Discriminator(nn.Module):
    """D(x) as a logit: strided convolutions with batch normalisation, except in the first, and LeakyReLU."""

    def __init__(self, c: GANConfig, channels: int):
        super().__init__()
        side = c.image_size // 4
        self.down_1 = nn.Conv2d(c.image_channels, channels // 2, 4, stride=2, padding=1)
        self.down_2 = nn.Conv2d(channels // 2, channels, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels * side * side, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N]
        h = F.leaky_relu(self.down_1(x), LEAK)
        h = F.leaky_relu(self.norm(self.down_2(h)), LEAK)
        return self.head(h.flatten(1)).squeeze(1)


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(layer.weight, 0, INIT_DEVIATION)
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1, INIT_DEVIATION)


# --- The game: equation 1, with the generator's loss of section 3 -----------------------------------------------------


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), from logits [N] each; 2 log 2 for a discriminator that guesses."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z)): non-saturating, section 3. log(1 - D(G(z))) has no gradient as long as D is confident."""
    return F.softplus(-fake).mean()


class GANTrainer:
    """One update of the discriminator, then one of the generator, each with Adam; algorithm 1 with k = 1."""

    def __init__(self, request: TrainRequest, settings: GANSettings):
        assert isinstance(request.module, Generator)
        self.settings, self.device = settings, request.device
        self.module = request.module
        self.generator = request.distribute(self.module)
        self.critic = Discriminator(self.module.config, settings.discriminator_channels).to(request.device)
        self.discriminator = request.distribute(self.critic)
        rate = settings.learning_rate
        self.g_optimizer = torch.optim.Adam(self.module.parameters(), lr=rate, betas=BETAS)
        self.d_optimizer = torch.optim.Adam(self.critic.parameters(), lr=rate, betas=BETAS)
        self.average = WeightAverage(self.module, settings.average_decay)

    def step(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        real = to_float(batch.images)
        fake = self.generator(self._noise(len(real), generator))

        # Real and generated images are normalised separately, each batch by its own statistics, as in DCGAN.
        d_loss = discriminator_loss(self.discriminator(real), self.discriminator(fake.detach()))
        self.d_optimizer.zero_grad()
        d_loss.backward()
        self.d_optimizer.step()

        g_loss = generator_loss(self.discriminator(fake))
        self.g_optimizer.zero_grad()
        g_loss.backward()
        self.g_optimizer.step()
        self.average.update(step)
        return {"discriminator": d_loss.detach(), "generator": g_loss.detach()}

    def _noise(self, number: int, generator: torch.Generator) -> Tensor:
        return torch.randn(number, self.module.config.latent_size, generator=generator).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "critic": self.critic,
            "average": self.average.module,
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
        }

    def trained_module(self) -> nn.Module:
        """The average, with the batch statistics of its own weights over 100 batches."""
        module = copy.deepcopy(self.average.module).train()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over all batches
        generator = torch.Generator().manual_seed(self.settings.seed)
        with torch.no_grad():
            for _ in range(100):
                module(self._noise(64, generator))
        return module.eval()


# --- The task ---------------------------------------------------------------------------------------------------------


def to_float(image: Tensor) -> Tensor:
    """uint8 [N, H, W, C], 0 .. 255, to float [N, C, H, W], -1 .. 1."""
    return image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """float [N, C, H, W], -1 .. 1, to uint8 [N, H, W, C]."""
    return ((x + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8)


class Generate(nn.Module):
    """seed -> image: z is normal noise that is the same in every stack."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, seed: Tensor) -> Tensor:
        return to_uint8(self.generator(normal(seed, (self.generator.config.latent_size,))))
