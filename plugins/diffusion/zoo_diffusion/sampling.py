r"""Sampling, as in the exported graphs: from a seed to an image, top to bottom.

    the process    q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I)      `betas`, `alphas_bar`, `diffuse`
    timesteps      those of T at which the steps start             `timesteps`
                   and, of noise levels between them               `at_levels`, `karras`, `lcm_timesteps`, `flow_times`
    prediction     x_0, from a network that gives eps, x_0 or v    `x0_weights`, `guided`, `learned_deviation`
    a step         x_s from x_t, x_0 and noise z, s < t            `ddpm`, `ddim`, `heun`, `dpm_solver_2m`,
                                                                   `sde_dpm_solver_2m`, `plms`, `unipc`, `lcm`,
                                                                   `consistency`
    the loop                                                       `Sampler`, `Generate`

Sources, abbreviated below:

    Ho          Ho, Jain, Abbeel 2020, DDPM                         https://arxiv.org/abs/2006.11239
    Nichol      Nichol and Dhariwal 2021, improved DDPM             https://arxiv.org/abs/2102.09672
    Song        Song, Meng, Ermon 2021, DDIM                        https://arxiv.org/abs/2010.02502
    Kingma      Kingma, Salimans, Poole, Ho 2021, VDM               https://arxiv.org/abs/2107.00630
    Salimans    Salimans and Ho 2022, v-prediction                  https://arxiv.org/abs/2202.00512
    Guidance    Ho and Salimans 2022, classifier-free guidance      https://arxiv.org/abs/2207.12598
    Lu          Lu et al. 2022, DPM-Solver++                        https://arxiv.org/abs/2211.01095
    Karras      Karras et al. 2022, EDM                             https://arxiv.org/abs/2206.00364
    PNDM        Liu, Ren, Lin, Zhao 2022, pseudo numerical methods  https://arxiv.org/abs/2202.09778
    Zhao        Zhao et al. 2023, UniPC                             https://arxiv.org/abs/2302.04867
    Consistency Song, Dhariwal, Chen, Sutskever 2023                https://arxiv.org/abs/2303.01469
    Lin         Lin et al. 2023, zero terminal SNR                  https://arxiv.org/abs/2305.08891
    Liu         Liu, Gong, Liu 2022, rectified flow                 https://arxiv.org/abs/2209.03003
    Luo         Luo et al. 2023, latent consistency models          https://arxiv.org/abs/2310.04378
    Kynkaanniemi   Kynkäänniemi et al. 2024, guidance's interval    https://arxiv.org/abs/2404.07724
    Esser       Esser et al. 2024, Stable Diffusion 3               https://arxiv.org/abs/2403.03206

Symbols: alpha_bar_t is Ho's, the product of (1 - beta_s) for s <= t. alpha_t = sqrt(alpha_bar_t) and
sigma_t = sqrt(1 - alpha_bar_t) are Kingma's and Lu's, so x_t = alpha_t x_0 + sigma_t eps; Ho's alpha_t = 1 - beta_t is
not used. lambda_t = log(alpha_t / sigma_t). A step goes from t to s, which has less noise: Ho's s is t - 1, here it is
any timestep before t, or the end, the clean image, where alpha = 1 and sigma = 0. Timesteps count from 0: t = 0 is one
step of noise, t = T - 1 all of them.

A rectified flow (Liu) is another process, x_t = (1 - t) x_0 + t eps with t in 0 .. 1: alpha = 1 - t, sigma = t.
Samplers only see alpha and sigma, and none but `lcm` needs a schedule's timesteps. Euler's method in k-diffusion's
coordinates, x / alpha and sigma / alpha, is DDIM without noise between the same places; with ancestral noise it is DDIM
with eta 1. So only the places are its own. Euler's method on a flow is DDIM without noise too.

Two common misconceptions: A step of the process *scales the image down* as well as adding noise, which keeps the
variance at 1; if noise were only added, it would grow without bound. And the process ends in *Gaussian* noise,
independent for each pixel, not in uniform noise: sums of many small Gaussians are Gaussian.

Every sampler here is linear in x_t, x_0, the x_0 of the previous step, and z; two of them in what earlier steps gave
too. So a sampler is a function from points of the process to a few weights. They only depend on the schedule, and are
computed for all steps before the loop, in float64; the loop itself is the network and one sum.

A step is one pass of the network, whatever the sampler, so that samplers are compared at equal cost. Two of them pass
twice between two places: once to go there, once more to correct x where it arrived.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from torch import Tensor, nn

from zoo.build.loop import while_loop
from zoo.build.random import normal

from .config import K_DIFFUSION, LCM_STEPS, DiffusionConfig, Picture
from .pixels import to_uint8
from .ports import MEMORY, PLAN_COLUMNS, adds_noise
from .unet import halves

# --- The process ------------------------------------------------------------------------------------------------------


def betas(c: DiffusionConfig) -> Float64[Tensor, " T"]:
    """beta_t of q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I): Ho, equation 2."""
    T = c.num_timesteps
    if c.schedule == "linear":  # Ho, section 4
        beta = torch.linspace(c.beta_start, c.beta_end, T, dtype=torch.float64)
    elif c.schedule == "scaled_linear":  # linear in the square root, as in latent diffusion
        beta = torch.linspace(c.beta_start**0.5, c.beta_end**0.5, T, dtype=torch.float64).square()
    elif c.schedule == "sigmoid":  # Xu et al. 2022 (GeoDiff)
        beta = torch.sigmoid(torch.linspace(-6, 6, T, dtype=torch.float64))
        beta = beta * (c.beta_end - c.beta_start) + c.beta_start
    else:  # cosine: Nichol, equation 17; beta at most 0.999
        u = torch.arange(T + 1, dtype=torch.float64) / T
        f = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
        beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return zero_terminal_snr(beta) if c.zero_terminal_snr else beta


def zero_terminal_snr(beta: Float64[Tensor, " T"]) -> Float64[Tensor, " T"]:
    """The schedule shifted and scaled so that its last alpha_bar is 0 and its first is unchanged: Lin, algorithm 1."""
    alpha = alphas_bar(beta).sqrt()
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    alpha_bar = alpha.square()
    return 1 - torch.cat((alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]))


def alphas_bar(beta: Float64[Tensor, " T"]) -> Float64[Tensor, " T"]:
    """alpha_bar_t = prod (1 - beta_s), s <= t: the share of x_0's variance that remains after t + 1 steps."""
    return torch.cumprod(1 - beta, dim=0)


class Point(NamedTuple):
    """One or several points of the process: x_t = alpha x_0 + sigma eps."""

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, alpha_bar: Float[Tensor, "*places"]) -> "Point":
        return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())


def at_level(level: Float64[Tensor, "*places"]) -> Point:
    """The place where sigma / alpha is this, and alpha^2 + sigma^2 = 1."""
    alpha = (1 + level**2).rsqrt()
    return Point(alpha, alpha * level)


def flow(t: Float[Tensor, "*places"]) -> Point:
    """The place of a rectified flow at time t, 0 the image and 1 the noise: Liu, equation 1."""
    return Point(1 - t, t)


def lambda_(t: Point) -> Float64[Tensor, "*places"]:
    """log(alpha_t / sigma_t), half the log signal-to-noise ratio; finite even at both ends of the process."""
    return t.alpha.clamp(min=1e-30).log() - t.sigma.clamp(min=1e-30).log()


def diffuse(x0: Float[Tensor, "*image"], eps: Float[Tensor, "*image"], t: Point) -> Float[Tensor, "*image"]:
    """x_t = alpha_t x_0 + sigma_t eps, a sample of q(x_t | x_0): Ho, equation 4. `t` broadcasts to the images."""
    return t.alpha * x0 + t.sigma * eps


# --- Timesteps --------------------------------------------------------------------------------------------------------


def timesteps(spacing: str, i: Int64[Tensor, " n"], steps: Int64[Tensor, ""], T: int) -> Int64[Tensor, " n"]:
    """The timestep, 0 .. T - 1, at which step i (0 .. steps - 1) of `steps` starts; it decreases with i.

    trailing: T - 1 first, then evenly down (Lin, table 2). leading: ends at 0. linspace: evenly spaced in between, T -
    1 first, and the last step goes from above 0 to the end (from 0 if all T are used).
    """
    if spacing == "leading":
        stride = torch.full_like(steps, T) // steps  # torch's exporter cannot divide a number by a tensor
        return ((steps - 1 - i) * stride).clamp(0, T - 1)
    top = T if spacing == "trailing" else T - 1
    t = torch.round(top - i.to(torch.float64) * (top / steps.clamp(max=top).to(torch.float64))).to(torch.int64)
    return (t - 1 if spacing == "trailing" else t).clamp(0, T - 1)


def linspace(i: Int64[Tensor, " n"], steps: Int64[Tensor, ""]) -> Float64[Tensor, " n"]:
    """1 .. 0 over the steps, both included: k-diffusion's spacing; of a single step 0, as NumPy's linspace."""
    return (steps - 1 - i).clamp(min=0).to(torch.float64) / (steps - 1).clamp(min=1).to(torch.float64)


def flow_times(
    spacing: str, shift: float, i: Int64[Tensor, " n"], steps: Int64[Tensor, ""], T: int
) -> Float64[Tensor, " n"]:
    """The time, 0 .. 1, at which step i starts; `shift` moves it towards 1: Esser, equation 23.

    trailing: 1 first, then evenly down. linspace: from 1 to the first timestep of T, which is shifted too, as diffusers
    has it.
    """
    if spacing == "trailing":
        t = 1 - i.to(torch.float64) / steps.to(torch.float64)
    else:
        least = shifted(torch.full((), 1 / T, dtype=torch.float64), shift)
        share = torch.where(steps > 1, linspace(i, steps), 1.0)
        t = least + share * (1 - least)
    return shifted(t.clamp(min=0), shift)


def shifted(t: Float64[Tensor, "*times"], shift: float) -> Float64[Tensor, "*times"]:
    return shift * t / (1 + (shift - 1) * t)


def lcm_timesteps(i: Int64[Tensor, " n"], steps: Int64[Tensor, ""], T: int) -> Int64[Tensor, " n"]:
    """Some of the 50 trailing timesteps, at which the model was distilled: Luo, section 4.3."""
    most = torch.full_like(steps, LCM_STEPS)
    return ((LCM_STEPS - (i * most) // steps) * (T // LCM_STEPS) - 1).clamp(0, T - 1)


def at_levels(levels: Float64[Tensor, " T"], t: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """The noise level sigma / alpha at timesteps that need not be whole, linearly between those of the schedule."""
    low = t.floor().clamp(0, len(levels) - 2)
    share, low = t - low, low.to(torch.int64)
    return (1 - share) * levels.index_select(0, low) + share * levels.index_select(0, low + 1)


def karras(
    share: Float64[Tensor, " n"], least: Float64[Tensor, ""], most: Float64[Tensor, ""], rho: float = 7.0
) -> Float64[Tensor, " n"]:
    """Noise levels from `most`, at share 1, to `least`, at 0: Karras, equation 5."""
    low, high = least ** (1 / rho), most ** (1 / rho)
    return (low + share * (high - low)) ** rho


def timestep_of(level: Float64[Tensor, " n"], levels: Float64[Tensor, " T"]) -> Float64[Tensor, " n"]:
    """The inverse of a schedule's levels, linearly in their logarithm between two timesteps."""
    log, logs = level.log(), levels.log()
    low = ((log[:, None] >= logs[None]).to(torch.int64).sum(dim=1) - 1).clamp(0, len(levels) - 2)
    low_log, high_log = logs.index_select(0, low), logs.index_select(0, low + 1)
    return low + ((log - low_log) / (high_log - low_log)).clamp(0, 1)


# --- Prediction -------------------------------------------------------------------------------------------------------


@runtime_checkable
class Denoiser(Protocol):
    """A network (unet.py, dit.py): its prediction for x_t, with as many channels, or twice as many if it also predicts
    the variance. `t` is in the network's own scale; `label` -1: no label, None if it has no labels."""

    @property
    def config(self) -> Picture: ...

    def __call__(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Float[Tensor, " batch"],
        label: Int64[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch channels_out height width"]: ...


def velocity(x0: Float[Tensor, "*image"], eps: Float[Tensor, "*image"], t: Point) -> Float[Tensor, "*image"]:
    """v = alpha_t eps - sigma_t x_0: Salimans, appendix D."""
    return t.alpha * eps - t.sigma * x0


def x0_weights(prediction: str, t: Point) -> tuple[Float64[Tensor, "*places"], Float64[Tensor, "*places"]]:
    """(a, b) with x_0 = a x_t + b output, for a network whose output is `epsilon`, `x0`, `v` or `flow`."""
    if prediction == "epsilon":  # Ho, equation 15
        return 1 / t.alpha, -t.sigma / t.alpha
    if prediction == "x0":
        return torch.zeros_like(t.alpha), torch.ones_like(t.alpha)
    if prediction == "flow":  # eps - x_0, at x_t = (1 - t) x_0 + t eps: Liu, equation 1
        return torch.ones_like(t.alpha), -t.sigma
    return t.alpha, -t.sigma  # Salimans, appendix D


def guided(
    unconditional: Float[Tensor, "batch channels height width"],
    conditional: Float[Tensor, "batch channels height width"],
    guidance: Float[Tensor, "#batch"],
    channels: int = 0,
    rescale: float = 0.0,
) -> Float[Tensor, "batch channels height width"]:
    """u + g (c - u): 0 is unconditional, 1 plain, more exaggerates the label (Guidance, equation 6, with w = g - 1).

    Args:
        channels: only guide this many channels and leave the others conditional; 0: guide all.
        rescale: 0 .. 1, how far the result gets the standard deviation of `conditional`: Lin, equations 14 to 16.
    """
    if channels:
        first = guided(unconditional[:, :channels], conditional[:, :channels], guidance, 0, rescale)
        return torch.cat((first, conditional[:, channels:]), dim=1)
    output = unconditional + guidance[:, None, None, None] * (conditional - unconditional)
    if not rescale:
        return output
    wanted, found = (part.std(dim=(1, 2, 3), keepdim=True) for part in (conditional, output))
    return rescale * (output * (wanted / found)) + (1 - rescale) * output


def learned_deviation(
    small: Float[Tensor, ""], large: Float[Tensor, ""], v: Float[Tensor, "*image"]
) -> Float[Tensor, "*image"]:
    """The noise's standard deviation if the network predicts it: Nichol, equation 15.

    Args:
        small, large: the two extremes, from `ddpm`; both 0 if no noise is added.
        v: the second half of the network's output, about -1 .. 1; -1 gives `small`, 1 `large`.
    """
    # Logarithms as in the paper: 0 ** (1 - share) would be infinite if v is over 1, which can happen.
    low, high = small.clamp(min=1e-20).log(), large.clamp(min=1e-20).log()
    return torch.exp(low + (v + 1) / 2 * (high - low))


# --- A step: one function per sampler ---------------------------------------------------------------------------------


class Step(NamedTuple):
    """x_s = x * x_t + x0 * x_0 + previous_x0 * (the x_0 of the previous step) + noise * z, with z ~ N(0, I)."""

    x: Tensor
    x0: Tensor
    previous_x0: Tensor
    noise: Tensor
    noise_large: Tensor  # upper bound of the noise if the network predicts its amount; `noise` is the lower one
    earlier: tuple[Tensor, ...] = ()  # the weights of what the sampler remembers besides, newest first


def either(condition: Bool[Tensor, " n"], yes: Step, no: Step) -> Step:
    """For each place, one of two steps of a sampler."""

    def chosen(yes: Sequence[Tensor], no: Sequence[Tensor]) -> list[Tensor]:
        return [torch.where(condition, a, b) for a, b in zip(yes, no, strict=True)]

    return Step(*chosen(yes[:-1], no[:-1]), earlier=tuple(chosen(yes.earlier, no.earlier)))


def between(s: Point, t: Point) -> Float64[Tensor, "*places"]:
    """The variance of q(x_t | x_s), 1 - (alpha_t / alpha_s)^2 if alpha^2 + sigma^2 = 1: Kingma, appendix A.1."""
    return t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2


def ddpm(t: Point, s: Point, variance: str = "small") -> Step:
    """A draw from q(x_s | x_t, x_0): Ho, equations 6 and 7.

    Args:
        variance: `small` is beta_tilde, `large` is beta: the two extremes of section 3.2.
    """
    alpha_ts = t.alpha / s.alpha
    beta = between(s, t)
    beta_tilde = s.sigma**2 / t.sigma**2 * beta  # (1 - alpha_bar_s) / (1 - alpha_bar_t) beta
    return Step(
        x=alpha_ts * s.sigma**2 / t.sigma**2,  # sqrt(1 - beta) (1 - alpha_bar_s) / (1 - alpha_bar_t)
        x0=s.alpha * beta / t.sigma**2,  # sqrt(alpha_bar_s) beta / (1 - alpha_bar_t)
        previous_x0=torch.zeros_like(beta),
        noise=(beta if variance == "large" else beta_tilde).sqrt(),
        noise_large=beta.sqrt(),
    )


def ddim(t: Point, s: Point, eta: float = 0.0) -> Step:
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - sigma^2) eps + sigma z: Song, equation 12.

    Args:
        eta: 0 adds no noise, 1 as much as `ddpm` with the small variance (equation 16).
    """
    sigma = eta * s.sigma / t.sigma * between(s, t).clamp(min=0).sqrt()  # equation 16
    # eps = (x_t - alpha_t x_0) / sigma_t, put into equation 12.
    eps_over_sigma_t = (s.sigma**2 - sigma**2).sqrt() / t.sigma
    nothing = torch.zeros_like(sigma)
    return Step(
        x=eps_over_sigma_t,
        x0=s.alpha - eps_over_sigma_t * t.alpha,
        previous_x0=nothing,
        noise=sigma,
        noise_large=nothing,
    )


def heun(t: Point, s: Point, *, straight: bool) -> Step:
    """The second half of Heun's method, at s: Karras, algorithm 1, line 8. The first half is `ddim` from t to s.

    That ended at x' = x_t + (tau_s - tau_t) d_t, and x_s = x' + (tau_s - tau_t) (d_s - d_t) / 2 with the slope d = (x -
    x_0) / tau. Since x' lies on the line from x_t to its x_0, d_t is also (x' - x_0) / tau_s with the x_0 of t.

    Args:
        straight: tau is sigma, as a flow has it; otherwise sigma / alpha, for x / alpha: Karras, table 1, last column.
    """
    ratio = t.sigma / s.sigma if straight else t.sigma / s.sigma * s.alpha / t.alpha.clamp(min=1e-30)
    half = (1 - ratio) / 2 * (1 if straight else s.alpha)
    nothing = torch.zeros_like(half)
    return Step(x=nothing + 1, x0=-half, previous_x0=half, noise=nothing, noise_large=nothing)


PLMS_WEIGHTS = (
    (1.0, 0.0, 0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0, 0.0, 0.0),  # step 1 is `plms_correction`, whose output no later step uses
    (3 / 2, 0.0, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 0.0, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, 0.0, -9 / 24),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24, 0.0),
)
"""Of the outputs of a step and of the four before it, newest first: those of Adams and Bashforth, of rising order."""


def plms(
    t: Point,
    s: Point,
    from_x: Float64[Tensor, "*places"],
    from_output: Float64[Tensor, "*places"],
    i: Int64[Tensor, "*places"],
) -> Step:
    """The pseudo linear multistep method: `ddim` from t to s with a mean of the network's last outputs in place of the
    last one; PNDM, equations 12 and 13, which diffusers begins with fewer outputs instead of Runge-Kutta's method.

    Args:
        from_x, from_output: x_0 = from_x x + from_output output, at t.
        i: the step's number.
    """
    step = ddim(t, s)
    weights = torch.tensor(PLMS_WEIGHTS, dtype=torch.float64, device=i.device)
    now, *earlier = weights.index_select(0, i.clamp(max=len(PLMS_WEIGHTS) - 1)).unbind(1)
    # The mean's x_0 is from_x x + from_output mean, and the last output (x_0 - from_x x) / from_output.
    return step._replace(
        x=step.x + step.x0 * from_x * (1 - now),
        x0=step.x0 * now,
        earlier=tuple(step.x0 * from_output * weight for weight in earlier),
    )


def plms_correction(
    t: Point,
    s: Point,
    of_t: Float64[Tensor, "*places"],
    from_x: Float64[Tensor, "*places"],
    from_output: Float64[Tensor, "*places"],
) -> Step:
    """The first step from t to s once more, with the mean of the outputs at both of its ends.

    Args:
        of_t: from_output at t; the others are those at s.
    """
    half = ddim(t, s).x0 * of_t / 2
    nothing = torch.zeros_like(half)
    return Step(
        x=1 - half * from_x / from_output,
        x0=half / from_output,
        previous_x0=nothing,
        noise=nothing,
        noise_large=nothing,
        earlier=(-half, nothing, nothing, nothing),
    )


def dpm_solver_2m(before: Point, t: Point, s: Point, second_order: Bool[Tensor, "*places"]) -> Step:
    """DPM-Solver++(2M): Lu, algorithm 2.

    Args:
        before: where the previous step, which ended at t, started.
        second_order: false in the first step, which has no previous one, and in the last, where lambda_s is infinite.
            The first order is DDIM without noise.
    """
    h_before, h = lambda_(t) - lambda_(before), lambda_(s) - lambda_(t)
    # D = (1 + 1 / (2 r)) x_0 - 1 / (2 r) (the x_0 of the previous step), with r = h_before / h.
    share = torch.where(second_order, -h / (2 * h_before), 0.0)  # -1 / (2 r)
    # x_s = sigma_s / sigma_t x_t - alpha_s (exp(-h) - 1) D, where alpha_s exp(-h) = alpha_t sigma_s / sigma_t.
    of_D = s.alpha - t.alpha * s.sigma / t.sigma
    nothing = torch.zeros_like(of_D)
    return Step(
        x=s.sigma / t.sigma, x0=of_D * (1 - share), previous_x0=of_D * share, noise=nothing, noise_large=nothing
    )


def sde_dpm_solver_2m(before: Point, t: Point, s: Point, second_order: Bool[Tensor, "*places"]) -> Step:
    """SDE-DPM-Solver++(2M): Lu, equation 19 and appendix B.6; arguments as for `dpm_solver_2m`."""
    h_before, h = lambda_(t) - lambda_(before), lambda_(s) - lambda_(t)
    share = torch.where(second_order, -h / (2 * h_before), 0.0)  # -1 / (2 r)
    decay = t.alpha * s.sigma / (s.alpha * t.sigma)  # exp(-h), 0 at the end
    of_D = s.alpha * (1 - decay**2)
    return Step(
        x=s.sigma / t.sigma * decay,
        x0=of_D * (1 - share),
        previous_x0=of_D * share,
        noise=s.sigma * (1 - decay**2).clamp(min=0).sqrt(),
        noise_large=torch.zeros_like(of_D),
    )


def unipc(before: Point, t: Point, s: Point, *, first: Bool[Tensor, " n"], last: Bool[Tensor, " n"]) -> Step:
    """UniPC of order 2 with B(h) = e^h - 1, for x_0: Zhao, algorithms 5 and 6.

    x_t is first corrected by its x_0 (UniC), then the step goes on from there (UniP). The step to t, from `before`, was
    a sum of what is known here, so the corrector is too.
    """
    second = torch.cat((first[:1] & False, first[:-1]))
    earlier = Point(*(torch.cat((part[:1], part[:-1])) for part in before))
    h_earlier, h_before = lambda_(before) - lambda_(earlier), lambda_(t) - lambda_(before)
    h = lambda_(s) - lambda_(t)
    # Whether this step and the one before have order 2: the first and the last have 1, which the corrector follows.
    of_order_2, before_of_order_2 = ~(first | last), ~(first | second)

    def solved(h: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """The corrector's two weights, with `ratio` = r_1 of equation 8, below 0."""
        B = torch.expm1(-h)
        phi_1 = B / -h - 1
        b_1, b_2 = phi_1 / B, 2 * (phi_1 / -h - 1 / 2) / B
        first = (b_1 - b_2) / (1 - ratio)
        return first, b_1 - first

    # UniC, to t: x += alpha_t (1 - e^-h) [...]
    ratio = torch.where(before_of_order_2, -h_earlier / h_before, -1.0)
    of_difference, of_last = solved(h_before, ratio)
    of_difference = torch.where(before_of_order_2, (of_difference - 1 / 2) / ratio, 0.0)
    of_last = torch.where(before_of_order_2, of_last, 1 / 2)
    scale = torch.where(first, 0.0, t.alpha * -torch.expm1(-h_before))
    corrected_x0 = scale * of_last
    corrected_previous = -scale * (of_last + of_difference)
    corrected_earlier = scale * of_difference
    # UniP, to s.
    decay = s.sigma / t.sigma
    of_D = s.alpha - t.alpha * decay
    share = torch.where(of_order_2, -h / (2 * h_before), 0.0)
    nothing = torch.zeros_like(of_D)
    return Step(
        x=decay,
        x0=decay * corrected_x0 + of_D * (1 - share),
        previous_x0=decay * corrected_previous + of_D * share,
        noise=nothing,
        noise_large=nothing,
        earlier=(decay * corrected_earlier,),
    )


def lcm(timestep: Float64[Tensor, "*places"], s: Point) -> Step:
    """A draw from q(x_s | x_0) for the consistency function's x_0 = c_skip x_t + c_out (predicted x_0): Luo, algorithm
    3 and appendix C, with sigma_data 0.5 and times that are scaled by 10."""
    time, data = 10 * timestep, 0.5
    nothing = torch.zeros_like(time)
    return Step(
        x=s.alpha * data**2 / (time**2 + data**2),
        x0=s.alpha * time / (time**2 + data**2).sqrt(),
        previous_x0=nothing,
        noise=s.sigma,
        noise_large=nothing,
    )


def consistency(s: Point) -> Step:
    """x_s = alpha_s x_0 + sigma_s z, noise anew on what the network takes for the end: Consistency, algorithm 1.

    Right for a network that was distilled (distil.py), whose x_0 from any point is the end of its path.
    """
    nothing = torch.zeros_like(s.alpha)
    return Step(x=nothing, x0=s.alpha, previous_x0=nothing, noise=s.sigma, noise_large=nothing)


# --- The loop ---------------------------------------------------------------------------------------------------------

Images = Float32[Tensor, "batch channels height width"]
Memory = Float32[Tensor, "batch remembered height width"]  # x_0, then what a sampler of MEMORY needs besides
Pixels = UInt8[Tensor, "batch height width channels"]
Labels = Int64[Tensor, " batch"]  # -1: no label
Numbers = Float32[Tensor, " batch"]  # one per image
Seeds = Int64[Tensor, " batch"]
Count = Int64[Tensor, ""]


class Row(NamedTuple):
    """A row of the plan: the numbers of one step, each float32 []. Hosts that run the loop pass it on unchanged."""

    t: Tensor  # the timestep, in the network's own scale
    alpha: Tensor  # the position of x: x = alpha x_0 + sigma eps
    sigma: Tensor
    from_x: Tensor  # x_0 = from_x x + from_output output
    from_output: Tensor
    x: Tensor  # the sampler's `Step`
    x0: Tensor
    previous_x0: Tensor
    noise: Tensor
    noise_large: Tensor
    earlier: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, numbers: Float32[Tensor, "columns ..."]) -> "Row":
        columns = [numbers[column] for column in range(numbers.shape[0])]
        return cls(*columns[:PLAN_COLUMNS], earlier=tuple(columns[PLAN_COLUMNS:]))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Row":
        *single, earlier = self
        return Row(*map(change, single), earlier=tuple(map(change, earlier)))


class Sampler(nn.Module):
    """A denoiser with its schedule: the plan of the steps, a single step, and the loop over them.

    `asked` is what to draw: a label, int64 [batch] or None; other models' `output` may take other things.
    """

    alpha_bar: Tensor
    alpha_bar_rest: Tensor
    fixed: Tensor

    def __init__(self, network: Denoiser, c: DiffusionConfig):
        super().__init__()
        self.network, self.c = network, c
        self.shape = (network.config.image_channels, *network.config.size)
        self.learned = c.variance == "learned"
        self.noisy = adds_noise(c)
        self.keeps_noise = c.sampler == "ddim" and c.clip and not c.clipped_noise
        alpha_bar = alphas_bar(betas(c)).clamp(0, 1)
        # Place 0 is the end, a clean image; place t + 1 is timestep t. A step's weights are differences of alpha_bar
        # near 1, which float32 cannot represent: it is stored as the sum of two tables, each small enough even for
        # T = 4,000.
        alpha_bar = torch.cat((torch.ones(1, dtype=torch.float64), alpha_bar))
        self.register_buffer("alpha_bar", alpha_bar.float(), persistent=False)
        self.register_buffer("alpha_bar_rest", (alpha_bar - alpha_bar.float()).float(), persistent=False)
        if c.sampler == "consistency":  # the timesteps of one step, two steps, …
            fixed = [[max(0, round(share * c.num_timesteps) - 1) for share in places] for places in c.places]
            fixed = [row + [0] * (c.most_steps - len(row)) for row in fixed]
            self.register_buffer("fixed", torch.tensor(fixed), persistent=False)

    def plan(self, steps: Count) -> Float32[Tensor, "T columns"]:
        """A `Row` for each of `steps` steps, 1 to the most that the sampler can take, followed by zeros."""
        i = torch.arange(self.c.most_steps, device=steps.device)
        if self.c.sampler in ("heun", "plms"):
            rows = self.rows_with_corrections(i, steps)
        else:
            timestep, before, t, s = self.places(i, steps)
            rows = self.rows(timestep, before, t, s, first=i == 0, last=i == steps - 1)
        return torch.where((i < steps).unsqueeze(1), rows, 0.0)

    def places(
        self, i: Int64[Tensor, " T"], steps: Count
    ) -> tuple[Int64[Tensor, " T"] | Float64[Tensor, " T"], Point, Point, Point]:
        """For each step i: its timestep, where the previous step started, where it starts (t), where it ends (s)."""
        c, T = self.c, self.c.num_timesteps
        end = 0 if c.clean_end else 1  # place 0 is the clean image, place 1 the first timestep
        if c.sampler == "consistency":
            timestep = self.fixed.index_select(0, (steps - 1).reshape(1)).squeeze(0)
            if c.prediction == "flow":
                time = (timestep + 1).to(torch.float64) / T
                return time * T, *self.path(i, steps, flow(time), flow(torch.zeros_like(time[:1])))
        elif c.prediction == "flow":
            time = flow_times(c.spacing, c.shift, i, steps, T)
            return time * T, *self.path(i, steps, flow(time), flow(torch.zeros_like(time[:1])))
        elif c.sampler in K_DIFFUSION or c.karras:
            timestep, level = self.levels(i, steps)
            return timestep, *self.path(i, steps, at_level(level), self.point(torch.full_like(i[:1], end)))
        elif c.sampler == "lcm":
            timestep = lcm_timesteps(i, steps, T)
        else:
            timestep = timesteps(c.spacing, i, steps, T)
        if c.steps_offset and c.spacing == "leading" and c.sampler != "consistency":
            timestep = (timestep + c.steps_offset).clamp(max=T - 1)
        place = torch.where(i < steps, timestep + 1, end)
        before = self.point(torch.cat((place[:1], place[:-1])))
        t = self.point(place.clamp(min=1))
        s = self.point(torch.cat((place[1:], torch.full_like(place[:1], end))))
        return timestep, before, t, s

    def path(self, i: Int64[Tensor, " T"], steps: Count, starts: Point, end: Point) -> tuple[Point, Point, Point]:
        """`before`, t and s of `places`, for steps that start there."""
        before = Point(*(torch.cat((part[:1], part[:-1])) for part in starts))
        after = (torch.cat((part[1:], part[-1:])) for part in starts)
        s = Point(*(torch.where(i < steps - 1, part, last) for part, last in zip(after, end, strict=True)))
        return before, starts, s

    def levels(self, i: Int64[Tensor, " T"], steps: Count) -> tuple[Float64[Tensor, " T"], Float64[Tensor, " T"]]:
        """Timesteps, which need not be whole, and noise levels sigma / alpha at which the steps start."""
        c, T = self.c, self.c.num_timesteps
        every = self.point(torch.arange(1, T + 1, device=steps.device))
        # k-diffusion's level of pure noise is not infinite: alpha_bar is at least 2^-24.
        levels = every.sigma / every.alpha.clamp(min=2.0**-12)
        if c.sampler in ("dpm++2m", "dpm++2m_sde", "unipc"):  # Karras's levels, between all of the schedule's
            level = karras(linspace(i, steps), levels[0], levels[-1])
            timestep = timestep_of(level, levels)
            return timestep if c.schedule == "cosine" else timestep.round(), level
        if c.spacing == "linspace":
            timestep = linspace(i, steps) * (T - 1)
        else:
            timestep = timesteps(c.spacing, i, steps, T).to(torch.float64)
            timestep = (timestep + (c.steps_offset if c.spacing == "leading" else 0)).clamp(max=T - 1)
        level = at_levels(levels, timestep)
        if c.karras:
            last = level.index_select(0, (steps - 1).reshape(1)).squeeze(0)
            level = karras(torch.where(steps > 1, linspace(i, steps), 1.0), last, level[0])
            timestep = timestep_of(level, levels)
        return timestep, level

    def point(self, place: Int64[Tensor, " n"]) -> Point:
        alpha_bar = self.alpha_bar.index_select(0, place).to(torch.float64)
        rest = self.alpha_bar_rest.index_select(0, place).to(torch.float64)
        return Point((alpha_bar + rest).sqrt(), (1 - alpha_bar - rest).sqrt())

    def rows(
        self,
        timestep: Int64[Tensor, " n"] | Float64[Tensor, " n"],
        before: Point,
        t: Point,
        s: Point,
        *,
        first: Bool[Tensor, " n"],
        last: Bool[Tensor, " n"],
    ) -> Float32[Tensor, "n columns"]:
        """A `Row` for each step from t to s, where the previous step started at `before`."""
        if self.c.sampler == "consistency":
            step = consistency(s)
        elif self.c.sampler == "unipc":
            step = unipc(before, t, s, first=first, last=last)
        elif self.c.sampler == "ddpm":
            step = ddpm(t, s, self.c.variance)
        elif self.c.sampler == "ddim":
            step = ddim(t, s, self.c.eta)
        elif self.c.sampler == "euler":
            step = ddim(t, s, eta=0.0)
        elif self.c.sampler == "euler_ancestral":
            step = ddim(t, s, eta=1.0)
        elif self.c.sampler == "lcm":
            step = lcm(timestep.to(torch.float64), s)
        elif self.c.sampler == "dpm++2m_sde":
            step = sde_dpm_solver_2m(before, t, s, second_order=~(first | last))
        else:
            step = dpm_solver_2m(before, t, s, second_order=~(first | last))
        return self.written(timestep, t, step, last)

    def written(
        self,
        timestep: Int64[Tensor, " n"] | Float64[Tensor, " n"],
        t: Point,
        step: Step,
        last: Bool[Tensor, " n"],
    ) -> Float32[Tensor, "n columns"]:
        """A `Row` for each step, which looks at the image at t."""
        from_x, from_output = x0_weights(self.c.prediction, t)
        *columns, earlier = Row(
            t=timestep.to(torch.float64) * self.c.timestep_scale,
            alpha=t.alpha,
            sigma=t.sigma,
            from_x=from_x,
            from_output=from_output,
            x=step.x,
            x0=step.x0,
            previous_x0=step.previous_x0,
            noise=torch.where(last, 0.0, step.noise),  # noise added in the last step would stay in the image
            noise_large=torch.where(last, 0.0, step.noise_large),
            earlier=step.earlier,
        )
        return torch.stack([*columns, *earlier], dim=1).to(torch.float32)

    def rows_with_corrections(self, i: Int64[Tensor, " T"], steps: Count) -> Float32[Tensor, "T columns"]:
        """A `Row` for each step of samplers that pass the network twice between two places, where steps suffice.

        `heun` corrects each step but the last, which ends where there is no slope; of an even number of passes, the
        last two. `plms` corrects the first, of three passes or more.
        """
        twice = steps > 2
        if self.c.sampler == "heun":
            number = steps // 2 + 1  # of places
            paired = 2 * (steps - number)  # passes that go to a place, and that correct the one before
            at = torch.where(i < paired, (i + 1) // 2, i - (steps - number))
            correcting = (i < paired) & (i % 2 == 1)
        else:
            number = torch.where(twice, steps - 1, steps)
            at = torch.where(twice & (i > 1), i - 1, i)
            correcting = twice & (i == 1)
        timestep, *points = self.places(i, number)
        at = at.clamp(0, self.c.most_steps - 1)
        timestep = timestep.index_select(0, at)
        before, t, s = (Point(*(part.index_select(0, at) for part in point)) for point in points)
        if self.c.sampler == "heun":
            step = ddim(t, s)
            correction = heun(before, t, straight=self.c.prediction == "flow")
        else:
            from_x, from_output = x0_weights(self.c.prediction, t)
            of_before = x0_weights(self.c.prediction, before)[1]
            step = plms(t, s, from_x, from_output, torch.where(twice, i, 0))
            correction = plms_correction(before, t, of_before, from_x, from_output)
        return self.written(timestep, t, either(correcting, correction, step), last=i == steps - 1)

    def predict(
        self, x: Images, row: Row, asked: Any, guidance: Numbers | None
    ) -> tuple[Images, Float32[Tensor, ""] | Images]:
        """x_0, in -1 .. 1 if the config clips, and the deviation of the noise to add."""
        x0, deviation = self.predict_unclipped(x, row, asked, guidance)
        return self.clip(x0), deviation

    def clip(self, x0: Images) -> Images:
        return x0.clamp(-1, 1) if self.c.clip else x0

    def predict_unclipped(
        self, x: Images, row: Row, asked: Any, guidance: Numbers | None
    ) -> tuple[Images, Float32[Tensor, ""] | Images]:
        output = self.output(x, row.t.expand(x.shape[0]), asked, self.within_interval(guidance, row))
        deviation = row.noise
        if self.learned:
            output, v = halves(output)
            if self.c.sampler == "ddpm":
                deviation = learned_deviation(row.noise, row.noise_large, v)
        return row.from_x * x + row.from_output * output, deviation

    def within_interval(self, guidance: Numbers | None, row: Row) -> Numbers | None:
        """Guidance, and 1 where sigma / alpha is outside of the interval: Kynkaanniemi, equation 5."""
        low, high = self.c.guidance_from, self.c.guidance_to
        if guidance is None or not (low or high):
            return guidance
        inside = row.sigma > low * row.alpha
        if high:
            inside = inside & (row.sigma <= high * row.alpha)
        return torch.where(inside, guidance, 1.0)

    def output(
        self, x: Images, t: Float32[Tensor, " batch"], asked: Any, guidance: Numbers | None
    ) -> Float32[Tensor, "batch channels_out height width"]:
        """What the network predicts for x, guided. Models that draw from other things than a label have their own."""
        if guidance is None:
            return self.network(x, t, asked)
        assert asked is not None, "guidance needs a label"
        both = torch.cat((asked, torch.full_like(asked, -1)))
        output = self.network(torch.cat((x, x)), torch.cat((t, t)), both)
        output = output.unflatten(0, (2, x.shape[0]))
        channels = self.c.guided_channels or (self.shape[0] if self.learned else 0)
        return guided(output[1], output[0], guidance, channels, self.c.guidance_rescale)

    def advance(self, x: Images, x0: Images, previous_x0: Memory, row: Row, unclipped: Images | None = None) -> Images:
        """x_s without the noise that the step adds.

        If x_0 was clipped, the eps of a step is the one that belongs to the clipped image, so that alpha x_0 + sigma
        eps = x remains true, as in Dhariwal and Nichol's code. diffusers' DDIM keeps the network's own eps instead
        (`use_clipped_model_output` is false).

        Args:
            unclipped: x_0 before it was clipped, of which that eps is a part.
        """
        before, *earlier = self.remembered(previous_x0)
        x_s = row.x * x + row.x0 * x0 + row.previous_x0 * before
        for weight, image in zip(row.earlier, earlier, strict=True):
            x_s = x_s + weight * image
        if unclipped is not None and self.keeps_noise:
            # With `row.x` = sigma_s' / sigma_t, the step's eps is (x - alpha x_0) / sigma_t: of the unclipped x_0, it
            # is larger by alpha (clipped - unclipped) / sigma_t.
            x_s = x_s + row.x * row.alpha * (x0 - unclipped)
        return x_s

    def remembered(self, previous_x0: Memory) -> list[Images]:
        """The image that the previous step predicted, and what else the sampler remembers of earlier steps."""
        number = MEMORY.get(self.c.sampler, 1)
        return [previous_x0] if number == 1 else list(previous_x0.chunk(number, dim=1))

    def remember(self, x: Images, x0: Images, row: Row, previous_x0: Memory | None) -> Memory:
        """What a step hands to the next one: x_0 and, newest first, what `Row.earlier` weighs.

        Args:
            previous_x0: what the step got; None: it is the first, whose own x_0 stands for that of steps before it.
        """
        number = MEMORY.get(self.c.sampler, 1)
        if number == 1:
            return x0
        kept = x0
        if self.c.sampler == "plms":  # it remembers outputs
            kept = (x0 - row.from_x * x) / row.from_output
        if previous_x0 is None:
            return torch.cat((x0, *[kept] * (number - 1)), dim=1)
        earlier = self.remembered(previous_x0)[1 if self.c.sampler == "plms" else 0 : -1]
        return torch.cat((x0, *((kept,) if self.c.sampler == "plms" else ()), *earlier), dim=1)

    def step(
        self,
        i: Count,
        row: Row,
        x: Images,
        previous_x0: Memory,
        seed: Seeds | None,
        asked: Any,
        guidance: Numbers | None,
        fresh: Bool[Tensor, "batch 1 1 1"] | None = None,
    ) -> tuple[Images, Memory]:
        """x_s, and x_0 with what the sampler remembers besides.

        Args:
            seed: None if the sampler adds no noise.
            fresh: images whose walk begins in this step, whatever `previous_x0` is; None: no such image.
        """
        unclipped, deviation = self.predict_unclipped(x, row, asked, guidance)
        x0 = self.clip(unclipped)
        if fresh is not None:
            previous_x0 = torch.where(fresh, self.remember(x, x0, row, None), previous_x0)
        x_s = self.advance(x, x0, previous_x0, row, unclipped)
        if self.noisy:
            assert seed is not None, "this sampler adds noise"
            x_s = x_s + deviation * self.noise(seed, i + 1)
        return x_s, self.remember(x, x0, row, previous_x0)

    def nothing_remembered(self, x: Images) -> Memory:
        """What the first step gets, whose row weighs none of it."""
        number = MEMORY.get(self.c.sampler, 1)
        return torch.zeros_like(x) if number == 1 else torch.zeros_like(torch.cat([x] * number, dim=1))

    def noise(self, seed: Seeds, stream: int | Count) -> Images:
        """Standard normal noise. Stream 0 of a seed is x_T, stream i + 1 the noise that step i adds."""
        return normal(seed, self.shape, stream)

    def start(self, seed: Seeds, steps: Count) -> Images:
        """The x at which `steps` steps start. k-diffusion starts at the noise of the first place, sigma eps; the other
        samplers at eps."""
        x = self.noise(seed, 0)
        if self.c.prediction == "flow" or self.c.sampler not in K_DIFFUSION or self.c.spacing == "leading":
            return x
        return x * self.plan(steps)[0, Row._fields.index("sigma")]

    def loop(
        self,
        x: Images,
        steps: Count,
        step: Callable[[Tensor, Row, Tensor, Tensor], tuple[Tensor, Tensor]],
        first: Count | None = None,
    ) -> Images:
        """All steps from x, or those from `first` on.

        Args:
            step: takes the step's number, its row, x and the x_0 of the previous step; returns the next x, and x_0.
        """
        plan = self.plan(steps)

        def more(i: Tensor, x: Tensor, previous_x0: Tensor) -> Tensor:
            return i < steps

        def body(i: Tensor, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            row = Row.of(plan.index_select(0, i.reshape(1)).squeeze(0))
            x, x0 = step(i, row, x, previous_x0)
            return i + 1, x, x0

        i = torch.zeros_like(steps) if first is None else first
        _, x, _ = while_loop(more, body, (i, x, self.nothing_remembered(x)))
        return x


class Generate(Sampler):
    """The task `generate`: seed, steps[, label[, guidance]] -> image, or latents if the model does not draw pixels."""

    def forward(
        self,
        seed: Seeds,
        steps: Count,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Pixels | Images:
        def step(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            return self.step(i, row, x, previous_x0, seed, label, guidance)

        x = self.loop(self.start(seed, steps), steps, step)
        return to_uint8(x) if self.network.config.pictures else x
