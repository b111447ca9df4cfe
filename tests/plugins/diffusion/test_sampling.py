"""Samplers: exact answers for Gaussian data, orders of convergence, and their parts.

For data N(mu, s^2) the best denoiser is known: E[x_0 | x] is a line in x. With it every step of every sampler is a line
too, so the distribution of what a sampler draws follows exactly, without drawing.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo_diffusion import sampling
from zoo_diffusion.config import DiffusionConfig, UNetConfig
from zoo_diffusion.ports import MEMORY, PLAN_COLUMNS
from zoo_diffusion.sampling import Point, Row, Sampler, Step

from .walks import SHAPE, Network, place, planned, rows_along, spaced, walk

PREDICTIONS = ("epsilon", "x0", "v")


@dataclass(frozen=True)
class Place:
    """A point of the process in plain numbers."""

    alpha: float
    sigma: float


END = Place(1.0, 0.0)


def plan_of(c: DiffusionConfig, steps: int) -> list[Row]:
    """The shipped plan, its numbers as floats."""
    rows = planned(Sampler(Network(lambda x, t: x), c), steps).tolist()
    return [Row(*numbers[:PLAN_COLUMNS], tuple(numbers[PLAN_COLUMNS:])) for numbers in rows]


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

    def marginal(self, here: Place) -> tuple[float, float]:
        """Mean and variance of x."""
        return here.alpha * self.mu, (here.alpha * self.s) ** 2 + here.sigma**2

    def denoised(self, x: Line, here: Place) -> Line:
        """E[x_0 | x]."""
        mean, variance = self.marginal(here)
        return Line(self.mu) + here.alpha * self.s**2 / variance * (x + Line(-mean))

    def output(self, prediction: str, x: Line, here: Place) -> Line:
        """What the best network of each kind says."""
        x0 = self.denoised(x, here)
        eps = 1 / here.sigma * (x + -here.alpha * x0)
        v = here.alpha * eps + -here.sigma * x0
        return {"epsilon": eps, "x0": x0, "v": v, "flow": eps + -1.0 * x0}[prediction]

    def solved(self, here: Place, there: Place, x: float) -> float:
        """The probability flow ODE's exact solution: each x keeps its place in the distribution."""
        (mean, variance), (next_mean, next_variance) = self.marginal(here), self.marginal(there)
        return next_mean + math.sqrt(next_variance / variance) * (x - mean)


def drawn(c: DiffusionConfig, steps: int, data: Gaussian) -> list[tuple[Place, Line]]:
    """Where each step of the shipped plan leads, and what x is there; the start is the process's own, not pure noise.

    The rows' weights are used as a graph uses them.
    """
    rows = plan_of(c, steps)
    points = [Place(row.alpha, row.sigma) for row in rows] + [END]
    mean, variance = data.marginal(points[0])
    draws = np.eye(steps + 1)  # of the start, and of each step
    x, memory, places = Line(mean, variance**0.5 * draws[0]), [Line(0.0)] * MEMORY.get(c.sampler, 1), []
    for i, row in enumerate(rows):
        output = data.output(c.prediction, x, points[i])
        x0 = row.from_x * x + row.from_output * output
        x = row.x * x + row.x0 * x0 + row.previous_x0 * memory[0] + Line(0.0, row.noise * draws[i + 1])
        for weight, line in zip(row.earlier, memory[1:], strict=True):
            x = x + weight * line
        memory = [x0, output, *memory[1:-1]] if c.sampler == "plms" else [x0, *memory[:-1]]
        places.append((points[i + 1], x))
    return places


SAMPLERS = {
    "ddpm": {"sampler": "ddpm"},
    "ddim": {"sampler": "ddim"},
    "ddim eta 0.5": {"sampler": "ddim", "eta": 0.5},
    "ddim eta 1": {"sampler": "ddim", "eta": 1.0},
    "dpm++2m": {"sampler": "dpm++2m"},
    "dpm++2m karras": {"sampler": "dpm++2m", "karras": True},
    "dpm++2m_sde": {"sampler": "dpm++2m_sde"},
    "heun": {"sampler": "heun"},
    "plms": {"sampler": "plms"},
    "unipc": {"sampler": "unipc"},
    "euler": {"sampler": "euler"},
    "euler karras": {"sampler": "euler", "karras": True},
    "euler_ancestral": {"sampler": "euler_ancestral"},
}


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_of_a_single_picture_every_step_has_the_exact_distribution(sampler, prediction, spacing, steps):
    """s = 0: x_0 is known, no variance is left to guess, and any sampler at any step count is exact at every step."""
    if (sampler, prediction, steps) == ("plms", "v", 7):
        return  # a mean of several outputs is exact only if they do not turn along the way, as v does
    c = DiffusionConfig(**SAMPLERS[sampler], spacing=spacing, prediction=prediction, clip=False)
    data = Gaussian(0.3, 0.0)
    for there, x in drawn(c, steps, data):
        mean, variance = data.marginal(there)
        assert x.shift == pytest.approx(mean, abs=2e-5)
        assert x.variance == pytest.approx(variance, abs=2e-5)


@pytest.mark.parametrize(
    "sampler", ["ddpm", "ddim", "ddim eta 0.5", "dpm++2m", "dpm++2m_sde", "euler", "euler_ancestral"]
)
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_of_a_single_picture_a_flow_has_the_exact_distribution(sampler, spacing, shift, steps):
    """No sampler needs alpha^2 + sigma^2 = 1."""
    c = DiffusionConfig(**SAMPLERS[sampler], spacing=spacing, prediction="flow", shift=shift, clip=False)
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
    alpha_bar = sampling.alphas_bar(sampling.betas(c)).float()

    def best(x: Tensor, t: Tensor) -> Tensor:
        here = Point.of(alpha_bar[t.long()].reshape(-1, 1, 1, 1))
        variance = (here.alpha * data.s) ** 2 + here.sigma**2
        x0 = data.mu + here.alpha * data.s**2 / variance * (x - here.alpha * data.mu)
        return (x - here.alpha * x0) / here.sigma

    sampler_ = Sampler(Network(best, size=64), c)
    seed, steps = torch.arange(4), torch.tensor(20)

    def step(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
        return sampler_.step(i, row, x, previous_x0, seed, None, None)

    with torch.no_grad():
        x = sampler_.loop(sampler_.noise(seed, 0), steps, step)
    expected = drawn(c, 20, data)[-1][1]
    number = x.numel()  # 49,152
    assert float(x.mean()) == pytest.approx(expected.shift, abs=4 * math.sqrt(expected.variance / number) + 5e-3)
    assert float(x.var()) == pytest.approx(expected.variance, rel=4 * math.sqrt(2 / number) + 5e-3)


# --- Orders of convergence --------------------------------------------------------------------------------------------


def slope(errors: dict[int, float]) -> float:
    """The order: minus the slope of log error over log steps."""
    return -float(np.polyfit(np.log(list(errors)), np.log(list(errors.values())), 1)[0])


def even_in_lambda(steps: int) -> Point:
    """Places of equal steps in lambda = log(alpha / sigma), as the papers' theorems take them, in float64."""
    lambdas = torch.linspace(-4.0, 4.0, steps + 1, dtype=torch.float64)
    return Point.of(torch.sigmoid(2 * lambdas))


def even_in_time(steps: int) -> Point:
    """Places of a rectified flow, at equal steps of its time."""
    return sampling.flow(torch.linspace(0.98, 0.02, steps + 1, dtype=torch.float64))


WEIGHTS = {
    "ddim": lambda before, t, s, second: sampling.ddim(t, s),
    "ancestral": lambda before, t, s, second: sampling.ddim(t, s, eta=1.0),
    "dpm++2m": sampling.dpm_solver_2m,
    "dpm++2m_sde": sampling.sde_dpm_solver_2m,
}


def solve(name: str, path: Point, data: Gaussian, start: Line) -> Line:
    """Where the sampler's own weights lead a Gaussian number along the path; weights[i + 1] is of step i's draw."""
    before = Point(*(torch.cat((part[:1], part[:-2])) for part in path))
    t, s = Point(*(part[:-1] for part in path)), Point(*(part[1:] for part in path))
    weights = WEIGHTS[name](before, t, s, torch.arange(len(t.alpha)) > 0)
    line, previous_x0, draws = start, Line(0.0), np.eye(len(t.alpha) + 1)
    for i, (step, here) in enumerate(
        zip(zip(*(w.tolist() for w in weights[:-1])), zip(*(part.tolist() for part in t)))
    ):
        step, x0 = Step(*step), data.denoised(line, Place(*here))
        noise = Line(0.0, step.noise * draws[i + 1])
        line, previous_x0 = step.x * line + step.x0 * x0 + step.previous_x0 * previous_x0 + noise, x0
    return line


@pytest.mark.parametrize("even", [even_in_lambda, even_in_time])
@pytest.mark.parametrize("name, order", [("ddim", 1), ("dpm++2m", 2)])
def test_the_error_against_the_exact_solution_falls_at_the_papers_order(name, order, even):
    data, x = Gaussian(0.3, 0.5), 1.2
    errors = {}
    for steps in (40, 80, 160, 320):
        path = even(steps)
        first, last = (Place(float(path.alpha[i]), float(path.sigma[i])) for i in (0, -1))
        errors[steps] = abs(solve(name, path, data, Line(x)).shift - data.solved(first, last, x))
    assert slope(errors) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("even", [even_in_lambda, even_in_time])
@pytest.mark.parametrize("name, order", [("ancestral", 1), ("dpm++2m_sde", 2)])
def test_with_noise_the_distribution_converges_at_that_order(name, order, even):
    """Of the variance: the weak order of a method for stochastic differential equations."""
    data, errors = Gaussian(0.3, 0.5), {}
    for steps in (80, 160, 320, 640):
        path = even(steps)
        first, last = (Place(float(path.alpha[i]), float(path.sigma[i])) for i in (0, -1))
        mean, variance = data.marginal(first)
        start = Line(mean, math.sqrt(variance) * np.eye(steps + 1)[0])
        errors[steps] = abs(solve(name, path, data, start).variance - data.marginal(last)[1])
    assert slope(errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(
    "sampler, order", [("ddim", 1), ("dpm++2m", 2), ("euler", 1), ("heun", 2), ("plms", 2), ("unipc", 2)]
)
def test_the_shipped_plan_converges_at_that_order(sampler, order):
    """With timesteps even in t, down to the end of the way, where lambda is infinite."""
    c, data = DiffusionConfig(sampler=sampler, schedule="cosine", num_timesteps=4000, clip=False), Gaussian(0.3, 0.5)
    errors = {steps: abs(math.sqrt(drawn(c, steps, data)[-1][1].variance) - data.s) for steps in (10, 20, 40, 80)}
    assert slope(errors) > order - 0.25


@pytest.mark.parametrize("sampler, order", [("euler", 1), ("heun", 2), ("plms", 2)])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_shipped_plan_of_a_flow_converges_at_that_order(sampler, order, shift):
    c = DiffusionConfig(sampler=sampler, prediction="flow", shift=shift, clip=False)
    data = Gaussian(0.3, 0.5)
    counts = (11, 21, 41) if sampler == "plms" else (41, 81, 161, 321)  # its error reaches that of float32 soon
    errors = {n: abs(math.sqrt(drawn(c, n, data)[-1][1].variance) - data.s) for n in counts}
    assert slope(errors) > order - 0.15


def test_lambda_is_half_the_log_signal_to_noise_ratio():
    alpha_bar = torch.tensor([0.5, 0.9, 1e-9, 1 - 1e-9], dtype=torch.float64)
    torch.testing.assert_close(sampling.lambda_(Point.of(alpha_bar)), torch.log(alpha_bar / (1 - alpha_bar)) / 2)
    ends = sampling.lambda_(Point.of(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    assert bool(ends.isfinite().all()) and ends[0] < -60 and ends[1] > 60
    falling = sampling.lambda_(place(sampling.alphas_bar(sampling.betas(DiffusionConfig())), range(1000)))
    assert bool((falling.diff() < 0).all())


# --- Parts ------------------------------------------------------------------------------------------------------------


def at(alpha: float, sigma: float) -> Point:
    return Point(*(torch.tensor([value], dtype=torch.float64) for value in (alpha, sigma)))


HERE, THERE = at(0.6, 0.8), at(0.96, 0.28)
PATH = Point(*(torch.cat(parts) for parts in zip(HERE, THERE)))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [False, True])
def test_of_what_the_network_says_the_step_makes_image_and_noise(prediction, clip):
    """DDIM's step without noise leads to alpha_s x_0 + sigma_s eps: both must come out of x and the output."""
    x0, eps = torch.randn(2, *SHAPE).clamp(-0.9, 0.9)
    output = {"epsilon": eps, "x0": x0, "v": 0.6 * eps - 0.8 * x0}[prediction]
    sampler = Sampler(Network(lambda x, t: output), DiffusionConfig(sampler="ddim", prediction=prediction, clip=clip))
    rows = rows_along(sampler, torch.tensor([500]), PATH)
    torch.testing.assert_close(sampler.predict(0.6 * x0 + 0.8 * eps, Row.of(rows[0]), None, None)[0], x0)
    [x_s] = walk(sampler, rows, 0.6 * x0 + 0.8 * eps)
    torch.testing.assert_close(x_s, 0.96 * x0 + 0.28 * eps)


def test_a_clipped_image_has_the_noise_that_belongs_to_it():
    x = 3 * torch.randn(SHAPE)
    sampler = Sampler(Network(lambda x, t: 0.5 * x), DiffusionConfig(sampler="ddim", clip=True))
    rows = rows_along(sampler, torch.tensor([500]), PATH)
    x0, _ = sampler.predict(x, Row.of(rows[0]), None, None)
    assert float(x0.abs().max()) == 1.0
    [x_s] = walk(sampler, rows, x)
    torch.testing.assert_close(x_s, 0.96 * x0 + 0.28 * (x - 0.6 * x0) / 0.8)


def test_guidance_0_is_unconditional_1_plain_and_4_exaggerates():
    u, c = torch.randn(2, *SHAPE)
    for guidance, expected in ((0.0, u), (1.0, c), (4.0, 4 * c - 3 * u)):  # equation 6 with w = 3
        torch.testing.assert_close(sampling.guided(u, c, torch.tensor([guidance])), expected)
    each = torch.tensor([0.0, 4.0])
    torch.testing.assert_close(sampling.guided(u, c, each), torch.stack((u[0], 4 * c[1] - 3 * u[1])))


def test_rescaled_guidance_has_the_deviation_of_the_conditional_output():
    """Lin et al. 2023, equations 14 to 16."""
    u, c = torch.randn(2, *SHAPE)
    guidance = torch.tensor([7.5, 3.0])
    full = sampling.guided(u, c, guidance)
    whole = sampling.guided(u, c, guidance, rescale=1.0)
    torch.testing.assert_close(whole.std(dim=(1, 2, 3)), c.std(dim=(1, 2, 3)))
    torch.testing.assert_close(sampling.guided(u, c, guidance, rescale=0.7), 0.7 * whole + 0.3 * full)


@pytest.mark.parametrize("low, high", [(0.0, 0.0), (0.5, 0.0), (0.0, 4.0), (0.5, 4.0)])
def test_guidance_is_plain_outside_of_its_interval(low, high):
    c = DiffusionConfig(prediction="x0", clip=False, guidance_from=low, guidance_to=high)
    sampler = Sampler(Labelled(), c)
    inside = []
    for numbers in planned(sampler, 10):
        row = Row.of(numbers)
        x0, _ = sampler.predict(torch.randn(1, 3, 4, 4), row, torch.tensor([2]), torch.tensor([4.0]))
        level = float(row.sigma / row.alpha)
        inside.append(low < level and (level <= high or not high))
        assert float(x0[0, 0, 0, 0]) == pytest.approx(0.7 + 4 * (0.2 - 0.7) if inside[-1] else 0.2, abs=1e-5)
    assert any(inside) and all(inside) == (low == high == 0.0)


def test_guidance_of_some_channels_leaves_the_others_conditional():
    u, c = torch.randn(2, 2, 8, 4, 4)
    out = sampling.guided(u, c, torch.tensor([3.0]), 3)
    torch.testing.assert_close(out[:, :3], 3 * c[:, :3] - 2 * u[:, :3])
    torch.testing.assert_close(out[:, 3:], c[:, 3:])


class Labelled(nn.Module):
    """Says 0.1 label everywhere, 0.7 for no label, and counts its calls."""

    config = UNetConfig(image_size=4, image_channels=3, num_classes=10)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.where(label < 0, 0.7, 0.1 * label)[:, None, None, None].expand_as(x)


def test_the_sampler_asks_with_and_without_the_label():
    sampler = Sampler(Labelled(), DiffusionConfig(prediction="x0", clip=False))
    row = Row.of(planned(sampler, 5)[0])
    label, guidance = torch.tensor([2, 2, 5, -1]), torch.tensor([0.0, 1.0, 4.0, 4.0])
    x0, _ = sampler.predict(torch.randn(4, 3, 4, 4), row, label, guidance)
    torch.testing.assert_close(x0[:, 0, 0, 0], torch.tensor([0.7, 0.2, 0.7 + 4 * (0.5 - 0.7), 0.7]))


def test_learned_deviation_lies_between_the_two_and_goes_on_beyond():
    """Equation 15 of Nichol and Dhariwal: log sigma^2 = v log beta + (1 - v) log beta~, here with v from -1 to 1."""
    v = torch.tensor([-1.0, 0.0, 1.0, 1.5])
    deviation = sampling.learned_deviation(torch.tensor(0.1), torch.tensor(0.4), v)
    torch.testing.assert_close(deviation, torch.tensor([0.1, 0.2, 0.4, 0.4 * 2**0.5]))


@pytest.mark.parametrize("v", [-3.0, -1.0, 0.0, 1.0, 3.0])
def test_where_no_noise_is_to_be_added_a_learned_deviation_adds_none(v):
    nothing = torch.tensor(0.0)
    assert float(sampling.learned_deviation(nothing, nothing, torch.tensor(v))) == pytest.approx(0.0, abs=1e-15)


def test_the_sampler_uses_the_learned_deviation_and_only_the_ancestral_one():
    both = Network(lambda x, t: torch.cat((0 * x, 0 * x + 3.0), dim=1))  # no noise; a deviation beyond the larger bound
    for kind in ("ddpm", "ddim"):
        sampler = Sampler(both, DiffusionConfig(sampler=kind, variance="learned"))
        for i, numbers in enumerate(planned(sampler, 4)):
            row = Row.of(numbers)
            x0, deviation = sampler.predict(torch.randn(SHAPE), row, None, None)
            assert x0.shape == SHAPE
            expected = float(row.noise_large**2 / row.noise) if kind == "ddpm" and i < 3 else 0.0
            torch.testing.assert_close(deviation, torch.as_tensor(expected).expand_as(deviation), atol=1e-9, rtol=1e-4)


# --- Which timesteps --------------------------------------------------------------------------------------------------


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


def test_a_row_is_as_wide_as_the_ports_say():
    assert len(Row._fields) == PLAN_COLUMNS + 1  # `earlier`, a column each
    for sampler in ("dpm++2m", *MEMORY):
        plan = Sampler(Network(lambda x, t: x), DiffusionConfig(sampler=sampler)).plan(torch.tensor(7))
        assert plan.shape[1] == PLAN_COLUMNS + MEMORY.get(sampler, 1) - 1
