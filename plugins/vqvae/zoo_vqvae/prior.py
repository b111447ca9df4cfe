"""Priors: draw images as tokens. One transformer, used in two ways.

- `masked`: Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer" (https://arxiv.org/abs/2202.04200): draws
  all tokens together, keeps the most confident, masks the others and draws them again, in a few steps.
- `autoregressive`: one token after the other, with a cache of keys and values, as in section 3.2 of Esser, Rombach,
  Ommer 2021 (https://arxiv.org/abs/2012.09841).

The transformer's blocks are GPT-2's or LLaMA's. With the first it is the network of taming-transformers' Net2Net, with
the second that of LlamaGen (Sun et al. 2024, https://arxiv.org/abs/2406.06525).

Labels are guided as by Ho and Salimans 2022 (https://arxiv.org/abs/2207.12598), but on logits: u + g (c - u).

Departs from MaskGIT: no label smoothing; learned positions; the label has its own position before the tokens.
Symbols: K codes, L positions of an image's tokens.
"""

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from zoo.build.loop import while_loop
from zoo.build.random import uniform

from .config import PriorConfig

Count = Int64[Tensor, ""]
Labels = Int64[Tensor, " batch"]  # -1: no label
Numbers = Float32[Tensor, " batch"]
Seeds = Int64[Tensor, " batch"]
Tokens = Int64[Tensor, "batch L"]
Heads = Float[Tensor, "batch heads places head_size"]
Rotation = tuple[Float[Tensor, "places pairs"], Float[Tensor, "places pairs"]]  # cosine and sine


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-5), times a learned scale: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*places width"]) -> Float[Tensor, "*places width"]:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-5) * self.weight


def rotate(x: Heads, rotation: Rotation) -> Heads:
    """Each pair of numbers (2j, 2j + 1) of a head, turned by its angle: Su et al. 2021, https://arxiv.org/abs/2104.09864."""
    cos, sin = rotation
    pairs = x.unflatten(3, (-1, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=4).flatten(3)


def rotation_2d(c: PriorConfig, place: Int64[Tensor, " places"]) -> Rotation:
    """The rotation at places 0 (the label) .. L, as in LlamaGen.

    The first half of a head's pairs turn with the token's row, the others with its column, by 10000^(-2j / pairs) a
    step. The label's queries and keys become zero.
    """
    pairs = c.width // c.heads // 2
    rate = 1.0 / 10000 ** (torch.arange(0, pairs, 2, dtype=torch.float32, device=place.device) / pairs)
    cell = (place - 1).clamp(min=0)
    row, column = cell // c.columns, cell % c.columns
    angle = torch.cat((row.unsqueeze(1) * rate, column.unsqueeze(1) * rate), dim=1)
    token = (place > 0).unsqueeze(1)
    return torch.where(token, angle.cos(), 0.0), torch.where(token, angle.sin(), 0.0)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): what both kinds of block share."""

    heads: int
    norm_1: nn.Module
    qkv: nn.Module
    proj: nn.Module
    norm_2: nn.Module
    dropout: nn.Module

    def mlp(self, x: Float[Tensor, "batch places width"]) -> Float[Tensor, "batch places width"]:
        raise NotImplementedError

    def split(self, x: Float[Tensor, "batch places width"], rotation: Rotation | None) -> tuple[Heads, Heads, Heads]:
        """Queries, keys, values; queries and keys rotated if there is a rotation."""
        q, k, v = self.qkv(self.norm_1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return (q, k, v) if rotation is None else (rotate(q, rotation), rotate(k, rotation), v)

    def finish(
        self,
        x: Float[Tensor, "batch places width"],
        q: Heads,
        k: Float[Tensor, "batch heads seen head_size"],
        v: Float[Tensor, "batch heads seen head_size"],
        hidden: Bool[Tensor, "*#places #seen"] | None,
    ) -> Float[Tensor, "batch places width"]:
        """The block's output; `hidden`: the positions that each position must not attend to."""
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -1e9)
        x = x + self.dropout(self.proj((scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.norm_2(x)))

    def forward(
        self,
        x: Float[Tensor, "batch places width"],
        rotation: Rotation | None,
        hidden: Bool[Tensor, "places places"] | None = None,
    ) -> Float[Tensor, "batch places width"]:
        return self.finish(x, *self.split(x, rotation), hidden)


class GPTBlock(Block):
    """GPT-2's: layer norms, biases, mlp(x) = W gelu(V x) (Radford et al. 2019)."""

    def __init__(self, c: PriorConfig):
        super().__init__()
        self.heads = c.heads
        self.norm_1 = nn.LayerNorm(c.width)
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.proj = nn.Linear(c.width, c.width)
        self.norm_2 = nn.LayerNorm(c.width)
        self.mlp_in = nn.Linear(c.width, c.hidden_width)
        self.mlp_out = nn.Linear(c.hidden_width, c.width)
        self.dropout = nn.Dropout(c.dropout)

    def mlp(self, x: Float[Tensor, "batch places width"]) -> Float[Tensor, "batch places width"]:
        return self.mlp_out(F.gelu(self.mlp_in(x)))


class LlamaBlock(Block):
    """LLaMA's: RMS norms, no biases, mlp(x) = W (silu(U x) * V x) (Touvron et al. 2023,
    https://arxiv.org/abs/2302.13971)."""

    def __init__(self, c: PriorConfig):
        super().__init__()
        self.heads = c.heads
        self.norm_1 = RMSNorm(c.width)
        self.qkv = nn.Linear(c.width, 3 * c.width, bias=False)
        self.proj = nn.Linear(c.width, c.width, bias=False)
        self.norm_2 = RMSNorm(c.width)
        self.mlp_in = nn.Linear(c.width, 2 * c.hidden_width, bias=False)  # U, then V
        self.mlp_out = nn.Linear(c.hidden_width, c.width, bias=False)
        self.dropout = nn.Dropout(c.dropout)

    def mlp(self, x: Float[Tensor, "batch places width"]) -> Float[Tensor, "batch places width"]:
        both = self.mlp_in(x).unflatten(2, (2, -1))
        return self.mlp_out(F.silu(both[:, :, 0]) * both[:, :, 1])


class Prior(nn.Module):
    """The transformer over [label, token, token, …], and its logits for the K codes."""

    def __init__(self, c: PriorConfig, num_codes: int):
        super().__init__()
        self.config, self.num_codes, self.places = c, num_codes, c.rows * c.columns
        self.tokens = nn.Embedding(num_codes + 1, c.width)  # the last is "masked"
        self.labels = nn.Embedding(c.num_classes + 1, c.width)  # row 0 is "no label"
        gpt = c.block == "gpt"
        self.positions = nn.Parameter(torch.zeros(self.places + 1, c.width)) if gpt else None
        self.blocks = nn.ModuleList((GPTBlock if gpt else LlamaBlock)(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width) if gpt else RMSNorm(c.width)
        self.head = nn.Linear(c.width, num_codes, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tokens, label: Labels) -> Float[Tensor, "batch L K"]:
        """Logits of every position.

        Masked: tokens 0 .. K, K where masked; each position sees all others. Autoregressive: a position's logits depend
        on the label and the tokens before it.
        """
        x = torch.cat((self.labels(label + 1).unsqueeze(1), self.tokens(tokens)), dim=1)
        place = torch.arange(self.places + 1, device=x.device)
        if self.config.kind == "masked":
            x, rotation = self.place(x, place)
            for block in self.blocks:
                x = block(x, rotation)
            return self.logits(x[:, 1:])
        place = place[:-1]
        x, rotation = self.place(x[:, :-1], place)
        for block in self.blocks:
            x = block(x, rotation, place > place.unsqueeze(1))
        return self.logits(x)

    def place(
        self, x: Float[Tensor, "batch places width"], place: Int64[Tensor, " places"]
    ) -> tuple[Float[Tensor, "batch places width"], Rotation | None]:
        """What tells the blocks where an input is, at places 0 (the label) .. L: learned positions that are added here,
        or the rotation of queries and keys."""
        if self.positions is None:
            return x, rotation_2d(self.config, place)
        return x + self.positions.index_select(0, place), None

    def logits(self, x: Float[Tensor, "*places width"]) -> Float[Tensor, "*places K"]:
        return self.head(self.norm(x))

    def empty_cache(self, number: int) -> Float[Tensor, "depth 2 batch heads L head_size"]:
        """A cache without keys and values, for this number of images."""
        c = self.config
        return self.head.weight.new_zeros(c.depth, 2, number, c.heads, self.places, c.width // c.heads)

    def next_logits(
        self,
        i: Count,
        before: Int64[Tensor, " batch"],
        label: Labels,
        cache: Float[Tensor, "depth 2 batch heads L head_size"],
    ) -> tuple[Float[Tensor, "batch K"], Float[Tensor, "depth 2 batch heads L head_size"]]:
        """Logits of position i from the previous token and a cache of the previous positions, and the cache with i.

        Args:
            i: 0 .. L-1.
            before: the token at position i - 1; any value if i is 0.
        """
        entered = torch.where(i == 0, self.labels(label + 1), self.tokens(before))
        x, rotation = self.place(entered.unsqueeze(1), i.reshape(1))  # [batch, 1, width]
        place = torch.arange(self.places, device=x.device)
        here = (place == i)[:, None]  # [L, 1]
        layers = []
        for i_block, block in enumerate(cast(Iterable[Block], self.blocks)):
            q, k, v = block.split(x, rotation)
            keys, values = torch.where(here, k, cache[i_block, 0]), torch.where(here, v, cache[i_block, 1])
            x = block.finish(x, q, keys, values, place > i)
            layers.append(torch.stack((keys, values)))
        return self.logits(x).squeeze(1), torch.stack(layers)


# --- Learning ---------------------------------------------------------------------------------------------------------


def masked_share(r: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The share of masked tokens at progress r, 1 at r = 0, 0 at r = 1: cos(pi r / 2) (section 3.3)."""
    return torch.cos(r * (math.pi / 2))


def mask_at_random(
    tokens: Tokens, mask_token: int, generator: torch.Generator | None
) -> tuple[Tokens, Bool[Tensor, "batch L"]]:
    """Tokens with a random share masked, at least one in each image, and the mask."""
    n, places = tokens.shape
    share = masked_share(torch.rand(n, 1, generator=generator))
    rank = torch.rand(n, places, generator=generator).argsort(dim=1).argsort(dim=1)
    hidden = (rank < (share * places).ceil().clamp(min=1)).to(tokens.device)
    return torch.where(hidden, mask_token, tokens), hidden


def prior_loss(
    prior: Callable[[Tensor, Tensor], Tensor],
    kind: str,
    num_codes: int,
    tokens: Tokens,
    label: Labels,
    generator: torch.Generator | None,
) -> Float[Tensor, ""]:
    """Mean -log p of the tokens, nats per token: of the masked ones given the others, or of each given those before."""
    if kind == "autoregressive":
        return F.cross_entropy(prior(tokens, label).flatten(0, 1), tokens.flatten())
    shown, hidden = mask_at_random(tokens, num_codes, generator)
    return F.cross_entropy(prior(shown, label)[hidden], tokens[hidden])


# --- Drawing ----------------------------------------------------------------------------------------------------------


def gumbel(seed: Seeds, shape: tuple[int, ...], stream: Count) -> Float32[Tensor, " batch *shape"]:
    """Gumbel noise: -log(-log(u))."""
    return -torch.log(-torch.log(uniform(seed, shape, stream)))


def guided(logits: Float[Tensor, "twice_batch *places K"], guidance: Numbers) -> Float[Tensor, "batch *places K"]:
    """u + g (c - u); the logits with a label come first."""
    both = logits.unflatten(0, (2, -1))  # chunk would be exported as a sequence, which few runtimes support
    conditional, unconditional = both[0], both[1]
    g = guidance.reshape(-1, *[1] * (logits.ndim - 1))
    return unconditional + g * (conditional - unconditional)


class Drawing(nn.Module):
    """What both kinds of drawing share. Step i uses stream i of the seed."""

    def __init__(self, prior: Prior):
        super().__init__()
        self.prior = prior

    def both(self, label: Labels, guidance: Numbers | None) -> Int64[Tensor, " maybe_twice_batch"]:
        """The labels of a forward pass; with guidance, each image appears a second time without its label."""
        return label if guidance is None else torch.cat((label, torch.full_like(label, -1)))


class MaskedDrawing(Drawing):
    """MaskGIT's decoding (section 3.3 and figure 3)."""

    def draw(
        self,
        logits: Float[Tensor, "batch L K"],
        temperature: Numbers,
        noise: Float[Tensor, "batch L K"],
    ) -> tuple[Int64[Tensor, " batch L"], Float[Tensor, " batch L"]]:
        """Tokens drawn from logits by the Gumbel trick, and the margin by which each won."""
        t = temperature.reshape(-1, 1, 1)
        best = (logits / t + noise).topk(2, dim=-1)
        return best.indices[..., 0], best.values[..., 0] - best.values[..., 1]

    def step(
        self,
        i: Count,
        tokens: Tokens,
        number: Int64[Tensor, " batch"],
        seed: Seeds,
        steps: Count,
        temperature: Numbers,
        label: Labels,
        guidance: Numbers | None,
    ) -> tuple[Tokens, Numbers]:
        """One step: tokens with fewer masks, and the smallest margin of its choices.

        1. Draw a token for every masked position.
        2. Confidence: log p of the drawn token, plus Gumbel noise that fades out over the steps.
        3. Mask the least confident again, so that cos(pi/2 (i + 1) / steps) of the `number` stay masked.
        """
        p, k = self.prior, self.prior.num_codes
        masked = tokens == k
        labels = self.both(label, guidance)
        logits = p(tokens.repeat(2, 1) if guidance is not None else tokens, labels)
        if guidance is not None:
            logits = guided(logits, guidance)
        noise = gumbel(seed, (p.places, k + 1), i)  # K for the draw, one for the choice
        drawn, won = self.draw(logits, temperature, noise[..., :k])

        done = (i + 1).to(torch.float64) / steps.to(torch.float64)
        log_p = logits.log_softmax(dim=2).gather(2, drawn.unsqueeze(2)).squeeze(2)
        fading = (p.config.choice_temperature * (1 - done)).to(torch.float32)
        confidence = log_p + fading * temperature.unsqueeze(1) * noise[..., k]
        confidence = torch.where(masked, confidence, math.inf)

        # If the number is an integer (cos is 1/2 at a third), rounding must not push it below that.
        left = torch.floor(number.to(torch.float64) * masked_share(done) + 1e-6).to(torch.int64)
        left = torch.minimum(left, masked.sum(dim=1) - 1).clamp(min=0).unsqueeze(1)  # [batch, 1]
        again = (confidence.argsort(dim=1).argsort(dim=1) < left) & masked
        next_tokens = torch.where(masked & ~again, drawn, tokens)

        surest_again = torch.where(again, confidence, -math.inf).amax(dim=1)
        least_kept = torch.where(masked & ~again, confidence, math.inf).amin(dim=1)
        margin = torch.minimum(torch.where(masked, won, math.inf).amin(dim=1), least_kept - surest_again)
        return next_tokens, margin

    def forward(
        self,
        tokens: Tokens,
        seed: Seeds,
        steps: Count,
        temperature: Numbers,
        label: Labels,
        guidance: Numbers | None = None,
    ) -> Tokens:
        """Tokens in which all masked ones (K) have been drawn; the others never change."""
        number = (tokens == self.prior.num_codes).sum(dim=1)

        def more(i: Tensor, tokens: Tensor) -> Tensor:
            return i < steps

        def body(i: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
            return i + 1, self.step(i, tokens, number, seed, steps, temperature, label, guidance)[0]

        return while_loop(more, body, (torch.zeros_like(steps), tokens))[1]

    def margins(
        self,
        tokens: Tokens,
        seed: Seeds,
        steps: Count,
        temperature: Numbers,
        label: Labels,
        guidance: Numbers | None = None,
    ) -> Numbers:
        """The smallest margin of all steps: how far the image was from a tie."""
        number = (tokens == self.prior.num_codes).sum(dim=1)
        margins = []
        for i in range(int(steps)):
            at = torch.full_like(steps, i)
            tokens, margin = self.step(at, tokens, number, seed, steps, temperature, label, guidance)
            margins.append(margin)
        return torch.stack(margins).amin(dim=0)


def may_be_drawn(
    logits: Float[Tensor, "batch K"], top_k: Numbers, top_p: Numbers
) -> tuple[Bool[Tensor, "batch K"], Float[Tensor, "batch K"]]:
    """Which of the codes may be drawn, and how far each is from the edge, in logits or in probability.

    The `top_k` likeliest, 0 for all; and of these the fewest whose probability is more than `top_p`, 1 for all
    (nucleus sampling, Holtzman et al. 2019, https://arxiv.org/abs/1904.09751); at least one.

    Args:
        logits: in descending order.
    """
    top_k, top_p, number = top_k.ceil().unsqueeze(1), top_p.unsqueeze(1), logits.shape[1]
    rank = torch.arange(number, device=logits.device)
    ranked = (rank < top_k) | (top_k == 0)
    sums = logits.masked_fill(~ranked, -math.inf).softmax(dim=1).cumsum(dim=1)
    before = F.pad(sums[:, :-1], (1, 0))  # the probability of all that are likelier
    kept = ranked & ((before <= top_p) | (top_p >= 1))

    first_out = kept.sum(dim=1, keepdim=True).clamp(max=number - 1)
    by_logit = torch.where(kept, logits - logits.gather(1, first_out), logits.gather(1, first_out - 1) - logits)
    by_logit = by_logit.masked_fill(kept[:, -1:], math.inf)
    by_share = (before - top_p).abs().masked_fill((top_p >= 1) | (rank == 0), math.inf)
    return kept, torch.minimum(by_logit, by_share)


class SequentialDrawing(Drawing):
    """One token after the other."""

    def step(
        self,
        i: Count,
        before: Int64[Tensor, " batch"],
        cache: Tensor,
        seed: Seeds,
        temperature: Numbers,
        top_k: Numbers,
        top_p: Numbers,
        label: Labels,
        guidance: Numbers | None,
    ) -> tuple[Int64[Tensor, " batch"], Tensor, Numbers]:
        """The token at position i, the cache with it, and the margin by which it won."""
        labels = self.both(label, guidance)
        entered = before if guidance is None else before.repeat(2)
        logits, cache = self.prior.next_logits(i, entered, labels, cache)
        if guidance is not None:
            logits = guided(logits, guidance)
        # In descending order, so that exactly top_k codes stay even where logits are equal.
        ordered, codes = (logits / temperature.unsqueeze(1)).sort(dim=1, descending=True)
        kept, from_edge = may_be_drawn(ordered, top_k, top_p)
        score = ordered + gumbel(seed, (self.prior.num_codes,), i).gather(1, codes)
        best = score.masked_fill(~kept, -math.inf).topk(2, dim=1)
        winner = best.indices[:, :1]
        # Another code would be drawn if the second won, if the winner could not be drawn, or if a better one could.
        better = ~kept & (score > best.values[:, :1])
        margin = torch.minimum(best.values[:, 0] - best.values[:, 1], from_edge.gather(1, winner).squeeze(1))
        margin = torch.minimum(margin, from_edge.masked_fill(~better, math.inf).amin(dim=1))
        return codes.gather(1, winner).squeeze(1), cache, margin

    def start(self, label: Labels, guidance: Numbers | None) -> tuple[Count, Tokens, Tensor]:
        """Position 0, no tokens, an empty cache."""
        tokens = label.new_zeros(label.shape[0], self.prior.places)
        return label.new_zeros(()), tokens, self.prior.empty_cache(self.both(label, guidance).shape[0])

    def forward(
        self,
        seed: Seeds,
        temperature: Numbers,
        top_k: Numbers,
        top_p: Numbers,
        label: Labels,
        guidance: Numbers | None = None,
    ) -> Tokens:
        """All tokens, from the first position to the last."""
        places = torch.arange(self.prior.places, device=label.device)

        def more(i: Tensor, tokens: Tensor, cache: Tensor) -> Tensor:
            return i < self.prior.places

        def body(i: Tensor, tokens: Tensor, cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            before = tokens.index_select(1, (i - 1).clamp(min=0).reshape(1)).squeeze(1)
            drawn, cache, _ = self.step(i, before, cache, seed, temperature, top_k, top_p, label, guidance)
            return i + 1, torch.where(places == i, drawn.unsqueeze(1), tokens), cache

        return while_loop(more, body, self.start(label, guidance))[1]

    def margins(
        self,
        seed: Seeds,
        temperature: Numbers,
        top_k: Numbers,
        top_p: Numbers,
        label: Labels,
        guidance: Numbers | None = None,
    ) -> Numbers:
        """The smallest margin of all draws."""
        i, tokens, cache = self.start(label, guidance)
        before, margins = tokens[:, 0], []
        for place in range(self.prior.places):
            before, cache, margin = self.step(
                i + place, before, cache, seed, temperature, top_k, top_p, label, guidance
            )
            margins.append(margin)
        return torch.stack(margins).amin(dim=0)
