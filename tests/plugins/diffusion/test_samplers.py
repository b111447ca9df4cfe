"""Samplers: exact answers for Gaussian data, orders of convergence, and parity with the reference implementations.

For data N(mu, s^2) the best denoiser is known: E[x_0 | x] is a line in x. With it every step of every sampler is a line
too, so the distribution of what a sampler draws follows exactly, without drawing.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn
from zoo_diffusion import samplers, schedule
from zoo_diffusion.config import DiffusionConfig, UNetConfig
from zoo_diffusion.samplers import Point
from zoo_diffusion.scheduler_config import diffusers_schedule
from zoo_diffusion.tasks import Row, Sampler

from . import recorded

PREDICTIONS = ("epsilon", "x0", "v")
SHAPE = (2, 3, 4, 4)
END = Point(1.0, 0.0)


# --- What the tests walk with -----------------------------------------------------------------------------------------


class Network(nn.Module):
    """A function of x and t as a denoiser of pictures with 3 channels of 4x4 pixels."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], size: int = 4, channels: int = 3):
        super().__init__()
        self.function, self.config = function, UNetConfig(image_size=size, image_channels=channels)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.function(x, t)


def walk(
    sampler: Sampler,
    x: Tensor,
    steps: int,
    noises: Iterable[Tensor] = (),
    limit: int | None = None,
    starts: Iterable[Tensor] = (),
) -> list[Tensor]:
    """x after each step, or each of the first `limit`, of the sampler that bundles hold, with given noise.

    Each step starts where the one before ended or, while there are any, from the next of `starts`.
    """
    plan, previous_x0, trajectory = sampler.plan(torch.tensor(steps)), torch.zeros_like(x), []
    noises, starts = iter(noises), iter(starts)
    for numbers in plan[: limit or steps]:
        row, x = Row(numbers), next(starts, x)
        x0, deviation = sampler.predict(x, row, None, None)
        x = sampler.advance(x, x0, previous_x0, row)
        if sampler.noisy and float(row.noise) > 0:
            x = x + deviation * next(noises)
        previous_x0 = x0
        trajectory.append(x)
    return trajectory


def plan_of(c: DiffusionConfig, steps: int) -> list[Row]:
    """The shipped plan, its numbers as floats."""
    return [Row(numbers) for numbers in Sampler(Network(lambda x, t: x), c).plan(torch.tensor(steps))[:steps].tolist()]


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# --- Gaussian data ----------------------------------------------------------------------------------------------------


class Line:
    """shift + weights . z, where z holds independent standard normal numbers: a Gaussian number, exactly."""

    def __init__(self, shift: float, weights: np.ndarray | float = 0.0):
        self.shift, self.weights = shift, weights

    def __add__(self, other: "Line") -> "Line":
        return Line(self.shift + other.shift, self.weights + other.weights)

    def __rmul__(self, factor: float) -> "Line":
        return Line(factor * self.shift, factor * self.weights)

    @property
    def variance(self) -> float:
        return float(np.square(self.weights).sum())


@dataclass(frozen=True)
class Gaussian:
    """Data N(mu, s^2), and what is known of them at a point of the forward process."""

    mu: float
    s: float

    def marginal(self, here: Point) -> tuple[float, float]:
        """Mean and variance of x."""
        return here.alpha * self.mu, (here.alpha * self.s) ** 2 + here.sigma**2

    def denoised(self, x: Line, here: Point) -> Line:
        """E[x_0 | x]."""
        mean, variance = self.marginal(here)
        return Line(self.mu) + here.alpha * self.s**2 / variance * (x + Line(-mean))

    def output(self, prediction: str, x: Line, here: Point) -> Line:
        """What the best network of each kind says."""
        x0 = self.denoised(x, here)
        eps = 1 / here.sigma * (x + -here.alpha * x0)
        return {"epsilon": eps, "x0": x0, "v": here.alpha * eps + -here.sigma * x0}[prediction]

    def solved(self, here: Point, there: Point, x: float) -> float:
        """The probability flow ODE's exact solution: each x keeps its place in the distribution."""
        (mean, variance), (next_mean, next_variance) = self.marginal(here), self.marginal(there)
        return next_mean + math.sqrt(next_variance / variance) * (x - mean)


def drawn(c: DiffusionConfig, steps: int, data: Gaussian) -> list[tuple[Point, Line]]:
    """Where each step of the shipped plan leads, and what x is there; the start is the process's own, not pure noise.

    The rows' weights are used as a graph uses them.
    """
    rows = plan_of(c, steps)
    points = [Point(row.alpha, row.sigma) for row in rows] + [END]
    mean, variance = data.marginal(points[0])
    draws = np.eye(steps + 1)  # of the start, and of each step
    x, previous_x0, places = Line(mean, variance**0.5 * draws[0]), Line(0.0), []
    for i, row in enumerate(rows):
        x0 = row.from_x * x + row.from_output * data.output(c.prediction, x, points[i])
        x = row.x * x + row.x0 * x0 + row.previous_x0 * previous_x0 + Line(0.0, row.noise * draws[i + 1])
        previous_x0 = x0
        places.append((points[i + 1], x))
    return places


SAMPLERS = {
    "ddpm": {"sampler": "ddpm"},
    "ddim": {"sampler": "ddim"},
    "ddim eta 0.5": {"sampler": "ddim", "eta": 0.5},
    "ddim eta 1": {"sampler": "ddim", "eta": 1.0},
    "dpm++2m": {"sampler": "dpm++2m"},
}


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_of_a_single_picture_every_step_has_the_exact_distribution(sampler, prediction, spacing, steps):
    """s = 0: x_0 is known, no variance is left to guess, and any sampler at any step count is exact at every step."""
    c = DiffusionConfig(**SAMPLERS[sampler], spacing=spacing, prediction=prediction, clip=False)
    data = Gaussian(0.3, 0.0)
    for there, x in drawn(c, steps, data):
        mean, variance = data.marginal(there)
        assert x.shift == pytest.approx(mean, abs=2e-5)
        assert x.variance == pytest.approx(variance, abs=2e-5)


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_large_variance_is_exact_for_standard_normal_data(steps):
    """Ho et al. 2020, section 3.2: beta is the best variance for x_0 ~ N(0, 1)."""
    c = DiffusionConfig(sampler="ddpm", variance="large", spacing="leading", clip=False)
    *inner, (_, last) = drawn(c, steps, Gaussian(0.0, 1.0))
    assert all(x.variance == pytest.approx(1.0, abs=1e-5) for _, x in inner)
    assert last.variance == pytest.approx(1.0, abs=2e-4)  # the last step adds no noise: abar_0 = 0.9999 is left


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule_", ["linear", "cosine"])
def test_with_all_steps_every_sampler_draws_the_data(sampler, prediction, schedule_):
    c = DiffusionConfig(**SAMPLERS[sampler], schedule=schedule_, prediction=prediction, clip=False)
    _, x = drawn(c, 1000, Gaussian(0.3, 0.5))[-1]
    assert x.shift == pytest.approx(0.3, abs=2e-3)
    assert math.sqrt(x.variance) == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_really_drawn_has_these_moments(sampler):
    """Once with random numbers, through the module that bundles hold: clamped and in pixels no more, but its loop."""
    c = DiffusionConfig(**SAMPLERS[sampler], clip=False)
    data = Gaussian(0.3, 0.5)
    abar = schedule.alphas_bar(schedule.betas(c)).float()

    def best(x: Tensor, t: Tensor) -> Tensor:
        signal = abar[t.long()].reshape(-1, 1, 1, 1)
        here = Point(signal.sqrt(), (1 - signal).sqrt())
        variance = (here.alpha * data.s) ** 2 + here.sigma**2
        x0 = data.mu + here.alpha * data.s**2 / variance * (x - here.alpha * data.mu)
        return (x - here.alpha * x0) / here.sigma

    sampler_ = Sampler(Network(best, size=64), c)
    seed, steps = torch.arange(4), torch.tensor(20)

    def body(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
        x0, deviation = sampler_.predict(x, row, None, None)
        return sampler_.advance(x, x0, previous_x0, row) + deviation * sampler_.fresh(seed, i), x0

    with torch.no_grad():
        x = sampler_.walk(sampler_.start(seed), steps, body)
    expected = drawn(c, 20, data)[-1][1]
    number = x.numel()  # 49,152
    assert float(x.mean()) == pytest.approx(expected.shift, abs=4 * math.sqrt(expected.variance / number) + 5e-3)
    assert float(x.var()) == pytest.approx(expected.variance, rel=4 * math.sqrt(2 / number) + 5e-3)


# --- Orders of convergence --------------------------------------------------------------------------------------------


def slope(errors: dict[int, float]) -> float:
    """The order: minus the slope of log error over log steps."""
    return -float(np.polyfit(np.log(list(errors)), np.log(list(errors.values())), 1)[0])


def even_in_lambda(steps: int) -> list[Point]:
    """Points of equal steps in lambda = log(alpha / sigma), as the papers' theorems take them, in float64."""
    lambdas = np.linspace(-4.0, 4.0, steps + 1)
    return [Point(1 / math.sqrt(1 + math.exp(-2 * v)), 1 / math.sqrt(1 + math.exp(2 * v))) for v in lambdas]


def solve(name: str, points: list[Point], data: Gaussian, x: float) -> float:
    line, previous_x0 = Line(x), Line(0.0)
    for i, (here, there) in enumerate(zip(points, points[1:])):
        before = points[i - 1] if i else None
        step = samplers.ddim(here, there) if name == "ddim" else samplers.dpm_solver_2m(before, here, there)
        x0 = data.denoised(line, here)
        eps = 1 / here.sigma * (line + -here.alpha * x0)
        line, previous_x0 = step.x * line + step.x0 * x0 + step.eps * eps + step.previous_x0 * previous_x0, x0
    return line.shift


@pytest.mark.parametrize("name, order", [("ddim", 1), ("dpm++2m", 2)])
def test_the_error_against_the_exact_solution_falls_at_the_papers_order(name, order):
    data, x = Gaussian(0.3, 0.5), 1.2
    errors = {}
    for steps in (40, 80, 160, 320):
        points = even_in_lambda(steps)
        errors[steps] = abs(solve(name, points, data, x) - data.solved(points[0], points[-1], x))
    assert slope(errors) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpm++2m", 2)])
def test_the_shipped_plan_converges_at_that_order(sampler, order):
    """With timesteps even in t, down to the end of the way, where lambda is infinite."""
    c, data = DiffusionConfig(sampler=sampler, schedule="cosine", num_timesteps=4000, clip=False), Gaussian(0.3, 0.5)
    errors = {steps: abs(math.sqrt(drawn(c, steps, data)[-1][1].variance) - data.s) for steps in (10, 20, 40, 80)}
    assert slope(errors) > order - 0.25


# --- Parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_the_network_says_gives_picture_and_noise_back(prediction):
    here = Point(0.6, 0.8)
    x0, eps = torch.randn(2, *SHAPE).clamp(-0.9, 0.9)
    x = here.alpha * x0 + here.sigma * eps
    output = {"epsilon": eps, "x0": x0, "v": here.alpha * eps - here.sigma * x0}[prediction]
    for clip in (False, True):
        told = samplers.predicted(prediction, x, output, here, clip=clip)
        torch.testing.assert_close(told.x0, x0)
        torch.testing.assert_close(told.eps, eps)


def test_a_clipped_picture_has_the_noise_that_belongs_to_it():
    here, x = Point(0.6, 0.8), 3 * torch.randn(SHAPE)
    told = samplers.predicted("epsilon", x, torch.randn(SHAPE), here, clip=True)
    assert float(told.x0.abs().max()) == 1.0
    torch.testing.assert_close(here.alpha * told.x0 + here.sigma * told.eps, x)


def test_guidance_0_is_unconditional_1_plain_and_4_exaggerates():
    u, c = torch.randn(2, *SHAPE)
    torch.testing.assert_close(samplers.guided(u, c, 0.0), u)
    torch.testing.assert_close(samplers.guided(u, c, 1.0), c)
    torch.testing.assert_close(samplers.guided(u, c, 4.0), 4 * c - 3 * u)  # equation 6 with w = 3
    each = torch.tensor([0.0, 4.0])[:, None, None, None]
    torch.testing.assert_close(samplers.guided(u, c, each), torch.stack((u[0], 4 * c[1] - 3 * u[1])))


def test_guidance_of_some_channels_leaves_the_others_conditional():
    u, c = torch.randn(2, 2, 8, 4, 4)
    out = samplers.guided(u, c, 3.0, 3)
    torch.testing.assert_close(out[:, :3], 3 * c[:, :3] - 2 * u[:, :3])
    torch.testing.assert_close(out[:, 3:], c[:, 3:])


class Labelled(nn.Module):
    """Says 0.1 label everywhere, 0.7 for no label, and counts its calls."""

    config = UNetConfig(image_size=4, image_channels=3, num_classes=10)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.where(label < 0, 0.7, 0.1 * label)[:, None, None, None].expand_as(x)


def test_the_sampler_asks_with_and_without_the_label():
    sampler = Sampler(Labelled(), DiffusionConfig(prediction="x0", clip=False))
    row = Row(sampler.plan(torch.tensor(5))[0])
    label, guidance = torch.tensor([2, 2, 5, -1]), torch.tensor([0.0, 1.0, 4.0, 4.0])
    x0, _ = sampler.predict(torch.randn(4, 3, 4, 4), row, label, guidance)
    torch.testing.assert_close(x0[:, 0, 0, 0], torch.tensor([0.7, 0.2, 0.7 + 4 * (0.5 - 0.7), 0.7]))


def test_learned_deviation_lies_between_the_two_and_goes_on_beyond():
    """Equation 15 of Nichol and Dhariwal: log sigma^2 = v log beta + (1 - v) log beta~, here with v from -1 to 1."""
    v = torch.tensor([-1.0, 0.0, 1.0, 1.5])
    deviation = samplers.learned_deviation(torch.tensor(0.1), torch.tensor(0.4), v)
    torch.testing.assert_close(deviation, torch.tensor([0.1, 0.2, 0.4, 0.4 * 2**0.5]))


@pytest.mark.parametrize("v", [-3.0, -1.0, 0.0, 1.0, 3.0])
def test_where_no_noise_is_to_be_added_a_learned_deviation_adds_none(v):
    nothing = torch.tensor(0.0)
    assert float(samplers.learned_deviation(nothing, nothing, torch.tensor(v))) == pytest.approx(0.0, abs=1e-15)


def test_the_sampler_uses_the_learned_deviation_and_only_the_ancestral_one():
    both = Network(lambda x, t: torch.cat((0 * x, 0 * x + 3.0), dim=1))  # no noise; a deviation beyond the larger bound
    for kind in ("ddpm", "ddim"):
        sampler = Sampler(both, DiffusionConfig(sampler=kind, variance="learned"))
        for i, numbers in enumerate(sampler.plan(torch.tensor(4))[:4]):
            row = Row(numbers)
            x0, deviation = sampler.predict(torch.randn(SHAPE), row, None, None)
            assert x0.shape == SHAPE
            expected = float(row.noise_large**2 / row.noise) if kind == "ddpm" and i < 3 else 0.0
            torch.testing.assert_close(deviation, torch.as_tensor(expected).expand_as(deviation), atol=1e-9, rtol=1e-4)


# --- Which timesteps --------------------------------------------------------------------------------------------------


def spaced(spacing: str, steps: int, T: int) -> list[int]:
    return samplers.timesteps(spacing, torch.arange(steps), torch.tensor(steps), T).tolist()


def test_the_timesteps_of_each_spacing():
    assert spaced("leading", 4, 1000) == [750, 500, 250, 0]
    assert spaced("trailing", 4, 1000) == [999, 749, 499, 249]
    assert spaced("linspace", 4, 1000) == [999, 749, 500, 250]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("T", [2, 10, 1000, 4000])
def test_any_number_of_steps_gives_falling_timesteps_of_the_process(spacing, T):
    for steps in {1, 2, 3, 7, 10, 50, 333, T - 1, T} & set(range(1, T + 1)):
        t = spaced(spacing, steps, T)
        assert all(a > b for a, b in zip(t, t[1:])) and t[-1] >= 0 and t[0] < T
        assert t[0] == T - 1 or spacing == "leading"


# --- Parity with diffusers, step by step on the same noise ------------------------------------------------------------

LINEAR = {"beta_schedule": "linear", "clip_sample": True}
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
SCHEDULES = pytest.mark.parametrize("schedule_", [LINEAR, LATENT, COSINE], ids=lambda s: s["beta_schedule"])


# Two float32 computations of one step are compared, each of about eight roundings: of the weights, which both make in
# float64, of the products and of their sums. Measured on three instruction sets: at most 3.4 together.
ROUNDINGS = 16 * torch.finfo(torch.float32).eps / 2


def explained(prediction: str, here: Point, there: Point, x: Tensor, output: Tensor, noise: Tensor) -> Tensor:
    """How far two float32 computations of a step may lie apart: roundings of its terms, each without its sign.

    Not of their sum: near pure noise x and the network's noise, both about 1, nearly cancel, and x0 is what is left,
    divided by alpha, which may be 5e-5.
    """
    x0 = {
        "epsilon": (x.abs() + here.sigma * output.abs()) / here.alpha,
        "sample": output.abs(),
        "v_prediction": here.alpha * x.abs() + here.sigma * output.abs(),
    }[prediction]
    # x0 twice: as such, and in the noise that it implies or as that of the step before. No sampler adds more noise.
    return ROUNDINGS * (x.abs() + 2 * there.alpha * x0 + here.sigma * noise.abs())


def compare(kind: str, scheduler: str, said: dict, *, last: bool = True, **options) -> None:
    """x after every step of the walk that bundles hold and of theirs, each step from where theirs started it.

    From one x, so that no step's rounding is magnified by the next ones: what is left follows from the step alone.

    Args:
        kind: our sampler.
        scheduler: diffusers' class.
        said: what it is told; our config is what the importer reads in that.
        last: the last step is compared too.
        options: of its `step`; `eta` is also ours.
    """
    import diffusers

    kinds = inspect.signature(getattr(diffusers, scheduler)).parameters
    learned = said.get("variance_type") == "learned_range"
    c = diffusers_schedule(said | {"_class_name": scheduler}, learned=learned)
    c = replace(c, sampler=kind, eta=options.get("eta", 0.0))

    def function(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat((recorded.toy(x, t), torch.tanh(0.5 * x - 0.2)), dim=1) if learned else recorded.toy(x, t)

    for steps in (1, 2, 10, 50):
        theirs = getattr(diffusers, scheduler)(**{name: value for name, value in said.items() if name in kinds})
        # Their tables are float32: near pure noise x is then off by up to 1.6e-5 of it (1e-4 with eta 1 and cosine).
        theirs.alphas_cumprod = abar = schedule.alphas_bar(schedule.betas(c))
        theirs.set_timesteps(steps)
        if hasattr(theirs, "sigmas"):
            theirs.sigmas = torch.cat(((1 / abar[theirs.timesteps] - 1).sqrt(), torch.zeros(1)))
        assert theirs.timesteps.tolist() == spaced(c.spacing, steps, c.num_timesteps)
        points = [point_of(abar, t) for t in theirs.timesteps.tolist()] + [END]
        noises = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(steps)]
        places, bounds = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000))], []
        for i, t in enumerate(theirs.timesteps):
            x, output = places[i], function(places[i], t.reshape(1).float())
            generator = torch.Generator().manual_seed(i)
            places.append(theirs.step(output, t, x, generator=generator, **options).prev_sample.float())
            prediction = said.get("prediction_type", "epsilon")
            bounds.append(explained(prediction, points[i], points[i + 1], x, output[:, : SHAPE[1]], noises[i]))
        mine = walk(Sampler(Network(function), c), places[0], steps, noises, starts=places)
        for i in range(steps if last else steps - 1):
            ratio = float(((mine[i] - places[i + 1]).abs() / bounds[i]).max())
            assert ratio <= 1, f"step {i} of {steps} differs {ratio:.3g} times as much as rounding explains"


@SCHEDULES
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_ddpm_is_diffusers(schedule_, spacing, variance):
    said = schedule_ | {"timestep_spacing": spacing, "variance_type": variance}
    # Where the last step starts above t = 0, theirs leaves the larger variance's noise in the picture.
    compare("ddpm", "DDPMScheduler", said, last=spacing == "leading" or variance == "fixed_small")


@SCHEDULES
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_ddim_is_diffusers(schedule_, spacing, eta, prediction):
    """Where a picture is clipped, its noise is that of the clipped picture: their `use_clipped_model_output`."""
    said = schedule_ | {"timestep_spacing": spacing, "prediction_type": prediction}
    compare("ddim", "DDIMScheduler", said, eta=eta, use_clipped_model_output=True)


@SCHEDULES
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_dpm_solver_is_diffusers(schedule_, spacing, prediction):
    said = schedule_ | {"timestep_spacing": spacing, "prediction_type": prediction, "clip_sample": False}
    compare("dpm++2m", "DPMSolverMultistepScheduler", said)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_ddim_step_is_diffusers_also_in_its_own_linspace(eta):
    """Its steps lead T // steps timesteps down, whatever the next timestep is (huggingface/diffusers#11347): between
    the points that it really takes, ours is the same step. Our linspace takes the next timestep."""
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    theirs.set_timesteps(7)
    abar = theirs.alphas_cumprod.double()
    x = torch.randn(SHAPE)
    for t in theirs.timesteps.tolist():
        here, there = (point_of(abar, place) for place in (t, t - 1000 // 7))
        output, noise = recorded.toy(x, torch.tensor([float(t)])), torch.randn(SHAPE)
        mine = take(samplers.ddim(here, there, eta=eta), x, output, here, noise=noise)
        assert_close(mine, theirs.step(output, t, x, eta=eta, variance_noise=noise).prev_sample)


# --- Parity with what was recorded ------------------------------------------------------------------------------------

# Cases of ../shared/parity/schedulers that the sampler of the bundles reproduces from its config alone.
WHOLE_WALKS = {
    "ddpm_linear": "ddpm",
    "ddpm_sigmoid": "ddpm",
    "ddpm_squaredcos_cap_v2": "ddpm",
    "ddpm_v_prediction_trailing": "ddpm",
    "repaint_like_ddpm_1000_subset": "ddpm",  # all 1,000 steps are planned; the first 12 were recorded
    "ddim_leading": "ddim",
    "ddim_trailing": "ddim",
    "ddim_eta05_clipped_output": "ddim",
    "dpmpp_2m": "dpm++2m",
}

# Cases whose steps are ours, between points that no config of ours chooses.
SINGLE_STEPS = {
    "ddpm_custom_timesteps": "ddpm",  # a list of timesteps
    "ddim_eta1": "ddim",  # clipped picture with the noise of the one before clipping
    "ddim_sd_offset1_alpha_to_one_false": "ddim",  # timesteps shifted by one; ends at abar_0 instead of 1
    "dpmpp_1m": "dpm++1m",  # first order alone
    "dpmpp_2m_karras": "dpm++2m",  # sigmas of Karras et al.
    "dpmpp_2m_lu_lambdas": "dpm++2m",  # even in lambda
}

# Cases that are out of scope, and why.
OUT_OF_SCOPE = {
    "another sampler": "cm_multistep cm_onestep ddim_inverse deis_2m dpm2_noise_3s dpmpp_2s dpmpp_3m dpmpp_3m_25steps "
    "dpmpp_3s dpmpp_sde_2m dpmsolver_2m_noise euler euler_ancestral euler_karras euler_trailing_v heun heun_karras "
    "kdpm2 kdpm2_ancestral lms pndm pndm_prk tcd unipc_bh1_order3 unipc_karras unipc_noise_pred",
    "another form of the second order": "dpmpp_2m_heun_type",
    "dynamic thresholding, for pixels with guidance far above ours": "ddpm_sample_pred_thresholding "
    "dpmpp_2m_thresholding",
    "another process: EDM's or flow matching": "edm_dpmpp_2m edm_dpmpp_2m_exponential edm_euler flow_dpmpp_2m "
    "flow_euler flow_heun flow_unipc_shift3",
    "no sampler; see test_schedule.py": "forward_process",
}


def point_of(abar: Tensor, t: int) -> Point:
    """The point of a timestep; below 0 the end."""
    return Point(float(abar[t]) ** 0.5, float(1 - abar[t]) ** 0.5) if t >= 0 else END


def take(step: samplers.Step, x, output, here, *, previous_x0=0.0, noise=0.0, clip=False) -> Tensor:
    """One step of a network that predicts noise, which stays what it said where the picture is clipped."""
    x0 = samplers.predicted("epsilon", x, output, here, clip=clip).x0
    return samplers.advance(step, x, x0, output, previous_x0, noise)


@pytest.mark.shared
def test_every_recorded_case_has_its_place(shared_data):
    cases = {folder.name for folder in (shared_data / "parity/schedulers").iterdir()}
    placed = [*WHOLE_WALKS, *SINGLE_STEPS, *(name for names in OUT_OF_SCOPE.values() for name in names.split())]
    assert cases == set(placed) and len(placed) == len(cases)


@pytest.mark.shared
@pytest.mark.parametrize("case", WHOLE_WALKS)
def test_the_walk_is_the_recorded_one(shared_data, case):
    folder = shared_data / "parity/schedulers" / case
    io, said = recorded.io(folder), recorded.config(folder)
    options = said["_call"].get("step", {})
    c = diffusers_schedule({"clip_sample": False} | said, learned=False)
    c = replace(c, sampler=WHOLE_WALKS[case], eta=options.get("eta", 0.0))
    steps = said["_steps"]
    assert spaced(c.spacing, steps, c.num_timesteps) == io["timesteps"].tolist()
    sampler, noises = Sampler(Network(recorded.toy), c), [*io.get("noises", []), torch.zeros(SHAPE)]
    with torch.no_grad():
        mine = walk(sampler, io["x_start"], steps, noises, limit=len(io["trajectory"]))
    for place, theirs in zip(mine, io["trajectory"], strict=True):
        assert_close(place, theirs)


@pytest.mark.shared
@pytest.mark.parametrize("case", SINGLE_STEPS)
def test_each_step_is_the_recorded_one(shared_data, case):
    folder = shared_data / "parity/schedulers" / case
    io, said, kind = recorded.io(folder), recorded.config(folder), SINGLE_STEPS[case]
    if "sigmas" in io:  # sigma / alpha
        ratios = io["sigmas"].double().tolist()
        points = [Point((1 + ratio**2) ** -0.5, ratio * (1 + ratio**2) ** -0.5) for ratio in ratios]
    else:
        ours = said | {"steps_offset": 0, "set_alpha_to_one": True}  # an import refuses what is else
        abar = schedule.alphas_bar(schedule.betas(diffusers_schedule(ours, learned=False)))
        points = [point_of(abar, int(t)) for t in io["timesteps"]]
        points.append(END if said.get("set_alpha_to_one", True) else point_of(abar, 0))
    noises = [*io.get("noises", []), *torch.zeros(len(io["trajectory"]), *SHAPE)]
    clip, eta, last = said.get("clip_sample", False), said["_call"].get("step", {}).get("eta", 0.0), len(points) - 2
    x, before, previous_x0 = io["x_start"], None, 0.0
    for i, theirs in enumerate(io["trajectory"]):
        here, there = points[i], points[i + 1]
        if kind == "ddpm":
            step = samplers.ddpm(here, there)
        elif kind == "ddim":
            step = samplers.ddim(here, there, eta=eta)
        else:
            second_order = kind == "dpm++2m" and 0 < i < last
            step = samplers.dpm_solver_2m(before if second_order else None, here, there)
        output = recorded.toy(x, io["timesteps"][i : i + 1].float())
        assert_close(take(step, x, output, here, previous_x0=previous_x0, noise=noises[i], clip=clip), theirs)
        previous_x0 = samplers.predicted("epsilon", x, output, here, clip=clip).x0
        x, before = theirs, here


OPENAI = (
    *(f"{name}_{kind}_{kept}" for name in ("linear", "cosine") for kind in ("fixed", "ls")
      for kept in ("full", "50", "ddim20", "10-5-3")),
    "rescaled_4000_to_50", "predict_xstart_ddim10", "rescaled_learned_sigmas_kl",
)  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("case", OPENAI)
def test_openais_samplers(shared_data, case):
    """p_sample_loop, and ddim_sample_loop with eta 0 and 0.5, between the timesteps that OpenAI's code takes."""
    folder = shared_data / "parity/openai/gaussian_diffusion_toy"
    io, told = recorded.io(folder), recorded.config(folder)["cases"][case]
    T, learned = told["steps"], told.get("learn_sigma", False)
    ends = {"beta_start": 1e-4 * 1000 / T, "beta_end": 0.02 * 1000 / T}
    c = DiffusionConfig(schedule=told["noise_schedule"], num_timesteps=T, **ends)
    abar = schedule.alphas_bar(schedule.betas(c))
    kept = [int(t) for t in io[f"{case}/timestep_map"]][::-1]
    points = [point_of(abar, t) for t in kept] + [END]
    fed = io[f"{case}/network_t"] if f"{case}/network_t" in io else torch.tensor(kept, dtype=torch.float32)
    prediction = "x0" if told.get("predict_xstart") else "epsilon"
    steps, recorded_noises = len(kept), io.get(f"{case}/noises", ())
    # The rule of meta.json; the last ones were not recorded. torch's normal numbers differ in the last bits between
    # processors.
    noises = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(5000 + n)) for n in range(3 * steps)]
    for noise, theirs in zip(noises, recorded_noises):
        assert_close(noise, theirs)

    def loop(noises: list[Tensor], eta: float | None) -> Tensor:
        x = io["x_T"]
        for i, (here, there) in enumerate(zip(points, points[1:])):
            output, v = recorded.openai_toy(x, fed[i : i + 1])
            x0, eps = samplers.predicted(prediction, x, output, here, clip=True)
            if eta is None:
                step, large = samplers.ddpm(here, there), samplers.ddpm(here, there, variance="large").noise
                deviation = samplers.learned_deviation(step.noise, large, v) if learned else large
                step = step._replace(noise=0.0 if there == END else deviation)
            else:
                step = samplers.ddim(here, there, eta=eta)
            x = samplers.advance(step, x, x0, eps, x0, noises[i])
        return x

    compared = 0
    for name, eta in (("p_sample", None), ("ddim_eta0", 0.0), ("ddim_eta05", 0.5)):
        if f"{case}/{name}" in io:
            assert_close(loop(noises, eta), io[f"{case}/{name}"])
            compared += 1
            noises = noises[steps:]
    assert compared
