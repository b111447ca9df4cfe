"""DiT: Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", section 3.

https://arxiv.org/abs/2212.09748. The whole network, top to bottom: modulation, the embedding of timestep and label, the
block with adaLN-Zero, the network, the positions of the patches. PatchEmbed, Attention and Mlp are timm's.

Departs from the paper only for diffusers' checkpoints, where the config says so: an embedding of timestep and label in
every block, other frequencies, another epsilon.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers.activations import GELUTanh
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from .config import TransformerConfig
from .unet import halves, sinusoids

TIME_CHANNELS = 256  # sinusoids of a timestep
NORM_EPSILON = 1e-6


def modulate(
    x: Float[Tensor, "batch tokens dim"], shift: Float[Tensor, "batch dim"], scale: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch tokens dim"]:
    """Scales and shifts all tokens of an image in the same way."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Condition(nn.Module):
    """Timestep and label as one vector: the sum of their embeddings (section 3.2)."""

    def __init__(self, c: TransformerConfig):
        super().__init__()
        self.num_classes, self.frequency_shift = c.num_classes, c.frequency_shift
        self.time_in = nn.Linear(TIME_CHANNELS, c.width)
        self.time_out = nn.Linear(c.width, c.width)
        self.label = nn.Embedding(c.num_classes + c.null_label, c.width) if c.num_classes else None

    def forward(self, t: Float[Tensor, " batch"], label: Int[Tensor, " batch"] | None) -> Float[Tensor, "batch dim"]:
        """`label` -1: no label; None if the network has no labels."""
        waves = sinusoids(t, TIME_CHANNELS, frequency_shift=self.frequency_shift)
        condition = self.time_out(F.silu(self.time_in(waves)))
        if self.label is not None:
            assert label is not None, "a network with labels needs one"
            condition = condition + self.label(torch.where(label < 0, self.num_classes, label))
        return F.silu(condition)  # the first layer of every block's modulation, computed once for all


class Block(nn.Module):
    """Attention and MLP with adaLN-Zero: the condition shifts and scales their inputs, and gates their outputs."""

    def __init__(self, c: TransformerConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.width, eps=NORM_EPSILON, elementwise_affine=False)
        self.attn = Attention(c.width, num_heads=c.heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(c.width, eps=c.mlp_norm_epsilon, elementwise_affine=False)
        self.mlp = Mlp(c.width, int(c.width * c.mlp_ratio), act_layer=GELUTanh)
        self.modulation = nn.Linear(c.width, 6 * c.width)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], condition: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Figure 3, "DiT Block with adaLN-Zero": its gamma, beta and alpha are scale, shift and gate."""
        six = self.modulation(condition).unflatten(1, (6, -1))  # [batch, 6, dim]
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (six[:, i] for i in range(6))
        x = x + gate_msa.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
        return x + gate_mlp.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


class DiT(nn.Module):
    """Noisy image, timestep and label to a prediction of the same size."""

    trace_once = True  # at export: every task calls it

    positions: Tensor

    def __init__(self, c: TransformerConfig, *, outputs: int = 1):
        """`outputs`: number of images that are predicted together; 2 if the variance is learned too."""
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
        """Every block starts as the identity, since its gates are 0, and the first prediction is 0 (adaLN-Zero)."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer in self.conditions.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and name.endswith(("modulation", "modulation_out", "linear_out")):
                nn.init.zeros_(layer.weight)

    @staticmethod
    def positions_of(c: TransformerConfig) -> Float[Tensor, "1 tokens dim"]:
        """The fixed embedding of a config's patches."""
        return grid_positions(c.width, *(side // c.patch_size for side in c.size))

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels_out height width"]:
        """
        Args:
            t: the timestep, as the network expects it.
            label: -1: no label; None if the network has no labels.

        Returns:
            `outputs` images, one after the other along the channels.
        """
        conditions = [condition(t, label) for condition in self.conditions]
        x = self.patches(x) + self.positions  # [batch, tokens, dim]
        for i, block in enumerate(self.blocks):
            x = block(x, conditions[i % len(conditions)])
        shift, scale = halves(self.modulation_out(conditions[0]))
        x = self.linear_out(modulate(self.norm_out(x), shift, scale))
        return self.unpatchify(x)

    def unpatchify(self, x: Float[Tensor, "batch tokens values"]) -> Float[Tensor, "batch channels height width"]:
        p = self.config.patch_size
        x = x.unflatten(2, (p, p, -1)).unflatten(1, self.grid)  # [batch, rows, columns, p, p, channels]
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def grid_positions(width: int, rows: int, columns: int) -> Float[Tensor, "1 {rows*columns} {width}"]:
    """Fixed sines and cosines of each patch's column (first half) and row; `width` is a multiple of 4."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def waves(length: int) -> Float[Tensor, "{length} angles"]:
        angles = torch.arange(length, dtype=torch.float64).unsqueeze(1) * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=1)

    across = waves(columns).unsqueeze(0).expand(rows, -1, -1)
    down = waves(rows).unsqueeze(1).expand(-1, columns, -1)
    return torch.cat((across, down), dim=2).reshape(1, rows * columns, width).float()
