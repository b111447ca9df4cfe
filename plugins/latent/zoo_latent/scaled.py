"""Between the codec's latents and the denoiser's, which have mean 0 and variance 1 in each channel."""

import torch
from torch import Tensor, nn
from zoo_diffusion.unet import Map


class Scaled(nn.Module):
    """A network of latents with mean 0 and variance 1 in each channel, and what the codec's own have."""

    mean: Tensor
    deviation: Tensor
    measured: Tensor

    def set_scale(self, channels: int) -> None:
        """The codec's latents as they are, until they are measured."""
        self.register_buffer("mean", torch.zeros(channels))  # of the codec's latents, per channel
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("measured", torch.zeros((), dtype=torch.int64))  # pictures from which both are known

    def scaled(self, latents: Map) -> Map:
        """The codec's latents, with mean 0 and variance 1 in each channel."""
        return (latents - self.mean[:, None, None]) / self.deviation[:, None, None]

    def unscaled(self, x: Map) -> Map:
        """The inverse of `scaled`."""
        return x * self.deviation[:, None, None] + self.mean[:, None, None]
