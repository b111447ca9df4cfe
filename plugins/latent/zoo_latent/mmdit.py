"""MM-DiT: Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", figure 2.

https://arxiv.org/abs/2403.03206. The whole network, top to bottom: the two streams of a block, the block, the network.
Image and text have weights of their own and meet in attention, where every token looks at all others.

The options are those of Stable Diffusion 3.5: norms of queries and keys (section 5.3.2), and in some blocks a second
attention among the image's own tokens.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from zoo_diffusion.dit import NORM_EPSILON, TIME_CHANNELS, grid_positions, modulate
from zoo_diffusion.unet import Map, halves, sinusoids

from .config import JointDenoiserConfig
from .scaled import Scaled

Tokens = Float[Tensor, "batch tokens width"]
Vector = Float[Tensor, "batch width"]
Heads = Float[Tensor, "batch heads tokens head_size"]


class Scale(nn.Module):
    """RMS norm with a weight per channel (Zhang and Sennrich 2019)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Heads) -> Heads:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPSILON) * self.weight


class Projections(nn.Module):
    """Tokens to queries, keys and values."""

    def __init__(self, c: JointDenoiserConfig):
        super().__init__()
        self.heads = c.heads
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.norm_q = Scale(c.width // c.heads) if c.norm_queries else nn.Identity()
        self.norm_k = Scale(c.width // c.heads) if c.norm_queries else nn.Identity()

    def forward(self, x: Tokens) -> tuple[Heads, Heads, Heads]:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.norm_q(qkv[0]), self.norm_k(qkv[1]), qkv[2]


def attention(
    q: Heads, k: Float[Tensor, "batch heads others head_size"], v: Float[Tensor, "batch heads others head_size"]
) -> Float[Tensor, "batch tokens values"]:
    """What each query finds among the keys."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Stream(nn.Module):
    """What a block computes for the tokens of one kind, before and after they meet the others.

    Args:
        last: the tokens are only looked at: nothing looks at what becomes of them.
        twice: they also look at each other alone.
    """

    def __init__(self, c: JointDenoiserConfig, *, last: bool = False, twice: bool = False):
        super().__init__()
        self.numbers = 2 if last else 9 if twice else 6
        self.modulation = nn.Linear(c.width, self.numbers * c.width)
        self.norm = nn.LayerNorm(c.width, eps=NORM_EPSILON, elementwise_affine=False)
        self.joint = Projections(c)
        self.alone = Projections(c) if twice else None
        self.proj_alone = nn.Linear(c.width, c.width) if twice else None
        self.proj = None if last else nn.Linear(c.width, c.width)
        self.mlp_in = None if last else nn.Linear(c.width, 4 * c.width)
        self.mlp_out = None if last else nn.Linear(4 * c.width, c.width)

    def begin(self, x: Tokens, condition: Vector) -> tuple[tuple[Heads, Heads, Heads], Float[Tensor, "batch n width"]]:
        """Queries, keys and values, and the shifts, scales and gates of this block."""
        numbers = self.modulation(condition).unflatten(1, (self.numbers, -1))
        return self.joint(modulate(self.norm(x), numbers[:, 0], numbers[:, 1])), numbers

    def end(self, x: Tokens, attended: Tokens, numbers: Float[Tensor, "batch n width"]) -> Tokens:
        """x with what attention and feed-forward add."""
        assert self.proj is not None and self.mlp_in is not None and self.mlp_out is not None
        before = self.norm(x)
        x = x + numbers[:, 2:3] * self.proj(attended)
        if self.alone is not None and self.proj_alone is not None:
            q, k, v = self.alone(modulate(before, numbers[:, 6], numbers[:, 7]))
            x = x + numbers[:, 8:9] * self.proj_alone(attention(q, k, v))
        h = modulate(self.norm(x), numbers[:, 3], numbers[:, 4])
        return x + numbers[:, 5:6] * self.mlp_out(F.gelu(self.mlp_in(h), approximate="tanh"))


class Block(nn.Module):
    """Both streams, with attention over the tokens of both."""

    def __init__(self, c: JointDenoiserConfig, number: int):
        super().__init__()
        self.image = Stream(c, twice=number in c.twice)
        self.text = Stream(c, last=number == c.depth - 1)

    def forward(
        self, x: Tokens, context: Float[Tensor, "batch words width"], condition: Vector
    ) -> tuple[Tokens, Tensor]:
        (q, k, v), numbers = self.image.begin(x, condition)
        (q_text, k_text, v_text), numbers_text = self.text.begin(context, condition)
        k, v = torch.cat((k, k_text), dim=2), torch.cat((v, v_text), dim=2)
        if self.text.proj is None:
            return self.image.end(x, attention(q, k, v), numbers), context
        attended = attention(torch.cat((q, q_text), dim=2), k, v)
        places = x.shape[1]
        return (
            self.image.end(x, attended[:, :places], numbers),
            self.text.end(context, attended[:, places:], numbers_text),
        )


class JointDenoiser(Scaled):
    """Noisy latents, timestep and text to a prediction of the same shape."""

    trace_once = True  # at export: every task calls it
    config: JointDenoiserConfig
    positions: Tensor

    def __init__(self, c: JointDenoiserConfig, *, outputs: int = 1):
        super().__init__()
        self.config = c
        self.grid = tuple(side // c.patch_size for side in c.size)  # rows, columns of patches
        self.patches = nn.Conv2d(c.image_channels, c.width, c.patch_size, stride=c.patch_size)
        self.register_buffer("positions", grid_positions(c.width, *self.grid))
        self.time_in = nn.Linear(TIME_CHANNELS, c.width)
        self.time_out = nn.Linear(c.width, c.width)
        self.pooled_in = nn.Linear(c.pooled_width, c.width)
        self.pooled_out = nn.Linear(c.width, c.width)
        self.context_in = nn.Linear(c.context_width, c.width)
        self.blocks = nn.ModuleList(Block(c, number) for number in range(c.depth))
        self.norm_out = nn.LayerNorm(c.width, eps=NORM_EPSILON, elementwise_affine=False)
        self.modulation_out = nn.Linear(c.width, 2 * c.width)
        self.linear_out = nn.Linear(c.width, c.patch_size**2 * c.image_channels * outputs)
        self.set_scale(c.image_channels)

    def forward(
        self,
        x: Map,
        t: Float[Tensor, " batch"],
        context: Float[Tensor, "batch words context_width"],
        there: Bool[Tensor, "batch words"] | None = None,
        pooled: Float[Tensor, "batch pooled_width"] | None = None,
        label: Int64[Tensor, " batch"] | None = None,
        seen: None = None,
    ) -> Float[Tensor, "batch channels_out height width"]:
        """`there` and `label` have no effect: the network looks at padding too."""
        assert pooled is not None, "this network looks at a text"
        time = self.time_out(F.silu(self.time_in(sinusoids(t, TIME_CHANNELS))))
        # SiLU is the first layer of every block's modulation, computed once for all.
        condition = F.silu(time + self.pooled_out(F.silu(self.pooled_in(pooled))))
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions  # [batch, tokens, width]
        words = self.context_in(context)
        for block in self.blocks:
            h, words = block(h, words, condition)
        shift, scale = halves(self.modulation_out(condition))
        h = self.linear_out(modulate(self.norm_out(h), shift, scale))
        p = self.config.patch_size
        h = h.unflatten(2, (p, p, -1)).unflatten(1, self.grid)  # [batch, rows, columns, p, p, channels]
        return h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
