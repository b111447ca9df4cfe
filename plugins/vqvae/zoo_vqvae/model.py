"""VQ-VAE: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017.

https://arxiv.org/abs/1711.00937. The whole model, top to bottom: residual block, encoder, decoder, model, and the
task modules whose `forward` is what a graph does. Section 4.1 of the paper describes the networks.

Departs from the paper: pixels are scaled to -1 .. 1; a 1x1 convolution takes the latents to a small `code_size`
(nearest-code search in few dimensions keeps more of the codebook in use); weights are averaged for evaluation by the
trainer, not here.
"""

from math import log2

import torch
import torch.nn.functional as F
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

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> the same
        activated = F.relu(x)
        skip = activated if self.skip_after_relu else x
        return skip + self.conv_out(F.relu(self.conv_in(activated)))


class Encoder(nn.Module):
    """Strided 4x4 convolutions down by `downsampling`, residual blocks, 1x1 to `code_size`."""

    def __init__(self, c: CodecConfig):
        super().__init__()
        levels = int(log2(c.downsampling))
        widths = [c.image_channels] + [max(c.hidden_channels >> (levels - 1 - i), 8) for i in range(levels)]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, widths[1:]))
        self.conv = nn.Conv2d(c.hidden_channels, c.hidden_channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(c.hidden_channels, c.residual_channels, c.skip_after_relu) for _ in range(c.residual_layers)
        )
        self.to_code = nn.Conv2d(c.hidden_channels, c.code_size, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, image_channels, H, W] -> [N, code_size, H/f, W/f]
        for down in self.down:
            x = F.relu(down(x))
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.to_code(F.relu(x))


class Decoder(nn.Module):
    """The encoder's mirror: 3x3, residual blocks, transposed 4x4 convolutions up."""

    def __init__(self, c: CodecConfig):
        super().__init__()
        levels = int(log2(c.downsampling))
        widths = [max(c.hidden_channels >> i, 8) for i in range(levels)] + [c.image_channels]
        self.from_code = nn.Conv2d(c.code_size, c.hidden_channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(c.hidden_channels, c.residual_channels, c.skip_after_relu) for _ in range(c.residual_layers)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, widths[1:]))

    def forward(self, z: Tensor) -> Tensor:  # [N, code_size, h, w] -> [N, image_channels, f h, f w]
        x = self.from_code(z)
        for block in self.blocks:
            x = block(x)
        for up in self.up:
            x = up(F.relu(x))
        return x


class VQVAE(nn.Module):
    """Encoder, vector quantiser, decoder. Pictures in and out are float -1 .. 1, [N, C, H, W]."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = VectorQuantizer(
            config.num_codes, config.code_size, learn=config.learn_codebook, decay=config.ema_decay
        )
        self.decoder = Decoder(config)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Quantized]:
        """Reconstruction [N, C, H, W] and the quantised latents; H and W are multiples of `downsampling`."""
        quantized = self.quantizer(self.encoder(x).permute(0, 2, 3, 1), generator)  # [N, h, w, code_size]
        return self.decoder(quantized.z_q.permute(0, 3, 1, 2)), quantized
