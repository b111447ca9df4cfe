"""CLIP's text encoder: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".

https://arxiv.org/abs/2103.00020, section 2.4. A transformer over the tokens of a text in which each token only looks at
itself and those before it. Stable Diffusion's denoiser looks at all its outputs, those of padding too, as it did in
training: so there is no mask.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from .config import ClipConfig
from .text import Block, Bytes, Condition, tokenizer


class Clip(nn.Module):
    """A text's tokens through CLIP's transformer. The vector for the whole text is that of its end token."""

    def __init__(self, c: ClipConfig, assets: Mapping[str, bytes]):
        super().__init__()
        self.tokenize = tokenizer(assets, c.length, c.vocabulary, c.padding)
        self.token = nn.Embedding(c.vocabulary, c.width)
        self.place = nn.Embedding(c.length, c.width)
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, c.hidden, causal=True, quick=c.activation == "quick_gelu", epsilon=c.norm_epsilon)
            for _ in range(c.depth)
        )
        self.norm = nn.LayerNorm(c.width, c.norm_epsilon)

    def forward(self, text: Bytes) -> Condition:
        return self.encode(self.tokenize(text))

    def encode(self, tokens: Int64[Tensor, "batch tokens"]) -> Condition:
        """The context for tokens, padded; every place may be looked at."""
        x = self.token(tokens) + self.place.weight
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        ends = (tokens == self.tokenize.end).to(torch.int64)
        first = ends * (ends.cumsum(1) == 1)  # the text's own end; padding may be the same token
        pooled = (x * first.unsqueeze(2).to(x.dtype)).sum(1)
        return Condition(context=x, there=torch.ones_like(tokens, dtype=torch.bool), pooled=pooled)
