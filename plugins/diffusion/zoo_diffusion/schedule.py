r"""The forward process: how a picture turns to noise, step by step and in one go.

Sources: Ho, Jain, Abbeel 2020 (https://arxiv.org/abs/2006.11239), equations 2 and 4; Nichol and Dhariwal 2021
(https://arxiv.org/abs/2102.09672), section 3.2 (cosine); Kingma et al. 2021 (https://arxiv.org/abs/2107.00630) for the
log signal-to-noise ratio; Salimans and Ho 2022 (https://arxiv.org/abs/2202.00512), appendix D, for v.

    one step    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)
    t steps     q(x_t | x_0)     = N(sqrt(abar_t) x_0, (1 - abar_t) I),    abar_t = product of (1 - beta_s), s <= t

Two things that popular accounts get wrong. A step *scales the picture down* as well as adding noise: that keeps the
variance at 1 (variance-preserving); with addition alone it would grow without bound. And what the process ends in is
*Gaussian* noise, independent for each pixel, not uniform noise: sums of many small Gaussians are Gaussian.

Timesteps count from 0: t = 0 is one step of noise, t = T - 1 all of them. `alpha` is sqrt(abar) and `sigma` is
sqrt(1 - abar), so x_t = alpha_t x_0 + sigma_t eps.
"""

import math

import torch
from torch import Tensor

from .config import DiffusionConfig


def betas(c: DiffusionConfig) -> Tensor:
    """beta_t for t = 0 .. T-1, float64."""
    T = c.num_timesteps
    if c.schedule == "linear":  # Ho et al. 2020, section 4
        beta = torch.linspace(c.beta_start, c.beta_end, T, dtype=torch.float64)
    elif c.schedule == "scaled_linear":  # linear in the square root: latent diffusion
        beta = torch.linspace(c.beta_start**0.5, c.beta_end**0.5, T, dtype=torch.float64).square()
    elif c.schedule == "sigmoid":  # Xu et al. 2022 (GeoDiff)
        beta = torch.sigmoid(torch.linspace(-6, 6, T, dtype=torch.float64))
        beta = beta * (c.beta_end - c.beta_start) + c.beta_start
    else:  # cosine: Nichol and Dhariwal 2021, equation 17; beta at most 0.999
        u = torch.arange(T + 1, dtype=torch.float64) / T
        f = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
        beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return zero_terminal_snr(beta) if c.zero_terminal_snr else beta


def zero_terminal_snr(beta: Tensor) -> Tensor:
    """The schedule shifted and scaled so that its last abar is 0 and its first stays: Lin et al. 2023, algorithm 1."""
    root = alphas_bar(beta).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = root.square()
    return 1 - torch.cat((abar[:1], abar[1:] / abar[:-1]))


def alphas_bar(beta: Tensor) -> Tensor:
    """abar_t, the share of the picture's variance that is left after t + 1 steps; [T]."""
    return torch.cumprod(1 - beta, dim=0)


def log_snr(abar: Tensor) -> Tensor:
    """log(alpha^2 / sigma^2); half of it is DPM-Solver's lambda."""
    return torch.log(abar) - torch.log1p(-abar)


def diffuse(x0: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """A sample of q(x_t | x_0): sqrt(abar) x_0 + sqrt(1 - abar) eps (equation 4).

    Args:
        x0: pictures, -1 .. 1, [N, C, H, W].
        eps: standard normal noise of the same shape.
        abar: [N], of each picture's timestep.
    """
    abar = abar[:, None, None, None]
    return abar.sqrt() * x0 + (1 - abar).sqrt() * eps


def velocity(x0: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """v = alpha eps - sigma x_0: the target of v-prediction. Arguments as for `diffuse`."""
    abar = abar[:, None, None, None]
    return abar.sqrt() * eps - (1 - abar).sqrt() * x0
