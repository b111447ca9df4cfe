"""VQ-VAE: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017.

https://arxiv.org/abs/1711.00937. The networks, top to bottom: residual block, encoder, decoder, and the model around
the quantiser of quantize.py. Section 4.1 of the paper describes them. In shapes, `f` is the downsampling factor.

Departs from the paper: pixels are scaled to -1 .. 1; a 1x1 convolution takes the latents to a small `code_size`
(nearest-code search in few dimensions keeps more of the codebook in use); the trainer, not this file, averages the
weights for evaluation.
"""

from math import log2

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .config import CodecConfig
from .quantize import Quantized, VectorQuantizer


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))): section 4.1. The skip carries x itself, or relu(x): see CodecConfig."""

    def __init__(self, channels: int, residual_channels: int, skip_after_relu: bool = False):
        super().__init__()
        self.skip_after_relu = skip_after_relu
        self.conv_in = nn.Conv2d(channels, residual_channels, 3, padding=1)
        self.conv_out = nn.Conv2d(residual_channels, channels, 1)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        activated = F.relu(x)
        skip = activated if self.skip_after_relu else x
        return skip + self.conv_out(F.relu(self.conv_in(activated)))


class Encoder(nn.Module):
    """Strided 4x4 convolutions down by `downsampling`, residual blocks, 1x1 to `code_size`."""

    def __init__(self, c: CodecConfig):
        super().__init__()
        self.f = c.downsampling
        levels = int(log2(c.downsampling))
        widths = [c.image_channels] + [max(c.hidden_channels >> (levels - 1 - i), 8) for i in range(levels)]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, widths[1:]))
        self.conv = nn.Conv2d(c.hidden_channels, c.hidden_channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(c.hidden_channels, c.residual_channels, c.skip_after_relu) for _ in range(c.residual_layers)
        )
        self.to_code = nn.Conv2d(c.hidden_channels, c.code_size, 1)

    def forward(
        self, x: Float[Tensor, "batch image_channels height width"]
    ) -> Float[Tensor, "batch code_size height/{self.f} width/{self.f}"]:
        for down in self.down:
            x = F.relu(down(x))
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.to_code(F.relu(x))


class Decoder(nn.Module):
    """The encoder mirrored: 3x3, residual blocks, transposed 4x4 convolutions up."""

    def __init__(self, c: CodecConfig):
        super().__init__()
        self.f = c.downsampling
        levels = int(log2(c.downsampling))
        widths = [max(c.hidden_channels >> i, 8) for i in range(levels)] + [c.image_channels]
        self.from_code = nn.Conv2d(c.code_size, c.hidden_channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(c.hidden_channels, c.residual_channels, c.skip_after_relu) for _ in range(c.residual_layers)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, widths[1:]))

    def forward(
        self, z: Float[Tensor, "batch code_size rows columns"]
    ) -> Float[Tensor, "batch image_channels {self.f}*rows {self.f}*columns"]:
        x = self.from_code(z)
        for block in self.blocks:
            x = block(x)
        for up in self.up:
            x = up(F.relu(x))
        return x


class VQVAE(nn.Module):
    """Encoder, vector quantiser, decoder. Images in and out are -1 .. 1."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = VectorQuantizer(
            config.num_codes, config.code_size, learn=config.learn_codebook, decay=config.ema_decay
        )
        self.decoder = Decoder(config)

    def forward(
        self, x: Float[Tensor, "batch image_channels height width"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch image_channels height width"], Quantized]:
        """The reconstruction, and the quantised latents; height and width are multiples of `downsampling`."""
        z_e = self.encoder(x).permute(0, 2, 3, 1)  # [batch, rows, columns, code_size]
        quantized: Quantized = self.quantizer(z_e, generator)
        return self.decoder(quantized.z_q.permute(0, 3, 1, 2)), quantized
