"""VAE: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.

https://arxiv.org/abs/1312.6114. The whole model, top to bottom: encoder q(z|x), decoder p(x|z), the bound and its
training, and the tasks whose `forward` is what a graph computes.

Departs from the paper: strided convolutions instead of multi-layer perceptrons (appendix C), grey levels instead of
black and white as the means of the Bernoulli, Adam instead of Adagrad, and a moving average of the weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.build.optim import AveragedTrainer
from zoo.build.random import normal
from zoo.hookspecs import Batch

from .plugin import VAEConfig


class Encoder(nn.Module):
    """q(z|x): mean and log variance of a normal with a diagonal covariance; section 3, equation 9."""

    def __init__(self, c: VAEConfig):
        super().__init__()
        h, side = c.hidden_channels, c.image_size // 4
        self.down_1 = nn.Conv2d(c.image_channels, h // 2, 4, stride=2, padding=1)
        self.down_2 = nn.Conv2d(h // 2, h, 4, stride=2, padding=1)
        self.mean = nn.Linear(h * side * side, c.latent_size)
        self.log_variance = nn.Linear(h * side * side, c.latent_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # [N, C, H, W] -> [N, J], [N, J]
        h = F.relu(self.down_2(F.relu(self.down_1(x)))).flatten(1)
        return self.mean(h), self.log_variance(h)


class Decoder(nn.Module):
    """p(x|z): logits of each pixel's Bernoulli; appendix C.1, equation 11."""

    def __init__(self, c: VAEConfig):
        super().__init__()
        h, side = c.hidden_channels, c.image_size // 4
        self.start = nn.Linear(c.latent_size, h * side * side)
        self.shape = (h, side, side)
        self.up_1 = nn.ConvTranspose2d(h, h // 2, 4, stride=2, padding=1)
        self.up_2 = nn.ConvTranspose2d(h // 2, c.image_channels, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:  # [N, J] -> [N, C, H, W]
        h = F.relu(self.start(z)).unflatten(1, self.shape)
        return self.up_2(F.relu(self.up_1(h)))


class VAE(nn.Module):
    """Encoder and decoder. Pictures are float 0 .. 1, [N, C, H, W]."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, x: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel logits [N, C, H, W], mean and log variance [N, J]; epsilon is standard normal [N, J]."""
        mean, log_variance = self.encoder(x)
        z = reparameterise(mean, log_variance, epsilon)
        return self.decoder(z), mean, log_variance


def reparameterise(mean: Tensor, log_variance: Tensor, epsilon: Tensor) -> Tensor:
    """z = mu + sigma * epsilon, section 2.4: a sample of q(z|x) that gradients pass through."""
    return mean + (0.5 * log_variance).exp() * epsilon


# --- The bound: equation 10, with its sign reversed, in nats per picture ----------------------------------------------


def reconstruction_loss(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x|z), the second term: the cross-entropy of the pixels, summed over a picture."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1).mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)), the first term; appendix B gives it in closed form."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()


class VAETrainer(AveragedTrainer):
    """Minimises the bound with one sample of z per picture; section 2.3, L = 1."""

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        assert isinstance(self.module, VAE)
        x = to_float(batch.images)
        epsilon = torch.randn(len(x), self.module.config.latent_size, generator=generator).to(self.device)
        logits, mean, log_variance = self.network(x, epsilon)
        reconstruction, kl = reconstruction_loss(logits, x), kl_divergence(mean, log_variance)
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


# --- Tasks: pixels in, pixels out -------------------------------------------------------------------------------------


def to_float(image: Tensor) -> Tensor:
    """uint8 [N, H, W, C], 0 .. 255, to float [N, C, H, W], 0 .. 1."""
    return image.permute(0, 3, 1, 2).to(torch.float32) / 255


def to_uint8(logits: Tensor) -> Tensor:
    """Pixel logits [N, C, H, W] to the means of their Bernoullis as uint8 [N, H, W, C]."""
    return (logits.sigmoid() * 255).round().permute(0, 2, 3, 1).to(torch.uint8)


class Encode(nn.Module):
    """image -> latents: the mean of q(z|x)."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.encoder = vae.encoder

    def forward(self, image: Tensor) -> Tensor:
        mean, _ = self.encoder(to_float(image))
        return mean


class Decode(nn.Module):
    """latents -> image."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        return to_uint8(self.decoder(latents))


class Generate(nn.Module):
    """seed -> image: z from the prior, with noise that is the same in every stack."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.decoder, self.latent_size = vae.decoder, vae.config.latent_size

    def forward(self, seed: Tensor) -> Tensor:
        return to_uint8(self.decoder(normal(seed, (self.latent_size,))))
