"""Priors: draw images as tokens. One transformer, used in two ways.

- `masked`: Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer" (https://arxiv.org/abs/2202.04200): draws
  all tokens together, keeps the most confident, masks the others and draws them again, in a few steps.
- `autoregressive`: one token after the other, with a cache of keys and values, as in section 3.2 of Esser, Rombach,
  Ommer 2021 (https://arxiv.org/abs/2012.09841).

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


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, c: PriorConfig):
        super().__init__()
        self.heads = c.heads
        self.norm_1 = nn.LayerNorm(c.width)
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.proj = nn.Linear(c.width, c.width)
        self.norm_2 = nn.LayerNorm(c.width)
        self.mlp_in = nn.Linear(c.width, 4 * c.width)
        self.mlp_out = nn.Linear(4 * c.width, c.width)
        self.dropout = nn.Dropout(c.dropout)

    def split(self, x: Float[Tensor, "batch places width"]) -> tuple[Heads, Heads, Heads]:
        """Queries, keys, values."""
        q, k, v = self.qkv(self.norm_1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

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
        return x + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x)))))

    def forward(
        self, x: Float[Tensor, "batch places width"], hidden: Bool[Tensor, "places places"] | None = None
    ) -> Float[Tensor, "batch places width"]:
        return self.finish(x, *self.split(x), hidden)


class Prior(nn.Module):
    """The transformer over [label, token, token, …], and its logits for the K codes."""

    def __init__(self, c: PriorConfig, num_codes: int):
        super().__init__()
        self.config, self.num_codes, self.places = c, num_codes, c.rows * c.columns
        self.tokens = nn.Embedding(num_codes + 1, c.width)  # the last is "masked"
        self.labels = nn.Embedding(c.num_classes + 1, c.width)  # row 0 is "no label"
        self.positions = nn.Parameter(torch.zeros(self.places + 1, c.width))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width)
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
        x = torch.cat((self.labels(label + 1).unsqueeze(1), self.tokens(tokens)), dim=1) + self.positions
        if self.config.kind == "masked":
            for block in self.blocks:
                x = block(x)
            return self.logits(x[:, 1:])
        x = x[:, :-1]
        place = torch.arange(self.places, device=x.device)
        for block in self.blocks:
            x = block(x, place > place.unsqueeze(1))
        return self.logits(x)

    def logits(self, x: Float[Tensor, "*places width"]) -> Float[Tensor, "*places K"]:
        return self.head(self.norm(x))

    def empty_cache(self, number: int) -> Float[Tensor, "depth 2 batch heads L head_size"]:
        """A cache without keys and values, for this number of images."""
        c = self.config
        return self.positions.new_zeros(c.depth, 2, number, c.heads, self.places, c.width // c.heads)

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
        x = (entered + self.positions.index_select(0, i.reshape(1))).unsqueeze(1)  # [batch, 1, width]
        place = torch.arange(self.places, device=x.device)
        here = (place == i)[:, None]  # [L, 1]
        layers = []
        for i_block, block in enumerate(cast(Iterable[Block], self.blocks)):
            q, k, v = block.split(x)
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
    """What both kinds of drawing share: guided logits, and drawing a token.

    Step i uses stream i of the seed.
    """

    def __init__(self, prior: Prior):
        super().__init__()
        self.prior = prior

    def both(self, label: Labels, guidance: Numbers | None) -> Int64[Tensor, " maybe_twice_batch"]:
        """The labels of a forward pass; with guidance, each image appears a second time without its label."""
        return label if guidance is None else torch.cat((label, torch.full_like(label, -1)))

    def draw(
        self,
        logits: Float[Tensor, "batch *places K"],
        temperature: Numbers,
        noise: Float[Tensor, "batch *places K"],
    ) -> tuple[Int64[Tensor, " batch *places"], Float[Tensor, " batch *places"]]:
        """Tokens drawn from logits by the Gumbel trick, and the margin by which each won."""
        t = temperature.reshape(-1, *[1] * (logits.ndim - 1))
        best = (logits / t + noise).topk(2, dim=-1)
        return best.indices[..., 0], best.values[..., 0] - best.values[..., 1]


class MaskedDrawing(Drawing):
    """MaskGIT's decoding (section 3.3 and figure 3)."""

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


class SequentialDrawing(Drawing):
    """One token after the other."""

    def step(
        self,
        i: Count,
        before: Int64[Tensor, " batch"],
        cache: Tensor,
        seed: Seeds,
        temperature: Numbers,
        label: Labels,
        guidance: Numbers | None,
    ) -> tuple[Int64[Tensor, " batch"], Tensor, Numbers]:
        """The token at position i, the cache with it, and the margin by which it won."""
        labels = self.both(label, guidance)
        entered = before if guidance is None else before.repeat(2)
        logits, cache = self.prior.next_logits(i, entered, labels, cache)
        if guidance is not None:
            logits = guided(logits, guidance)
        drawn, won = self.draw(logits, temperature, gumbel(seed, (self.prior.num_codes,), i))
        return drawn, cache, won

    def start(self, label: Labels, guidance: Numbers | None) -> tuple[Count, Tokens, Tensor]:
        """Position 0, no tokens, an empty cache."""
        tokens = label.new_zeros(label.shape[0], self.prior.places)
        return label.new_zeros(()), tokens, self.prior.empty_cache(self.both(label, guidance).shape[0])

    def forward(self, seed: Seeds, temperature: Numbers, label: Labels, guidance: Numbers | None = None) -> Tokens:
        """All tokens, from the first position to the last."""
        places = torch.arange(self.prior.places, device=label.device)

        def more(i: Tensor, tokens: Tensor, cache: Tensor) -> Tensor:
            return i < self.prior.places

        def body(i: Tensor, tokens: Tensor, cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            before = tokens.index_select(1, (i - 1).clamp(min=0).reshape(1)).squeeze(1)
            drawn, cache, _ = self.step(i, before, cache, seed, temperature, label, guidance)
            return i + 1, torch.where(places == i, drawn.unsqueeze(1), tokens), cache

        return while_loop(more, body, self.start(label, guidance))[1]

    def margins(self, seed: Seeds, temperature: Numbers, label: Labels, guidance: Numbers | None = None) -> Numbers:
        """The smallest margin of all draws."""
        i, tokens, cache = self.start(label, guidance)
        before, margins = tokens[:, 0], []
        for place in range(self.prior.places):
            before, cache, won = self.step(i + place, before, cache, seed, temperature, label, guidance)
            margins.append(won)
        return torch.stack(margins).amin(dim=0)
