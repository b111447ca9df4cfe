"""The denoising U-Net: Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", appendix B.

https://arxiv.org/abs/2006.11239. The whole network, top to bottom: time embedding, residual block, attention,
resampling, network. Its options span what public checkpoints have: group norms scaled and shifted by time, and residual
resampling (Dhariwal and Nichol 2021, https://arxiv.org/abs/2105.05233, section 3), labels with an additional "no label"
(Ho and Salimans 2022), two paddings and two orders of sinusoids.

Departs from the paper if the config says so: `patch_size` folds pixels into channels at the input (the inverse of Shi
et al. 2016) and back at the output, so that a small model does not compute at full resolution.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .config import UNetConfig

Map = Float[Tensor, "batch channels height width"]


def sinusoids(
    t: Float[Tensor, " batch"], channels: int, *, cosine_first: bool = True, frequency_shift: float = 0.0
) -> Float[Tensor, "batch {channels}"]:
    """cos and sin of timestep t at frequencies from 1 down to about 1/10000."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / (half - frequency_shift)
    angles = t.unsqueeze(1) * torch.exp(-math.log(10_000) * exponents)  # [batch, half]
    parts = (angles.cos(), angles.sin()) if cosine_first else (angles.sin(), angles.cos())
    return torch.cat(parts, dim=1)


class ResidualBlock(nn.Module):
    """x + conv(norm(conv(norm(x)) and time)); with `resample`, the size changes in between."""

    def __init__(self, c: UNetConfig, channels: int, out_channels: int, time_width: int, resample: str = ""):
        super().__init__()
        self.scale_shift, self.resample = c.scale_shift, resample
        self.norm_in = nn.GroupNorm(c.norm_groups, channels, c.norm_epsilon)
        self.conv_in = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_width, out_channels * (2 if c.scale_shift else 1))
        self.norm_out = nn.GroupNorm(c.norm_groups, out_channels, c.norm_epsilon)
        self.dropout = nn.Dropout(c.dropout)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(
        self, x: Map, time: Float[Tensor, "batch time_width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        h = F.silu(self.norm_in(x))
        if self.resample:
            change = _halve if self.resample == "down" else _double
            h, x = change(h), change(x)
        h = self.conv_in(h)
        time_out = self.time(F.silu(time)).unflatten(1, (-1, 1, 1))
        if self.scale_shift:
            scale, shift = halves(time_out)
            h = self.norm_out(h) * (1 + scale) + shift
        else:
            h = self.norm_out(h + time_out)
        return self.skip(x) + self.conv_out(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Self-attention over all positions, added to its input."""

    def __init__(self, c: UNetConfig, channels: int, *, norm: bool = True):
        super().__init__()
        self.heads = channels // c.head_size if c.head_size else c.heads
        self.norm = nn.GroupNorm(c.norm_groups, channels, c.norm_epsilon) if norm else nn.Identity()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Map) -> Map:
        _, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [batch, places, channels]
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, channels // self.heads))
        qkv = qkv.permute(2, 0, 3, 1, 4)  # [3, batch, heads, places, head_size]
        tokens = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2).flatten(2)
        return x + self.proj(tokens).transpose(1, 2).unflatten(2, (height, width))


class Downsample(nn.Module):
    """Half the height and width: a strided convolution, or (`plain`) the mean of four pixels."""

    def __init__(self, c: UNetConfig, channels: int):
        super().__init__()
        self.asymmetric = c.resampling == "conv_asymmetric"  # like TensorFlow's SAME padding: right and below only
        self.conv = None
        if c.resampling != "plain":
            self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if self.asymmetric else 1)

    def forward(self, x: Map, time: Tensor) -> Float[Tensor, "batch channels height//2 width//2"]:
        if self.conv is None:
            return _halve(x)
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Twice the height and width: each pixel four times, then (unless `plain`) a convolution."""

    def __init__(self, c: UNetConfig, channels: int):
        super().__init__()
        self.conv = None if c.resampling == "plain" else nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Map, time: Tensor) -> Float[Tensor, "batch channels 2*height 2*width"]:
        x = _double(x)
        return x if self.conv is None else self.conv(x)


def halves(
    x: Float[Tensor, "batch channels *space"],
) -> tuple[Float[Tensor, "batch channels//2 *space"], Float[Tensor, "batch channels//2 *space"]]:
    """The two halves of axis 1. (`chunk` would be exported as a sequence, which the graph does not need.)"""
    middle = x.shape[1] // 2
    return x[:, :middle], x[:, middle:]


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention if the level has it, and the resampling to the next."""

    def __init__(self, blocks: Sequence[nn.Module], attentions: Sequence[nn.Module], resample: nn.Module | None):
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.resample = resample

    def apply_block(self, i: int, x: Tensor, time: Tensor, context: Any) -> Tensor:
        x = self.blocks[i](x, time)
        return _attended(self.attentions[i], x, context) if self.attentions else x


def _attended(attention: nn.Module, x: Tensor, context: Any) -> Tensor:
    """`context` is what else an attention looks at, in networks that have it."""
    return attention(x) if context is None else attention(x, context)


class DownLevel(Level):
    def forward(self, x: Map, time: Float[Tensor, "batch time_width"], context: Any = None) -> list[Tensor]:
        """The outputs of the blocks and the resampling: all are kept as skips, the last is the next level's input."""
        outputs = []
        for i in range(len(self.blocks)):
            x = self.apply_block(i, x, time, context)
            outputs.append(x)
        if self.resample is not None:
            outputs.append(self.resample(x, time))
        return outputs


class UpLevel(Level):
    def forward(
        self, x: Map, skips: list[Tensor], time: Float[Tensor, "batch time_width"], context: Any = None
    ) -> Tensor:
        """Each block takes x and the last of the skips, which it removes from the list."""
        for i in range(len(self.blocks)):
            x = self.apply_block(i, torch.cat((x, skips.pop()), dim=1), time, context)
        return x if self.resample is None else self.resample(x, time)


class Middle(Level):
    def forward(self, x: Map, time: Float[Tensor, "batch time_width"], context: Any = None) -> Map:
        """Block, attention if the network has it, block."""
        x = self.blocks[0](x, time)
        for attention in self.attentions:
            x = _attended(attention, x, context)
        return self.blocks[1](x, time)


class UNet(nn.Module):
    """Noisy image, timestep and label to a prediction of the same size."""

    trace_once = True  # at export: every task calls it

    def __init__(self, c: UNetConfig, *, outputs: int = 1, seen: int = 0):
        """
        Args:
            outputs: number of images that are predicted together; 2 if the variance is learned too.
            seen: channels of the input besides the noisy image's, after them.
        """
        super().__init__()
        self.config = c
        time_width = c.time_width or 4 * c.widths[0]
        self.time_channels = c.time_channels or c.widths[0]
        self.time_in = nn.Linear(self.time_channels, time_width)
        self.time_out = nn.Linear(time_width, time_width)
        self.label = nn.Embedding(c.num_classes + c.null_label, time_width) if c.num_classes else None

        def block(channels: int, out_channels: int, resample: str = "") -> ResidualBlock:
            return ResidualBlock(c, channels, out_channels, time_width, resample)

        patch_channels = c.image_channels * c.patch_size**2
        self.conv_in = nn.Conv2d(patch_channels + seen * c.patch_size**2, c.widths[0], 3, padding=1)
        last = len(c.widths) - 1
        skips = [channels := c.widths[0]]
        self.down = nn.ModuleList()
        for level, width in enumerate(c.widths):
            blocks, attentions, resample = [], [], None
            for _ in range(c.blocks):
                blocks.append(block(channels, channels := width))
                skips.append(width)
                if level in c.attention_levels:
                    attentions.append(self.attention(width, level))
            if level < last:
                resample = block(width, width, "down") if c.resampling == "residual" else Downsample(c, width)
                skips.append(width)
            self.down.append(DownLevel(blocks, attentions, resample))

        middle_attention = [self.attention(channels, last, norm=c.middle_attention_norm)] if c.middle_attention else []
        self.middle = Middle([block(channels, channels), block(channels, channels)], middle_attention, None)

        self.up = nn.ModuleList()  # from the coarsest to the finest
        for level in reversed(range(len(c.widths))):
            width, blocks, attentions, resample = c.widths[level], [], [], None
            for _ in range(c.blocks + 1):
                blocks.append(block(channels + skips.pop(), channels := width))
                if level in c.attention_levels:
                    attentions.append(self.attention(width, level))
            if level > 0:
                resample = block(width, width, "up") if c.resampling == "residual" else Upsample(c, width)
            self.up.append(UpLevel(blocks, attentions, resample))

        self.norm_out = nn.GroupNorm(c.norm_groups, channels, c.norm_epsilon)
        self.conv_out = nn.Conv2d(channels, patch_channels * outputs, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)  # the first prediction is 0: neither right nor wrong

    def attention(self, channels: int, level: int, *, norm: bool = True) -> nn.Module:
        """A level's attention; the middle has the last level. Another network of this shape can have its own, which may
        look at a context."""
        return Attention(self.config, channels, norm=norm)

    def embed(
        self, t: Float[Tensor, " batch"], label: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch time_width"]:
        """Embedding of timestep and label; `label` -1: no label."""
        c = self.config
        waves = sinusoids(t, self.time_channels, cosine_first=c.cosine_first, frequency_shift=c.frequency_shift)
        time = self.time_out(F.silu(self.time_in(waves)))
        if self.label is not None:
            assert label is not None, "a network with labels needs one"
            time = time + self.label(torch.where(label < 0, c.num_classes, label))
        return time

    def forward(
        self, x: Map, t: Float[Tensor, " batch"], label: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels_out height width"]:
        """
        Args:
            x: height and width are multiples of patch_size 2^(levels - 1).
            t: the timestep, as the network expects it.
            label: -1: no label; None if the network has no labels.

        Returns:
            `outputs` images, one after the other along the channels.
        """
        return self.denoise(x, self.embed(t, label))

    def denoise(
        self, x: Map, time: Float[Tensor, "batch time_width"], context: Any = None
    ) -> Float[Tensor, "batch channels_out height width"]:
        """The prediction for x; `context` is what its attention looks at besides x."""
        patch = self.config.patch_size
        x = self.conv_in(F.pixel_unshuffle(x, patch) if patch > 1 else x)
        skips = [x]
        for level in self.down:
            skips += level(skips[-1], time, context)
        x = self.middle(skips[-1], time, context)
        for level in self.up:
            x = level(x, skips, time, context)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return F.pixel_shuffle(x, patch) if patch > 1 else x
