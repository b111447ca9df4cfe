"""CLIP's text encoder: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".

https://arxiv.org/abs/2103.00020, section 2.4. A transformer over the tokens of a text in which each token only looks at
itself and those before it. Stable Diffusion's denoiser looks at all its outputs, those of padding too, as it did in
training: so there is no mask.
"""

import json
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn

from zoo.errors import InvalidFileError
from zoo.text import safe_text

from .config import ClipConfig, ClipsConfig
from .text import VOCABULARY, Block, Bytes, Condition, tokenizer


class Encoder(nn.Module):
    """Tokens through CLIP's transformer. The vector for the whole text is that of its end token."""

    def __init__(self, c: ClipConfig):
        super().__init__()
        self.penultimate = c.penultimate
        self.token = nn.Embedding(c.vocabulary, c.width)
        self.place = nn.Embedding(c.length, c.width)
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, c.hidden, causal=True, quick=c.activation == "quick_gelu", epsilon=c.norm_epsilon)
            for _ in range(c.computed)
        )
        self.norm = nn.LayerNorm(c.width, c.norm_epsilon) if c.computed == c.depth else None
        self.project = nn.Linear(c.width, c.projection, bias=False) if c.projection else None

    def read(self, tokens: Int64[Tensor, "batch tokens"], end: int) -> Condition:
        """The context for tokens, padded; every place may be looked at.

        Args:
            end: the token after the text, and perhaps the padding too.
        """
        x = context = self.token(tokens) + self.place.weight
        for block in self.blocks:
            context, x = x, block(x)
        there = torch.ones_like(tokens, dtype=torch.bool)
        if self.norm is None:  # the last block is left out, since nothing looks at its output
            return Condition(context=x, there=there)
        x = self.norm(x)
        pooled = (x * is_end(tokens, end).unsqueeze(2).to(x.dtype)).sum(1)
        if self.project is not None:
            pooled = self.project(pooled)
        return Condition(context=context if self.penultimate else x, there=there, pooled=pooled)


def is_end(tokens: Int64[Tensor, "batch tokens"], end: int) -> Int64[Tensor, "batch tokens"]:
    """1 for each text's own end; padding may be the same token."""
    ends = (tokens == end).to(torch.int64)
    return ends * (ends.cumsum(1) == 1)


class Clip(Encoder):
    """A text through one encoder."""

    def __init__(self, c: ClipConfig, assets: Mapping[str, bytes]):
        super().__init__(c)
        self.tokenize = tokenizer(assets, c.length, c.vocabulary, c.padding)

    def forward(self, text: Bytes) -> Condition:
        return self.encode(self.tokenize(text))

    def encode(self, tokens: Int64[Tensor, "batch tokens"]) -> Condition:
        return self.read(tokens, self.tokenize.end)


class Clips(nn.Module):
    """A text through several encoders, whose outputs are side by side (Podell et al. 2023, section 2.1)."""

    def __init__(self, c: ClipsConfig, assets: Mapping[str, bytes]):
        super().__init__()
        self.c = c
        self.tokenize = tokenizer(assets, c.encoders[0].length, min(e.vocabulary for e in c.encoders), "")
        numbers = json.loads(assets[VOCABULARY])
        self.paddings = [padding_number(numbers, e.padding, self.tokenize.end) for e in c.encoders]
        self.encoders = nn.ModuleList(Encoder(e) for e in c.encoders)

    def forward(self, text: Bytes) -> Condition:
        return self.encode(self.tokenize(text))

    def encode(self, tokens: Int64[Tensor, "batch tokens"]) -> Condition:
        """The context for tokens, padded with the end token."""
        end = self.tokenize.end
        after = (tokens == end) & (is_end(tokens, end) == 0)
        read = [
            cast(Encoder, encoder).read(torch.where(after, padding, tokens), end)
            for encoder, padding in zip(self.encoders, self.paddings, strict=True)
        ]
        context = torch.cat([cast(Tensor, one.context) for one in read], dim=2)
        context = F.pad(context, (0, self.c.width - context.shape[2], 0, self.c.zeros))
        pooled = [cast(Tensor, one.pooled) for one, e in zip(read, self.c.encoders, strict=True) if e.projection]
        there = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        return Condition(context=context, there=there, pooled=torch.cat(pooled, dim=1))


def padding_number(numbers: Mapping[str, int], padding: str, end: int) -> int:
    """The number of a padding token; empty: that of the end token.

    Raises:
        InvalidFileError: the vocabulary does not have it.
    """
    if not padding:
        return end
    if padding not in numbers:
        raise InvalidFileError(f"{VOCABULARY} has no token '{safe_text(padding)}', with which texts are padded")
    return numbers[padding]
