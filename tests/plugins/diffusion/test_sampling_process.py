"""The forward process against the papers' equations, and against what the reference implementations recorded."""

import math

import pytest
import torch
from zoo_diffusion import sampling
from zoo_diffusion.config import DiffusionConfig
from zoo_diffusion.sampling import Point

from . import recorded

SCHEDULES = ("linear", "scaled_linear", "cosine", "sigmoid")


def betas(name: str, T: int = 1000, **fields) -> torch.Tensor:
    return sampling.betas(DiffusionConfig(schedule=name, num_timesteps=T, **fields))


# --- beta -------------------------------------------------------------------------------------------------------------


def test_linear_is_ho_et_als():
    beta = betas("linear")
    for t in (0, 1, 500, 999):
        assert float(beta[t]) == pytest.approx(1e-4 + (0.02 - 1e-4) * t / 999, rel=1e-12)


def test_scaled_linear_is_linear_in_the_root():
    root = betas("scaled_linear", beta_start=0.00085, beta_end=0.012).sqrt()
    step = (math.sqrt(0.012) - math.sqrt(0.00085)) / 999
    torch.testing.assert_close(root.diff(), torch.full((999,), step, dtype=torch.float64))
    assert float(root[0] ** 2) == pytest.approx(0.00085) and float(root[-1] ** 2) == pytest.approx(0.012)


def test_cosine_is_nichol_and_dhariwals():
    """Equation 17: abar(t) = f(t) / f(0), f(t) = cos((t/T + s) / (1 + s) pi/2)^2, s = 0.008; beta at most 0.999."""

    def f(t: int) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    beta = betas("cosine")
    abar = sampling.alphas_bar(beta)
    for t in (0, 1, 250, 500, 998):  # timestep t is t + 1 steps of noise
        assert float(abar[t]) == pytest.approx(f(t + 1) / f(0), rel=1e-9)
    assert float(beta[-1]) == 0.999 and float(beta[:-1].max()) < 0.999


def test_sigmoid_is_a_sigmoid_between_its_ends():
    beta = betas("sigmoid", beta_start=0.1, beta_end=0.5)
    for t in (0, 300, 999):
        assert float(beta[t]) == pytest.approx(0.1 + 0.4 / (1 + math.exp(6 - 12 * t / 999)), rel=1e-9)
    assert float(betas("sigmoid").mean()) == pytest.approx((1e-4 + 0.02) / 2)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [2, 10, 1000, 4000])
@pytest.mark.parametrize("zero", [False, True])
def test_noise_only_grows(name, T, zero):
    beta = betas(name, T, zero_terminal_snr=zero)
    abar = sampling.alphas_bar(beta)
    assert beta.dtype == torch.float64 and beta.shape == (T,)
    assert bool((beta > 0).all()) and bool((beta <= 1).all()) and bool((abar.diff() < 0).all())


@pytest.mark.parametrize("name", SCHEDULES)
def test_zero_terminal_snr_ends_in_noise_alone_and_keeps_its_start(name):
    """Lin et al. 2023, algorithm 1: sqrt(abar) shifted to end at 0, then scaled to start where it did."""
    before = sampling.alphas_bar(betas(name)).sqrt()
    after = sampling.alphas_bar(betas(name, zero_terminal_snr=True)).sqrt()
    assert float(after[-1]) == 0.0
    assert float(after[0]) == pytest.approx(float(before[0]), rel=1e-12)
    share = (before[500] - before[-1]) / (before[0] - before[-1])
    assert float(after[500]) == pytest.approx(float(share * before[0]), rel=1e-9)


# --- The process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [0, 1, 9, 400, 999])
def test_single_steps_compose_to_the_closed_form(name, t):
    """Mean and variance of x_t | x_0 after t + 1 steps of equation 2 are those of equation 4."""
    beta = betas(name)
    mean, variance = 1.0, 0.0  # of x_0 = 1
    for b in beta[: t + 1].tolist():
        mean, variance = math.sqrt(1 - b) * mean, (1 - b) * variance + b
    x0, nothing = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    here = Point.of(sampling.alphas_bar(beta)[t])
    assert float(sampling.diffuse(x0, nothing, here)) == pytest.approx(mean, rel=1e-9)
    assert float(sampling.diffuse(nothing, x0, here)) ** 2 == pytest.approx(variance, rel=1e-9)


def test_a_step_keeps_the_variance_at_one():
    variance = 1.0
    for b in betas("linear").tolist():
        variance = (1 - b) * variance + b
    assert variance == pytest.approx(1.0)


def test_it_ends_in_gaussian_noise():
    """Of pictures that are nothing like it: all pixels -1 or 1. Uniform noise would fail by far."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(2, (4, 1, 100, 100), generator=generator) * 2.0 - 1
    for b in betas("linear").float():  # one step after another, as equation 2 says
        x0 = (1 - b).sqrt() * x0 + b.sqrt() * torch.randn(x0.shape, generator=generator)
    x = x0.flatten().sort().values.double()
    normal = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    distance = (normal - (torch.arange(len(x)) + 0.5) / len(x)).abs().max()  # Kolmogorov-Smirnov
    assert float(distance) < 1.63 / math.sqrt(len(x))  # 1 % of normal samples are farther


def test_each_picture_has_its_own_timestep():
    abar = torch.tensor([0.9, 0.1])
    x0, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    x = sampling.diffuse(x0, eps, Point.of(abar[:, None, None, None]))
    for i in (0, 1):
        torch.testing.assert_close(x[i], abar[i].sqrt() * x0[i] + (1 - abar[i]).sqrt() * eps[i])


def test_velocity_and_noisy_picture_are_a_rotation():
    """Salimans and Ho 2022, appendix D: x = alpha x_0 + sigma eps and v = alpha eps - sigma x_0 give both back."""
    abar = torch.tensor([0.8, 0.3], dtype=torch.float64)
    x0, eps = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    here = Point.of(abar[:, None, None, None])
    x, v = sampling.diffuse(x0, eps, here), sampling.velocity(x0, eps, here)
    alpha, sigma = here
    torch.testing.assert_close(alpha * x - sigma * v, x0)
    torch.testing.assert_close(sigma * x + alpha * v, eps)


# --- What others recorded ---------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_forward_process_is_diffusers(shared_data):
    folder = shared_data / "parity/schedulers/forward_process"
    io, c = recorded.io(folder), recorded.config(folder)["ddpm"]
    beta = betas(c["beta_schedule"], c["num_train_timesteps"], beta_start=c["beta_start"], beta_end=c["beta_end"])
    here = Point.of(sampling.alphas_bar(beta).float()[io["t"].long()][:, None, None, None])
    torch.testing.assert_close(sampling.diffuse(io["x0"], io["noise"], here), io["add_noise"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sampling.velocity(io["x0"], io["noise"], here), io["velocity"], rtol=1e-5, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize("name, case", [("linear", "ddpm_linear"), ("cosine", "ddpm_squaredcos_cap_v2"),
                                        ("sigmoid", "ddpm_sigmoid"), ("scaled_linear", "dpmpp_2m"),
                                        ("scaled_linear", "ddpm_v_prediction_trailing")])  # fmt: skip
def test_betas_are_diffusers(shared_data, name, case):
    folder = shared_data / "parity/schedulers" / case
    io, c = recorded.io(folder), recorded.config(folder)
    beta = betas(
        name, beta_start=c["beta_start"], beta_end=c["beta_end"], zero_terminal_snr=c["rescale_betas_zero_snr"]
    )
    # diffusers computes in float32, ours in float64.
    torch.testing.assert_close(beta.float(), io["betas"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sampling.alphas_bar(beta).float(), io["alphas_cumprod"], rtol=1e-4, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_betas_are_openais(shared_data, name):
    """Of a process of 100 steps, and of 1,000 of which 50 and 20 are kept: abar at those is that of all."""
    io = recorded.io(shared_data / "parity/openai/gaussian_diffusion_toy")
    ends = {"beta_start": 1e-4 * 10, "beta_end": 0.02 * 10}  # the ends are for 1,000 steps
    torch.testing.assert_close(betas(name, 100, **ends), io[f"{name}_fixed_full/betas"], rtol=1e-9, atol=0)
    abar = sampling.alphas_bar(betas(name))
    for kept in ("50", "ddim20", "10-5-3"):
        theirs = sampling.alphas_bar(io[f"{name}_fixed_{kept}/betas"])
        ours = abar[io[f"{name}_fixed_{kept}/timestep_map"].long()]
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
