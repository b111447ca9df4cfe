"""CLIP's text encoder: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".

https://arxiv.org/abs/2103.00020, section 2.4. A transformer over the tokens of a text in which each token only looks at
itself and those before it. Stable Diffusion's denoiser looks at all its outputs, those of padding too, as it did in
training: so there is no mask.
"""

import json
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from zoo.build.tokenizers import ClipTokenizer
from zoo.errors import InvalidFileError

from .config import ClipConfig
from .text import END, MERGES, START, VOCABULARY, Bytes, Condition

Tokens = Float[Tensor, "batch tokens width"]


def tokenizer(assets: Mapping[str, bytes], c: ClipConfig) -> ClipTokenizer:
    """The tokenizer of CLIP's files.

    Raises:
        InvalidFileError: a file is missing, or is not such a vocabulary.
    """
    missing = [name for name in (VOCABULARY, MERGES) if name not in assets]
    if missing:
        raise InvalidFileError(f"the tokenizer has no {missing[0]}")
    try:
        numbers = json.loads(assets[VOCABULARY])
        lines = [line for line in assets[MERGES].decode().splitlines() if line and not line.startswith("#version")]
        merges = [(a, b) for a, b in (line.split() for line in lines)]
        padding = numbers[c.padding] if c.padding else None
        if max(numbers.values()) >= c.vocabulary:
            raise ValueError(f"it has the number {max(numbers.values())}, and the encoder {c.vocabulary} tokens")
        return ClipTokenizer(numbers, merges, c.length, START, END, padding)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InvalidFileError(f"{VOCABULARY} and {MERGES} are not a vocabulary with merges: {e}") from None


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); a token attends to itself and those before it."""

    def __init__(self, c: ClipConfig):
        super().__init__()
        self.heads, self.quick = c.heads, c.activation == "quick_gelu"
        self.norm_attention = nn.LayerNorm(c.width, c.norm_epsilon)
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.proj = nn.Linear(c.width, c.width)
        self.norm_mlp = nn.LayerNorm(c.width, c.norm_epsilon)
        self.mlp_in = nn.Linear(c.width, c.hidden)
        self.mlp_out = nn.Linear(c.hidden, c.width)

    def forward(self, x: Tokens) -> Tokens:
        qkv = self.qkv(self.norm_attention(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
        x = x + self.proj(h.transpose(1, 2).flatten(2))
        h = self.mlp_in(self.norm_mlp(x))
        # The sigmoid is OpenAI's approximation of the Gaussian's distribution, with which its models were trained.
        return x + self.mlp_out(h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h))


class Clip(nn.Module):
    """A text's tokens through CLIP's transformer. The vector for the whole text is that of its end token."""

    def __init__(self, c: ClipConfig, assets: Mapping[str, bytes]):
        super().__init__()
        self.tokenize = tokenizer(assets, c)
        self.token = nn.Embedding(c.vocabulary, c.width)
        self.place = nn.Embedding(c.length, c.width)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
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
