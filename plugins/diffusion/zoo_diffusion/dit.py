"""DiT: Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", section 3.

https://arxiv.org/abs/2212.09748. A transformer over patches of the noisy picture, whose layer norms are scaled, shifted
and gated by timestep and label (adaLN-Zero). PatchEmbed, Attention and Mlp are timm's.
"""

import math

import torch
import torch.nn.functional as F
from timm.layers import Mlp, PatchEmbed
from timm.layers.attention import Attention
from torch import Tensor, nn

from .config import TransformerConfig
from .unet import halves, sinusoids

TIME_CHANNELS = 256  # sinusoids of a timestep
NORM_EPSILON = 1e-6


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:  # [N, tokens, width], [N, width] twice
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Condition(nn.Module):
    """Timestep float [N] and label int64 [N] (-1: none) as float [N, width]."""

    def __init__(self, c: TransformerConfig):
        super().__init__()
        self.num_classes, self.frequency_shift = c.num_classes, c.frequency_shift
        self.time_in = nn.Linear(TIME_CHANNELS, c.width)
        self.time_out = nn.Linear(c.width, c.width)
        self.label = nn.Embedding(c.num_classes + c.null_label, c.width) if c.num_classes else None

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        waves = sinusoids(t, TIME_CHANNELS, frequency_shift=self.frequency_shift)
        condition = self.time_out(F.silu(self.time_in(waves)))
        if self.label is not None:
            condition = condition + self.label(torch.where(label < 0, self.num_classes, label))
        return F.silu(condition)


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm that the condition shifts, scales and gates (figure 3, right)."""

    def __init__(self, c: TransformerConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.width, eps=NORM_EPSILON, elementwise_affine=False)
        self.attn = Attention(c.width, num_heads=c.heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(c.width, eps=c.mlp_norm_epsilon, elementwise_affine=False)
        self.mlp = Mlp(c.width, int(c.width * c.mlp_ratio), act_layer=lambda: nn.GELU(approximate="tanh"))
        self.modulation = nn.Linear(c.width, 6 * c.width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # [N, tokens, width], [N, width]
        m = self.modulation(condition).unflatten(1, (6, -1))  # shift, scale, gate of attention, then of the MLP
        x = x + m[:, 2].unsqueeze(1) * self.attn(modulate(self.norm1(x), m[:, 0], m[:, 1]))
        return x + m[:, 5].unsqueeze(1) * self.mlp(modulate(self.norm2(x), m[:, 3], m[:, 4]))


class DiT(nn.Module):
    """Noisy picture, timestep and label to a prediction of the same size."""

    def __init__(self, c: TransformerConfig, *, outputs: int = 1):
        """`outputs`: pictures that are predicted at once; 2 where the variance is learned too."""
        super().__init__()
        self.config = c
        self.patches = PatchEmbed(c.size, c.patch_size, c.image_channels, c.width)
        self.grid = tuple(side // c.patch_size for side in c.size)  # rows, columns of patches
        self.register_buffer("positions", self.positions_of(c))
        self.conditions = nn.ModuleList(Condition(c) for _ in range(c.depth if c.condition_per_block else 1))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm_out = nn.LayerNorm(c.width, eps=NORM_EPSILON, elementwise_affine=False)
        self.modulation_out = nn.Linear(c.width, 2 * c.width)
        self.linear_out = nn.Linear(c.width, c.patch_size**2 * c.image_channels * outputs)
        self._initialise()

    def _initialise(self) -> None:
        """Every block begins as the identity, and the first prediction is 0 (section 3.2, adaLN-Zero)."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for condition in self.conditions:
            for layer in condition.children():
                nn.init.normal_(layer.weight, std=0.02)
        for layer in [block.modulation for block in self.blocks] + [self.modulation_out, self.linear_out]:
            nn.init.zeros_(layer.weight)

    @staticmethod
    def positions_of(c: TransformerConfig) -> Tensor:
        """The fixed embedding of a config's patches, [1, patches, width]."""
        return grid_positions(c.width, *(side // c.patch_size for side in c.size))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """
        Args:
            x: float [N, image_channels, height, width].
            t: float [N], the timestep as the network knows it.
            label: int64 [N], -1 for none; left out where the network has no labels.

        Returns:
            float [N, outputs image_channels, height, width].
        """
        conditions = [condition(t, label) for condition in self.conditions]
        x = self.patches(x) + self.positions  # [N, tokens, width]
        for i, block in enumerate(self.blocks):
            x = block(x, conditions[i % len(conditions)])
        shift, scale = halves(self.modulation_out(conditions[0]))
        x = self.linear_out(modulate(self.norm_out(x), shift, scale))
        p = self.config.patch_size
        x = x.unflatten(2, (p, p, -1)).unflatten(1, self.grid)  # [N, rows, columns, p, p, C]
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def grid_positions(width: int, rows: int, columns: int) -> Tensor:
    """Fixed sines and cosines of each patch's column (first half) and row, [1, rows columns, width]; width % 4 == 0."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def waves(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64).unsqueeze(1) * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=1)  # [length, width / 2]

    across = waves(columns).unsqueeze(0).expand(rows, -1, -1)
    down = waves(rows).unsqueeze(1).expand(-1, columns, -1)
    return torch.cat((across, down), dim=2).reshape(1, rows * columns, width).float()
