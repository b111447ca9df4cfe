"""From a text to what the denoiser looks at: a vocabulary learnt from captions, and a transformer over its tokens.

The tokenizer is byte-pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909) in CLIP's form, inside the
graph (`zoo.build.tokenizers`). The encoder is a transformer of the size of the data: a vocabulary of a few thousand
words is learnt with the denoiser, from the pictures alone.
"""

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from zoo.build.tokenizers import ClipTokenizer, letters_of_bytes
from zoo.errors import InvalidFileError

from .config import WordsConfig

Bytes = UInt8[Tensor, "batch bytes"]  # UTF-8, padded with zeros

VOCABULARY, MERGES = "vocab.json", "merges.txt"
"""The assets of a model with words, as CLIP's files are named."""

START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\s\w]|_)+")
_END = "</w>"


class Condition(NamedTuple):
    """What the denoiser looks at besides the noisy latents; None: the network does not have it."""

    context: Float[Tensor, "batch tokens width"] | None = None
    there: Bool[Tensor, "batch tokens"] | None = None  # False: padding
    pooled: Float[Tensor, "batch width"] | None = None  # for the whole text
    label: Int64[Tensor, " batch"] | None = None  # -1: none
    seen: Float[Tensor, "batch seen_channels height width"] | None = None  # a mask, and the latents of what it leaves

    def and_then(self, other: "Condition") -> "Condition":
        """Both, one after the other along the batch."""
        pairs = zip(self, other, strict=True)
        return Condition(*(None if a is None or b is None else torch.cat((a, b)) for a, b in pairs))


# --- The vocabulary ---------------------------------------------------------------------------------------------------


def learnt(texts: Iterable[str], most: int) -> dict[str, bytes]:
    """The assets of a vocabulary for some texts: at most `most` tokens, the most frequent pairs merged first.

    A pair must occur twice to be merged. Ties go to the pair that comes first in the alphabet, so the same texts give
    the same vocabulary.
    """
    letters = letters_of_bytes()
    counts = Counter(word for text in texts for word in _WORD.findall(text.lower()))
    counts["the"] += 2  # so that even without texts there is something to merge
    words = {word: [letters[byte] for byte in word.encode()] for word in counts}
    for symbols in words.values():
        symbols[-1] += _END
    pairs, places = Counter(), defaultdict(set)
    for word, symbols in words.items():
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] += counts[word]
            places[pair].add(word)
    vocabulary = [*letters, *(letter + _END for letter in letters)]
    merges: list[tuple[str, str]] = []
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    while heap and len(vocabulary) + 3 < most:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair] or pairs[pair] < 2:  # an old count, or too rare
            continue
        merges.append(pair)
        vocabulary.append("".join(pair))
        for pair_changed in _merge(pair, words, counts, pairs, places):
            heapq.heappush(heap, (-pairs[pair_changed], pair_changed))
    vocabulary += [START, END, PAD]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    rows = "".join(f"{a} {b}\n" for a, b in merges)
    return {VOCABULARY: json.dumps(numbers, ensure_ascii=False).encode(), MERGES: f"#version: 0.2\n{rows}".encode()}


def _merge(
    pair: tuple[str, str],
    words: dict[str, list[str]],
    counts: Counter[str],
    pairs: Counter[tuple[str, str]],
    places: dict[tuple[str, str], set[str]],
) -> set[tuple[str, str]]:
    """Merges a pair in all words that have it; returns the pairs whose counts changed."""
    changed = set()
    for word in places.pop(pair):
        symbols = words[word]
        for old in zip(symbols, symbols[1:]):
            pairs[old] -= counts[word]
            changed.add(old)
        merged, i = [], 0
        while i < len(symbols):
            if tuple(symbols[i : i + 2]) == pair:
                merged.append("".join(pair))
                i += 2
            else:
                merged.append(symbols[i])
                i += 1
        words[word] = merged
        for new in zip(merged, merged[1:]):
            pairs[new] += counts[word]
            places[new].add(word)
            changed.add(new)
    return {other for other in changed if pairs[other] > 0 and other != pair}


def tokenizer(assets: Mapping[str, bytes], length: int, tokens: int, padding: str = PAD) -> ClipTokenizer:
    """The tokenizer of a vocabulary: one that `learnt` made, or CLIP's own files.

    Args:
        length: of the result.
        tokens: those that the encoder has.
        padding: the token after a text's end; empty: the end token again.

    Raises:
        InvalidFileError: a file is missing, or is not such a vocabulary.
    """
    missing = [name for name in (VOCABULARY, MERGES) if name not in assets]
    if missing:
        raise InvalidFileError(f"the model's text needs {missing[0]}, which is not one of its files")
    try:
        numbers = json.loads(assets[VOCABULARY])
        lines = assets[MERGES].decode().splitlines()
        merges = [(a, b) for a, b in (line.split() for line in lines if line and not line.startswith("#version"))]
        if max(numbers.values()) >= tokens:
            raise ValueError(f"it has the number {max(numbers.values())}, and the encoder {tokens} tokens")
        return ClipTokenizer(numbers, merges, length, START, END, numbers[padding] if padding else None)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InvalidFileError(f"{VOCABULARY} and {MERGES} are not a vocabulary with merges: {e}") from None


# --- The encoder ------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        causal: a token looks at itself and those before it, instead of all.
        quick: OpenAI's approximation of GELU, with which its models were trained.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        causal: bool = False,
        quick: bool = False,
        epsilon: float = 1e-5,
    ):
        super().__init__()
        self.heads, self.causal, self.quick = heads, causal, quick
        self.norm_attention = nn.LayerNorm(width, epsilon)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width, epsilon)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], there: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """`there`: false for tokens that no other looks at; None: there are none."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if there is None else there[:, None, None, :]
        h = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=mask, is_causal=self.causal)
        x = x + self.proj(h.transpose(1, 2).flatten(2))
        h = self.mlp_in(self.norm_mlp(x))
        return x + self.mlp_out(h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h))


class Words(nn.Module):
    """A text's tokens, each with its place, through a transformer; the vector for the whole text is their mean."""

    def __init__(self, c: WordsConfig, assets: Mapping[str, bytes]):
        super().__init__()
        self.tokenize = tokenizer(assets, c.length, c.vocabulary)
        tokens = self.tokenize.padding + 1  # the last number
        self.token = nn.Embedding(tokens, c.width)
        self.place = nn.Embedding(c.length, c.width)
        self.blocks = nn.ModuleList(Block(c.width, c.heads, 4 * c.width) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width)
        for embedding in (self.token, self.place):
            nn.init.normal_(embedding.weight, std=0.02**0.5 if embedding is self.token else 0.02)

    def forward(self, text: Bytes) -> Condition:
        return self.encode(self.tokenize(text))

    def encode(self, tokens: Int64[Tensor, "batch tokens"]) -> Condition:
        there = tokens != self.tokenize.padding
        x = self.token(tokens) + self.place.weight
        for block in self.blocks:
            x = block(x, there)
        x = self.norm(x)
        weight = there.to(x.dtype).unsqueeze(2)
        return Condition(context=x, there=there, pooled=(x * weight).sum(1) / weight.sum(1))
