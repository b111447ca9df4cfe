"""VQGAN: Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image Synthesis", 2021.

https://arxiv.org/abs/2012.09841. The networks, top to bottom: residual block, attention, encoder, decoder, and the two
models around them: `VQGAN` with the codebook of zoo-vqvae, and `KLAutoencoder` of latent diffusion (Rombach et al.
2021, https://arxiv.org/abs/2112.10752), whose latents are Gaussian. Table 7 of the paper describes the networks. In
shapes, `f` is the downsampling factor.

Departs from the paper: the optional condition c is a label, added inside every residual block (the paper's c is a
second picture).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from zoo_vqvae.quantize import Quantized, VectorQuantizer

from .config import CodecConfig, KLConfig, NetworkConfig

Map = Float[Tensor, "batch channels height width"]
Images = Float[Tensor, "batch image_channels height width"]
Latents = Float[Tensor, "batch code_size rows columns"]
Labels = Int64[Tensor, " batch"]  # -1: no label


class PlaceNorm(nn.LayerNorm):
    """Mean 0 and variance 1 over the channels of each position, then a scale and a shift per channel."""

    # LayerNorm's own argument has another name; it is only ever passed by position.
    def forward(self, x: Map) -> Map:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm(c: NetworkConfig, channels: int) -> nn.Module:
    """The config's norm."""
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

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], label: Labels | None
    ) -> Float[Tensor, "batch outputs height width"]:
        h = self.conv_in(F.silu(self.norm_in(x)))
        if self.condition is not None and label is not None:
            h = h + self.condition(label + 1)[:, :, None, None]
        h = self.conv_out(F.silu(self.norm_out(h)))
        return h + (x if self.skip is None else self.skip(x))


class Attention(nn.Module):
    """x + proj(attention(norm(x))): every position attends to all others, one head."""

    def __init__(self, c: NetworkConfig, channels: int):
        super().__init__()
        self.norm = norm(c, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Map, label: Labels | None) -> Map:
        h = self.norm(x).flatten(2).transpose(1, 2)  # [batch, places, channels]
        q, k, v = self.qkv(h).chunk(3, dim=2)
        weights = ((q * q.shape[2] ** -0.5) @ k.transpose(1, 2)).softmax(dim=2)  # [batch, places, places]
        return x + self.proj(weights @ v).transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """Blocks of one size, each followed by attention if requested, and a change of size at the end."""

    def __init__(self, c: NetworkConfig, inputs: int, outputs: int, blocks: int, attention: bool, resample: nn.Module):
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.blocks = nn.ModuleList(Block(c, a, b) for a, b in zip(widths, widths[1:]))
        self.attentions = nn.ModuleList(Attention(c, outputs) for _ in range(blocks if attention else 0))
        self.resample = resample

    def forward(self, x: Map, label: Labels | None) -> Float[Tensor, "batch channels_out height_out width_out"]:
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

    def forward(self, x: Map) -> Float[Tensor, "batch channels height//2 width//2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size: each pixel four times, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Map) -> Float[Tensor, "batch channels 2*height 2*width"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """Block, attention if the config has it, block."""

    def __init__(self, c: NetworkConfig, channels: int):
        super().__init__()
        self.block_1 = Block(c, channels, channels)
        self.attention = Attention(c, channels) if c.middle_attention else None
        self.block_2 = Block(c, channels, channels)

    def forward(self, x: Map, label: Labels | None) -> Map:
        x = self.block_1(x, label)
        if self.attention is not None:
            x = self.attention(x, label)
        return self.block_2(x, label)


class Encoder(nn.Module):
    """Levels down, middle, norm, and 3x3 to `outputs` channels; then 1x1 to `code` channels, if any."""

    def __init__(self, c: NetworkConfig, outputs: int, code: int | None):
        super().__init__()
        self.f = c.downsampling
        last = len(c.widths) - 1
        widths = (c.widths[0], *c.widths)
        self.patch = c.patch_size
        self.conv_in = nn.Conv2d(c.image_channels * c.patch_size**2, c.widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(c, a, b, c.blocks, i in c.attention_levels, Downsample(b) if i < last else nn.Identity())
            for i, (a, b) in enumerate(zip(widths, widths[1:]))
        )
        self.middle = Middle(c, c.widths[-1])
        self.norm_out = norm(c, c.widths[-1])
        self.conv_out = nn.Conv2d(c.widths[-1], outputs, 3, padding=1)
        self.to_code = nn.Conv2d(outputs, code, 1) if code else nn.Identity()

    def forward(
        self, x: Images, label: Labels | None = None
    ) -> Float[Tensor, "batch code_size height/{self.f} width/{self.f}"]:
        x = self.conv_in(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        for level in self.levels:
            x = level(x, label)
        x = self.middle(x, label)
        return self.to_code(self.conv_out(F.silu(self.norm_out(x))))


class Decoder(nn.Module):
    """The encoder mirrored, lowest level first, with one more block per level."""

    def __init__(self, c: NetworkConfig, code: int | None):
        super().__init__()
        self.f = c.downsampling
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
        self.patch = c.patch_size
        self.conv_out = nn.Conv2d(c.widths[0], c.image_channels * c.patch_size**2, 3, padding=1)

    def forward(
        self, z: Latents, label: Labels | None = None
    ) -> Float[Tensor, "batch image_channels {self.f}*rows {self.f}*columns"]:
        x = self.middle(self.conv_in(self.from_code(z)), label)
        for level in self.levels:
            x = level(x, label)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x


class UnitEncoder(Encoder):
    """An encoder whose latents have length 1: Yu et al. 2021, "Vector-quantized Image Modeling", section 3.2."""

    def forward(
        self, x: Images, label: Labels | None = None
    ) -> Float[Tensor, "batch code_size height/{self.f} width/{self.f}"]:
        return F.normalize(super().forward(x, label), dim=1)


class VQGAN(nn.Module):
    """Encoder, vector quantiser, decoder. Images in and out are -1 .. 1."""

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
        self, x: Images, label: Labels | None = None, generator: torch.Generator | None = None
    ) -> tuple[Images, Quantized]:
        """The reconstruction, and the quantised latents; height and width are multiples of `downsampling`."""
        z_e = self.encoder(x, label).permute(0, 2, 3, 1)  # [batch, rows, columns, code_size]
        with torch.autocast(x.device.type, enabled=False):  # distances between codes need all digits
            quantized: Quantized = self.quantizer(z_e.float(), generator)
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

    def encode(self, x: Images, label: Labels | None = None) -> tuple[Latents, Latents]:
        """Mean and log-variance."""
        mean, log_variance = self.encoder(x, label).float().chunk(2, dim=1)
        return mean, log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def forward(
        self, x: Images, label: Labels | None = None, generator: torch.Generator | None = None
    ) -> tuple[Images, tuple[Latents, Latents]]:
        """Reconstruction of a drawn latent, and its mean and log-variance."""
        mean, log_variance = self.encode(x, label)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return self.decoder(mean + (0.5 * log_variance).exp() * noise, label), (mean, log_variance)
