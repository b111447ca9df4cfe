"""The denoiser of latents: Rombach et al. 2021, "High-Resolution Image Synthesis with Latent Diffusion Models".

https://arxiv.org/abs/2112.10752, section 3.3 and appendix E.2.2. zoo-diffusion's U-Net, with transformer blocks in the
place of its attention: each position looks at all others, then at the tokens of the text.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from zoo_diffusion.dit import DiT
from zoo_diffusion.unet import Map, UNet, sinusoids

from .config import DenoiserConfig, JointDenoiserConfig, LabelDenoiserConfig, Network
from .mmdit import JointDenoiser
from .scaled import Scaled
from .text import Condition

Places = Float[Tensor, "batch places channels"]


class Attention(nn.Module):
    """Multi-head attention: queries from x, keys and values from `context`, which is x itself in self-attention."""

    def __init__(self, channels: int, context_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(context_width, channels, bias=False)
        self.v = nn.Linear(context_width, channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(
        self,
        x: Places,
        context: Float[Tensor, "batch tokens context_width"],
        there: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Places:
        mask = None if there is None else there[:, None, None, :]
        q, k, v = self._split(self.q(x)), self._split(self.k(context)), self._split(self.v(context))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(h.transpose(1, 2).flatten(2))

    def _split(self, h: Float[Tensor, "batch places channels"]) -> Float[Tensor, "batch heads places head_size"]:
        return h.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """GEGLU: Shazeer 2020 (https://arxiv.org/abs/2002.05202), equation 6."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.value = nn.Linear(channels, hidden)
        self.gate = nn.Linear(channels, hidden)
        self.proj = nn.Linear(hidden, channels)

    def forward(self, x: Places) -> Places:
        return self.proj(self.value(x) * F.gelu(self.gate(x)))


class Block(nn.Module):
    """Self-attention, attention to the text, feed-forward: each added to its input, after a norm."""

    def __init__(self, c: DenoiserConfig, channels: int, heads: int):
        super().__init__()
        self.norm_self = nn.LayerNorm(channels)
        self.attend_self = Attention(channels, channels, heads)
        self.norm_text = nn.LayerNorm(channels) if c.context_width else None
        self.attend_text = Attention(channels, c.context_width, heads) if c.context_width else None
        self.norm_feed = nn.LayerNorm(channels)
        self.feed = FeedForward(channels, round(c.feed_forward * channels))

    def forward(self, x: Places, condition: Condition) -> Places:
        h = self.norm_self(x)
        x = x + self.attend_self(h, h)
        if self.norm_text is not None and self.attend_text is not None:
            assert condition.context is not None, "this network looks at a text"
            x = x + self.attend_text(self.norm_text(x), condition.context, condition.there)
        return x + self.feed(self.norm_feed(x))


class Transformer(nn.Module):
    """x + out(blocks(in(norm(x)))), over all positions."""

    def __init__(self, c: DenoiserConfig, channels: int, depth: int):
        super().__init__()
        self.norm = nn.GroupNorm(c.norm_groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        heads = channels // c.head_size if c.head_size else c.heads
        self.blocks = nn.ModuleList(Block(c, channels, heads) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Map, condition: Condition) -> Map:
        height, width = x.shape[2:]
        places = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            places = block(places, condition)
        return x + self.proj_out(places).transpose(1, 2).unflatten(2, (height, width))


class Denoiser(Scaled, UNet):
    """Noisy latents, timestep and condition to a prediction of the same shape."""

    config: DenoiserConfig

    def __init__(self, c: DenoiserConfig, *, outputs: int = 1):
        super().__init__(c, outputs=outputs, seen=1 + c.image_channels if c.inpaints else 0)
        width = self.time_out.out_features
        known = c.pooled_width + len(c.sizes) * c.size_channels
        self.pooled = nn.Linear(known, width) if known else None
        self.pooled_out = nn.Linear(width, width) if c.sizes else None
        self.set_scale(c.image_channels)

    def attention(self, channels: int, level: int, *, norm: bool = True) -> nn.Module:
        if self.config.attention == "plain":
            return super().attention(channels, level, norm=norm)
        return Transformer(self.config, channels, self.config.depth_at(level))

    def known(self, pooled: Float[Tensor, "batch pooled_width"]) -> Float[Tensor, "batch time_width"]:
        """Embedding of the whole text and, if the config has them, of the picture's sizes (Podell et al. 2023, section
        2.2)."""
        assert self.pooled is not None
        if self.pooled_out is None:
            return self.pooled(pooled)
        c = self.config
        numbers = torch.tensor(c.sizes, dtype=torch.float32, device=pooled.device)
        waves = sinusoids(numbers, c.size_channels, cosine_first=c.cosine_first, frequency_shift=c.frequency_shift)
        waves = waves.flatten().expand(pooled.shape[0], -1)
        return self.pooled_out(F.silu(self.pooled(torch.cat((pooled, waves), dim=1))))

    # A label is one of several things that say what to draw. They are those of a `Condition`, one by one, since what is
    # traced once takes tensors.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Map,
        t: Float[Tensor, " batch"],
        context: Float[Tensor, "batch tokens context_width"] | None = None,
        there: Bool[Tensor, "batch tokens"] | None = None,
        pooled: Float[Tensor, "batch pooled_width"] | None = None,
        label: Int64[Tensor, " batch"] | None = None,
        seen: Float[Tensor, "batch seen_channels height width"] | None = None,
    ) -> Map:
        time = self.embed(t, label)
        if self.pooled is not None:
            assert pooled is not None, "this network looks at a text"
            time = time + self.known(pooled)
        if self.config.inpaints:
            assert seen is not None, "this network sees a mask and a picture"
            x = torch.cat((x, seen), dim=1)
        plain = self.config.attention == "plain"
        return self.denoise(x, time, None if plain else Condition(context, there, pooled, label))


class LabelDenoiser(Scaled, DiT):
    """Noisy latents, timestep and label to a prediction of the same shape: zoo-diffusion's DiT."""

    config: LabelDenoiserConfig

    def __init__(self, c: LabelDenoiserConfig, *, outputs: int = 1):
        super().__init__(c, outputs=outputs)
        self.set_scale(c.image_channels)

    # As above: tensors one by one, for what is traced once.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Map,
        t: Float[Tensor, " batch"],
        context: None = None,
        there: None = None,
        pooled: None = None,
        label: Int64[Tensor, " batch"] | None = None,
        seen: None = None,
    ) -> Float[Tensor, "batch channels_out height width"]:
        return super().forward(x, t, label)


def build_denoiser(c: Network, *, outputs: int = 1) -> Scaled:
    """The network of a config. `outputs`: 2 if the variance is learned too."""
    if isinstance(c, JointDenoiserConfig):
        return JointDenoiser(c, outputs=outputs)
    if isinstance(c, LabelDenoiserConfig):
        return LabelDenoiser(c, outputs=outputs)
    return Denoiser(c, outputs=outputs)
