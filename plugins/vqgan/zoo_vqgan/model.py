"""VQGAN: Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image Synthesis", 2021.

https://arxiv.org/abs/2012.09841. The networks, top to bottom: residual block, attention, encoder, decoder, and the two
models around them: `VQGAN` with the codebook of zoo-vqvae, and `KLAutoencoder` of latent diffusion (Rombach et al.
2021, https://arxiv.org/abs/2112.10752), whose latents are Gaussian. Table 7 of the paper describes the networks.

Departs from the paper: the optional condition c is a label, added inside every residual block (the paper's c is a
picture beside the first).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_vqvae.quantize import Quantized, VectorQuantizer

from .config import CodecConfig, KLConfig, NetworkConfig


class PlaceNorm(nn.LayerNorm):
    """Mean 0 and variance 1 over the channels of each place, then a scale and a shift a channel."""

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> the same
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm(c: NetworkConfig, channels: int) -> nn.Module:
    """The config's norm, for so many channels."""
    if c.norm == "place":
        return PlaceNorm(channels, c.norm_epsilon)
    return nn.GroupNorm(c.norm_groups, channels, c.norm_epsilon)


class Block(nn.Module):
    """skip(x) + conv3x3(silu(norm(conv3x3(silu(norm(x))) + c)))."""

    def __init__(self, c: NetworkConfig, inputs: int, outputs: int):
        super().__init__()
        self.norm_in = norm(c, inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm_out = norm(c, outputs)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        # Row 0 is "no label".
        self.condition = nn.Embedding(c.condition_classes + 1, outputs) if c.condition_classes else None

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H, W]
        h = self.conv_in(F.silu(self.norm_in(x)))
        if self.condition is not None and label is not None:
            h = h + self.condition(label + 1)[:, :, None, None]
        h = self.conv_out(F.silu(self.norm_out(h)))
        return h + (x if self.skip is None else self.skip(x))


class Attention(nn.Module):
    """x + proj(attention(norm(x))): every place looks at every other, one head."""

    def __init__(self, c: NetworkConfig, channels: int):
        super().__init__()
        self.norm = norm(c, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:  # [N, C, H, W] -> the same
        h = self.norm(x).flatten(2).transpose(1, 2)  # [N, HW, C]
        q, k, v = self.qkv(h).chunk(3, dim=2)
        weights = ((q * q.shape[2] ** -0.5) @ k.transpose(1, 2)).softmax(dim=2)  # [N, HW, HW]
        return x + self.proj(weights @ v).transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """Blocks of one size, attention after each where asked, and a change of size at the end."""

    def __init__(self, c: NetworkConfig, inputs: int, outputs: int, blocks: int, attention: bool, resample: nn.Module):
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.blocks = nn.ModuleList(Block(c, a, b) for a, b in zip(widths, widths[1:]))
        self.attentions = nn.ModuleList(Attention(c, outputs) for _ in range(blocks if attention else 0))
        self.resample = resample

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, label)
            if self.attentions:
                x = self.attentions[i](x, label)
        return self.resample(x)


class Downsample(nn.Module):
    """Half the size. Pads one row below and one column on the right, then a strided 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size: each pixel four times, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """Block, attention where the config has it, block."""

    def __init__(self, c: NetworkConfig, channels: int):
        super().__init__()
        self.block_1 = Block(c, channels, channels)
        self.attention = Attention(c, channels) if c.middle_attention else None
        self.block_2 = Block(c, channels, channels)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        x = self.block_1(x, label)
        if self.attention is not None:
            x = self.attention(x, label)
        return self.block_2(x, label)


class Encoder(nn.Module):
    """Levels down, middle, norm, and 3x3 to `outputs` channels; then 1x1 to `code` channels, if any."""

    def __init__(self, c: NetworkConfig, outputs: int, code: int | None):
        super().__init__()
        last = len(c.widths) - 1
        widths = (c.widths[0], *c.widths)
        self.conv_in = nn.Conv2d(c.image_channels, c.widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(c, a, b, c.blocks, i in c.attention_levels, Downsample(b) if i < last else nn.Identity())
            for i, (a, b) in enumerate(zip(widths, widths[1:]))
        )
        self.middle = Middle(c, c.widths[-1])
        self.norm_out = norm(c, c.widths[-1])
        self.conv_out = nn.Conv2d(c.widths[-1], outputs, 3, padding=1)
        self.to_code = nn.Conv2d(outputs, code, 1) if code else nn.Identity()

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, image_channels, H, W] -> [N, code, H/f, W/f]; label int64 [N], -1 is none."""
        x = self.conv_in(x)
        for level in self.levels:
            x = level(x, label)
        x = self.middle(x, label)
        return self.to_code(self.conv_out(F.silu(self.norm_out(x))))


class Decoder(nn.Module):
    """The encoder's mirror, lowest level first, with one more block a level."""

    def __init__(self, c: NetworkConfig, code: int | None):
        super().__init__()
        widths = (c.widths[-1], *reversed(c.widths))
        attention = [i in c.attention_levels for i in reversed(range(len(c.widths)))]
        last = len(c.widths) - 1
        self.from_code = nn.Conv2d(code, c.latent_channels, 1) if code else nn.Identity()
        self.conv_in = nn.Conv2d(c.latent_channels, c.widths[-1], 3, padding=1)
        self.middle = Middle(c, c.widths[-1])
        self.levels = nn.ModuleList(
            Level(c, a, b, c.blocks + 1, attention[i], Upsample(b) if i < last else nn.Identity())
            for i, (a, b) in enumerate(zip(widths, widths[1:]))
        )
        self.norm_out = norm(c, c.widths[0])
        self.conv_out = nn.Conv2d(c.widths[0], c.image_channels, 3, padding=1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """[N, code, h, w] -> [N, image_channels, f h, f w]; label int64 [N], -1 is none."""
        x = self.middle(self.conv_in(self.from_code(z)), label)
        for level in self.levels:
            x = level(x, label)
        return self.conv_out(F.silu(self.norm_out(x)))


class UnitEncoder(Encoder):
    """An encoder whose latents have length 1: Yu et al. 2021, "Vector-quantized Image Modeling", section 3.2."""

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return F.normalize(super().forward(x, label), dim=1)


class VQGAN(nn.Module):
    """Encoder, vector quantiser, decoder. Pictures in and out are float -1 .. 1, [N, C, H, W]."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        encoder = UnitEncoder if config.normalize_latents else Encoder
        self.encoder = encoder(config, config.latent_channels, config.code_size)
        self.quantizer = VectorQuantizer(
            config.num_codes, config.code_size, learn=config.learn_codebook, decay=config.ema_decay
        )
        self.decoder = Decoder(config, config.code_size)

    def forward(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Quantized]:
        """Reconstruction [N, C, H, W] and the quantised latents; H and W are multiples of `downsampling`."""
        quantized = self.quantizer(self.encoder(x, label).permute(0, 2, 3, 1), generator)  # [N, h, w, code_size]
        return self.decoder(quantized.z_q.permute(0, 3, 1, 2), label), quantized


MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0


class KLAutoencoder(nn.Module):
    """Encoder to the mean and log-variance of a Gaussian, decoder. Rombach et al. 2021, appendix G."""

    def __init__(self, config: KLConfig):
        super().__init__()
        self.config = config
        code = config.code_size if config.latent_convolutions else None
        self.encoder = Encoder(config, 2 * config.latent_channels, code and 2 * code)
        self.decoder = Decoder(config, code)

    def encode(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each [N, code_size, H/f, W/f]."""
        mean, log_variance = self.encoder(x, label).chunk(2, dim=1)
        return mean, log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def forward(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Reconstruction of a drawn latent, and its mean and log-variance."""
        mean, log_variance = self.encode(x, label)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return self.decoder(mean + (0.5 * log_variance).exp() * noise, label), (mean, log_variance)
