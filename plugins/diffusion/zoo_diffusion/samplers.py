"""From noise to a picture: how one step of each sampler is taken.

Sources: Ho, Jain, Abbeel 2020 (DDPM, https://arxiv.org/abs/2006.11239); Song, Meng, Ermon 2021 (DDIM,
https://arxiv.org/abs/2010.02502); Lu et al. 2022 (DPM-Solver++, https://arxiv.org/abs/2211.01095); Ho and Salimans 2022
(guidance, https://arxiv.org/abs/2207.12598); Salimans and Ho 2022 (v, https://arxiv.org/abs/2202.00512).

All three samplers are linear in what a step has at hand, so a sampler is a function from two points of the forward
process to five numbers (`Step`), and taking a step is one sum (`advance`). A point is (alpha, sigma) with
x_t = alpha x_0 + sigma eps; the end of the way is (1, 0). Nothing here knows of networks, devices, files or random
numbers. A step leads from the point `here` to `there`, which has less noise.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

Number = Any  # float or Tensor


class Point(NamedTuple):
    """A place of the forward process: x = alpha x_0 + sigma eps. Where tensors, then of one shape."""

    alpha: Number
    sigma: Number


class Step(NamedTuple):
    """What each ingredient counts in the next x; see `advance`."""

    x: Number = 0.0
    x0: Number = 0.0
    eps: Number = 0.0
    previous_x0: Number = 0.0
    noise: Number = 0.0

    def without_eps(self, here: Point) -> "Step":
        """The same step with eps = (x - alpha x0) / sigma put in."""
        share = self.eps / here.sigma
        return Step(self.x + share, self.x0 - share * here.alpha, 0.0, self.previous_x0, self.noise)


class Predicted(NamedTuple):
    """What the network's output says of the noisy picture: its two parts."""

    x0: Tensor
    eps: Tensor


# --- What the network says --------------------------------------------------------------------------------------------


def x0_weights(prediction: str, here: Point) -> tuple[Number, Number]:
    """(a, b) with x0 = a x + b output, for a network that predicts `epsilon`, `x0` or `v`."""
    if prediction == "epsilon":
        return 1 / here.alpha, -here.sigma / here.alpha
    if prediction == "x0":
        return 0 * here.alpha, 0 * here.alpha + 1
    return here.alpha, -here.sigma


def predicted(prediction: str, x: Tensor, output: Tensor, here: Point, *, clip: bool) -> Predicted:
    """The picture and the noise that the output implies.

    Where the picture is clipped to -1 .. 1, the noise is that of the clipped picture, as in Dhariwal and Nichol's code:
    alpha x0 + sigma eps = x stays true. (diffusers keeps the network's noise, unless `use_clipped_model_output`.)
    """
    a, b = x0_weights(prediction, here)
    x0 = a * x + b * output
    if clip:
        x0 = x0.clamp(-1, 1)
    return Predicted(x0, (x - here.alpha * x0) / here.sigma)


def guided(unconditional: Tensor, conditional: Tensor, guidance: Number, channels: int = 0) -> Tensor:
    """u + g (c - u): 0 is unconditional, 1 plain, more exaggerates it (Ho and Salimans 2022, equation 6: w = g-1).

    Args:
        channels: guide only the first so many, the others are the conditional ones; 0 guides all.
    """
    if channels:
        first = guided(unconditional[:, :channels], conditional[:, :channels], guidance)
        return torch.cat((first, conditional[:, channels:]), dim=1)
    return unconditional + guidance * (conditional - unconditional)


# --- One step ---------------------------------------------------------------------------------------------------------


def advance(step: Step, x: Tensor, x0: Tensor, eps: Tensor, previous_x0: Tensor, noise: Tensor) -> Tensor:
    """The next x.

    Args:
        x: where the step starts, x_t.
        x0, eps: what the network says of it.
        previous_x0: what it said in the step before; in the first step, x0 itself.
        noise: standard normal, fresh for each step.
    """
    return step.x * x + step.x0 * x0 + step.eps * eps + step.previous_x0 * previous_x0 + step.noise * noise


def ddpm(here: Point, there: Point, *, variance: str = "small") -> Step:
    """Ancestral sampling: q(x_next | x_t, x0), Ho et al. 2020, equations 6 and 7, between any two points.

    `variance`: `small` is beta-tilde of equation 7, `large` is beta (section 3.2: the two extremes).
    """
    ratio = (here.alpha / there.alpha) ** 2  # 1 - beta of this step
    beta = 1 - ratio
    small = there.sigma**2 / here.sigma**2 * beta
    return Step(
        x=ratio**0.5 * there.sigma**2 / here.sigma**2,
        x0=there.alpha * beta / here.sigma**2,
        noise=(small if variance == "small" else beta) ** 0.5,
    )


def learned_deviation(small: Number, large: Number, v: Tensor) -> Tensor:
    """The noise's standard deviation where the network predicts it: Nichol and Dhariwal 2021, equation 15.

    Args:
        small, large: the two extremes of `ddpm`; both 0 where no noise is to be added.
        v: the network's second half, about -1 .. 1; -1 gives `small`.
    """
    # In logarithms, with something for that of 0: 0 ** (1 - share) is infinite where v is over 1, as it may be.
    low, high = (torch.as_tensor(deviation).clamp(min=1e-20).log() for deviation in (small, large))
    return torch.exp(low + (v + 1) / 2 * (high - low))


def ddim(here: Point, there: Point, *, eta: float = 0.0) -> Step:
    """Song et al. 2021, equations 12 and 16: eta 0 adds no noise, eta 1 as much as `ddpm` with the small variance."""
    deviation = eta * there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2) ** 0.5
    return Step(x0=there.alpha, eps=(there.sigma**2 - deviation**2) ** 0.5, noise=deviation)


def dpm_solver_2m(before: Point | None, here: Point, there: Point) -> Step:
    """DPM-Solver++(2M): Lu et al. 2022, algorithm 2, equations 16 to 18.

    Args:
        before: the point of the step before, whose x0 is `previous_x0`; None in the first step and in the last, which
            are of first order (to the end, lambda is infinite). First order is DDIM with eta 0.
    """
    # alpha' (1 - exp(-h)) with h = lambda' - lambda, lambda = log(alpha / sigma), without a logarithm of 0.
    reach = there.alpha - here.alpha * there.sigma / here.sigma
    if before is None:
        return Step(x=there.sigma / here.sigma, x0=reach)
    half_ratio = extrapolation(before, here, there)
    return Step(x=there.sigma / here.sigma, x0=reach * (1 + half_ratio), previous_x0=-reach * half_ratio)


def extrapolation(before: Point, here: Point, there: Point) -> Number:
    """1 / (2 r) with r = (lambda_here - lambda_before) / (lambda_there - lambda_here)."""
    a, b, c = (_lambda(point) for point in (before, here, there))
    return (c - b) / (2 * (b - a))


def _lambda(point: Point) -> Tensor:
    """Half the log signal-to-noise ratio; finite also for pure noise."""
    alpha, sigma = (torch.as_tensor(value, dtype=torch.float64).clamp(min=1e-30) for value in point)
    return alpha.log() - sigma.log()


# --- Which timesteps --------------------------------------------------------------------------------------------------


def timesteps(spacing: str, i: Tensor, steps: Tensor, total: int) -> Tensor:
    """The timestep, int64 0 .. total - 1, that step i (0 .. steps - 1) of `steps` starts from; falling in i.

    trailing: total - 1 first, evenly down (Lin et al. 2023, table 2). leading: ends at 0. linspace: evenly between
    both, total - 1 first, and the way's last stretch leads from above 0 to the end (from 0 where all are taken).
    """
    if spacing == "leading":
        stride = torch.full_like(steps, total) // steps  # torch's exporter divides no number by a tensor
        return ((steps - 1 - i) * stride).clamp(0, total - 1)
    top = total if spacing == "trailing" else total - 1
    t = torch.round(top - i.to(torch.float64) * (top / steps.clamp(max=top).to(torch.float64))).to(torch.int64)
    return (t - 1 if spacing == "trailing" else t).clamp(0, total - 1)
