"""Vector quantisation: continuous latents to codes of a codebook and back.

Source: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017
(https://arxiv.org/abs/1711.00937): equation 1 (nearest code), equation 3 (the loss terms),
section 3.2 (straight-through), appendix A.1 (codebook by moving averages).

Only maths: no files, no devices, no hidden randomness. The symbols are the paper's: `z_e` is the encoder's output, `e`
the codebook, `z_q` the quantised latent.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int, Int64, Shaped
from torch import Tensor, nn


def nearest_code(
    z_e: Float[Tensor, "*places code_size"], e: Float[Tensor, "num_codes code_size"]
) -> Int64[Tensor, "*places"]:
    """Index of the nearest code of each latent (equation 1).

    |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 is the same for every code, so one matrix product
    ranks the codes. `cdist` gives the same ranking but is exported as a graph that first builds the
    [latents, codes, size] difference tensor.

    Returns:
        0 .. num_codes - 1; the lowest index if codes tie.
    """
    flat = z_e.reshape(-1, e.shape[1])  # a matrix, so that product and sum are exported as one Gemm
    distances = F.linear(-2 * flat, e, bias=e.pow(2).sum(dim=1))  # [latents, num_codes], the only large tensor
    return distances.argmin(dim=1).reshape(z_e.shape[:-1])


def straight_through(z_e: Float[Tensor, "*shape"], z_q: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`z_q` in the forward pass; the gradient of the result goes to `z_e` unchanged (section 3.2)."""
    return z_e + (z_q - z_e).detach()


def codebook_loss(z_e: Float[Tensor, "*shape"], z_q: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """||sg[z_e] - e||^2, mean over elements: pulls codes to latents (equation 3, second term)."""
    return F.mse_loss(z_q, z_e.detach())


def commitment_loss(z_e: Float[Tensor, "*shape"], z_q: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """||z_e - sg[e]||^2, mean over elements: pulls latents to codes (equation 3, third term, without beta)."""
    return F.mse_loss(z_e, z_q.detach())


def perplexity(counts: Shaped[Tensor, " num_codes"]) -> Float64[Tensor, ""]:
    """exp(entropy) of code frequencies: 1 if only one code is used, num_codes if all are used equally.

    Args:
        counts: how often each code was used; the sum must be positive.
    """
    p = counts.double() / counts.double().sum()
    return torch.special.entr(p).sum().exp()


def ema_update(average: Float[Tensor, "*shape"], value: Float[Tensor, "*shape"], decay: float) -> None:
    """average <- decay * average + (1 - decay) * value, in place (appendix A.1, equations 6 and 7)."""
    average.mul_(decay).add_(value, alpha=1 - decay)


class Quantized(NamedTuple):
    z_q: Float[Tensor, "*places code_size"]  # in training, its gradient goes straight to z_e
    indices: Int64[Tensor, "*places"]
    losses: dict[str, Tensor]  # named scalar terms, without weights; empty in evaluation


class VectorQuantizer(nn.Module):
    """The codebook, and how it learns.

    Two ways to learn it: `ema`, moving averages of the latents that chose a code, no gradient
    (appendix A.1), and `loss`, gradient descent on `codebook_loss` (equation 3). With `ema`, a code
    that is hardly ever chosen any more is *restarted*: it becomes a random latent of the current batch
    with new averages, since otherwise it would never be the nearest of any latent again.

    Departs from the paper: restarts; the counts are smoothed (Laplace, `epsilon`) only in the
    division, as in Sonnet, so that rare codes do not blow up.

    With several processes, sums are added over all of them and rank 0 draws the restarts, so every
    process has the same codebook without DDP's help.
    """

    codebook: Tensor
    cluster_size: Tensor  # N_i, moving; only for `ema`
    cluster_sum: Tensor  # m_i, moving; only for `ema`

    def __init__(
        self,
        num_codes: int,
        code_size: int,
        *,
        learn: str = "ema",
        decay: float = 0.99,
        epsilon: float = 1e-5,
        restart_below: float = 0.05,
    ):
        """
        Args:
            learn: `ema` or `loss`.
            decay: of the moving averages, 0 .. 1.
            epsilon: Laplace smoothing of the counts.
            restart_below: a code is dead if its moving count falls below this share of the mean count; 0: never.
        """
        super().__init__()
        if learn not in ("ema", "loss"):
            raise ValueError(f"learn is '{learn}'; it must be 'ema' or 'loss'")
        self.learn, self.decay, self.epsilon, self.restart_below = learn, decay, epsilon, restart_below
        codebook = torch.empty(num_codes, code_size).uniform_(-1, 1) / code_size**0.5
        if learn == "loss":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("cluster_size", torch.zeros(num_codes))
            self.register_buffer("cluster_sum", torch.zeros(num_codes, code_size))

    def decode(self, indices: Int[Tensor, "*places"]) -> Float[Tensor, "*places code_size"]:
        """Indices to their codes."""
        return F.embedding(indices, self.codebook)

    def forward(self, z_e: Float[Tensor, "*places code_size"], generator: torch.Generator | None = None) -> Quantized:
        """Quantises; in training mode, also learns the codebook (`ema`) or returns its loss (`loss`).

        Args:
            generator: CPU generator that draws the latents for restarted codes; None: torch's global one.
        """
        indices = nearest_code(z_e, self.codebook)
        z_q = self.decode(indices)
        losses: dict[str, Tensor] = {}
        if self.training:
            losses["commitment"] = commitment_loss(z_e, z_q)
            if self.learn == "loss":
                losses["codebook"] = codebook_loss(z_e, z_q)
            else:
                self._learn_by_averages(z_e.detach().flatten(0, -2).float(), indices.flatten(), generator)
        return Quantized(straight_through(z_e, z_q), indices, losses)

    @torch.no_grad()
    def _learn_by_averages(
        self,
        latents: Float[Tensor, "latents code_size"],
        indices: Int64[Tensor, " latents"],
        generator: torch.Generator | None,
    ) -> None:
        num_codes = self.codebook.shape[0]
        counts = torch.bincount(indices, minlength=num_codes).to(latents)  # n_i
        sums = torch.zeros_like(self.cluster_sum).index_add_(0, indices, latents)  # sum of the latents of code i
        if dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        ema_update(self.cluster_size, counts, self.decay)
        ema_update(self.cluster_sum, sums, self.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.epsilon) / (total + num_codes * self.epsilon) * total
        self.codebook.copy_(self.cluster_sum / smoothed.unsqueeze(1))
        self._restart_dead_codes(latents, total / num_codes, generator)

    def _restart_dead_codes(
        self,
        latents: Float[Tensor, "latents code_size"],
        mean_size: Float[Tensor, ""],
        generator: torch.Generator | None,
    ) -> None:
        dead = self.cluster_size < self.restart_below * mean_size
        if not dead.any():
            return
        chosen = torch.randint(len(latents), (int(dead.sum()),), generator=generator).to(latents.device)
        fresh = latents[chosen]
        if dist.is_initialized():
            dist.broadcast(fresh, src=0)
        # The averages restart too: with the old ones, the next update would undo the restart.
        self.codebook[dead] = fresh
        self.cluster_size[dead] = mean_size
        self.cluster_sum[dead] = fresh * mean_size
