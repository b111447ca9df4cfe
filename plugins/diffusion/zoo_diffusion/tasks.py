"""What the graphs of a diffusion model do: a whole sampler each, noise in, pixels out.

Each module's `forward` is one task, as the ports in ports.py name it; label and guidance come last, since only networks
that know them have the ports. The loop is `zoo.build.loop.while_loop`, which exports to ONNX's Loop. What a step needs
of the schedule is a row of a table that is made once before the loop (`ports.COLUMNS`), because `steps` is an input.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.build.loop import while_loop
from zoo.build.random import normal

from . import samplers, schedule
from .config import DiffusionConfig
from .pixels import to_float, to_uint8
from .ports import COLUMNS, adds_noise
from .samplers import Point, Step
from .unet import halves


class Row:
    """A step's numbers by name, each a scalar tensor."""

    def __init__(self, numbers: Tensor):  # [len(COLUMNS)]
        for i, name in enumerate(COLUMNS):
            setattr(self, name, numbers[i])


class Sampler(nn.Module):
    """A denoiser with its schedule: the plan of a walk from noise to picture, and the steps of it."""

    def __init__(self, network: nn.Module, c: DiffusionConfig, *, sampler: str | None = None, eta: float | None = None):
        """`sampler` and `eta` replace the config's."""
        super().__init__()
        self.network, self.c = network, c
        self.sampler, self.eta = sampler or c.sampler, c.eta if eta is None else eta
        self.shape = (network.config.image_channels, *network.config.size)
        self.learned = c.variance == "learned"
        self.noisy = self.sampler == "ddpm" or (self.sampler == "ddim" and self.eta > 0)
        abar = schedule.alphas_bar(schedule.betas(c)).clamp(0, 1)
        # Place 0 is the end, a clean picture; place t + 1 is timestep t. A step's weights are differences of abar near
        # 1, which float32 has lost: it is kept as the sum of two, each a small enough table also for 4,000 timesteps.
        abar = torch.cat((torch.ones(1, dtype=torch.float64), abar))
        self.register_buffer("abar", abar.float(), persistent=False)
        self.register_buffer("abar_rest", (abar - abar.float()).float(), persistent=False)

    def plan(self, steps: Tensor) -> Tensor:
        """float32 [T, len(COLUMNS)]; the first `steps` rows (int64 [], 1 .. T) are the walk, the rest are zeros."""
        i = torch.arange(self.c.num_timesteps, device=steps.device)
        t = samplers.timesteps(self.c.spacing, i, steps, self.c.num_timesteps)
        place = torch.where(i < steps, t + 1, 0)
        before = self._point(torch.cat((place[:1], place[:-1])))
        here = self._point(place.clamp(min=1))
        there = self._point(torch.cat((place[1:], torch.zeros_like(place[:1]))))
        step, large = self._step(before, here, there, (i > 0) & (i < steps - 1))
        a, b = samplers.x0_weights(self.c.prediction, here)
        last = i == steps - 1  # there, noise would stay in the picture
        columns = (
            t.to(torch.float64) * self.c.timestep_scale,
            here.alpha,
            here.sigma,
            a,
            b,
            step.x,
            step.x0,
            step.previous_x0,
            torch.where(last, 0.0, step.noise),
            torch.where(last, 0.0, large),
        )
        rows = torch.stack([column + torch.zeros_like(here.alpha) for column in columns], dim=1)
        return torch.where((i < steps).unsqueeze(1), rows, 0.0).to(torch.float32)

    def _point(self, place: Tensor) -> Point:
        abar, rest = (table.index_select(0, place).to(torch.float64) for table in (self.abar, self.abar_rest))
        return Point((abar + rest).sqrt(), (1 - abar - rest).sqrt())

    def _step(self, before: Point, here: Point, there: Point, inner: Tensor) -> tuple[Step, Tensor]:
        """The steps' weights and the larger bound of their noise; `inner`: neither the first step nor the last."""
        none = torch.zeros_like(here.alpha)
        if self.sampler == "ddpm":
            step = samplers.ddpm(here, there, variance="large" if self.c.variance == "large" else "small")
            return step, samplers.ddpm(here, there, variance="large").noise
        if self.sampler == "ddim":
            return samplers.ddim(here, there, eta=self.eta).without_eps(here), none
        first_order = samplers.dpm_solver_2m(None, here, there)
        second_order = samplers.dpm_solver_2m(before, here, there)
        pairs = zip(first_order, second_order)
        return Step(*(torch.where(inner, second, first) for first, second in pairs)), none

    def predict(self, x: Tensor, row: Row, label: Tensor | None, guidance: Tensor | None) -> tuple[Tensor, Tensor]:
        """What x shows, -1 .. 1 where the config clips, and the deviation of the noise to add, one or per pixel."""
        t = row.t.expand(x.shape[0])
        if guidance is None:
            output = self.network(x, t, label)
        else:
            both = torch.cat((label, torch.full_like(label, -1)))
            output = self.network(torch.cat((x, x)), torch.cat((t, t)), both)
            output = output.unflatten(0, (2, x.shape[0]))
            conditional, unconditional = output[0], output[1]
            channels = self.c.guided_channels or (self.shape[0] if self.learned else 0)
            output = samplers.guided(unconditional, conditional, guidance[:, None, None, None], channels)
        deviation = row.noise
        if self.learned:
            output, v = halves(output)
            if self.sampler == "ddpm":
                deviation = samplers.learned_deviation(row.noise, row.noise_large, v)
        x0 = row.from_x * x + row.from_output * output
        return (x0.clamp(-1, 1) if self.c.clip else x0), deviation

    def advance(self, x: Tensor, x0: Tensor, previous_x0: Tensor, row: Row) -> Tensor:
        """The next x, but for fresh noise."""
        return row.x * x + row.x0 * x0 + row.previous_x0 * previous_x0

    def start(self, seed: Tensor) -> Tensor:
        """Noise, float32 [batch, C, H, W]: stream 0 of each seed."""
        return normal(seed, self.shape)

    def fresh(self, seed: Tensor, i: Tensor) -> Tensor:
        """The noise that step i adds: stream i + 1 of each seed."""
        return normal(seed, self.shape, i + 1)

    def walk(
        self,
        x: Tensor,
        steps: Tensor,
        body: Callable[[Tensor, Row, Tensor, Tensor], tuple[Tensor, Tensor]],
        first: Tensor | None = None,
    ) -> Tensor:
        """Goes all steps from x; `body` takes step number, row, x and the x0 before, and gives the next x and x0."""
        rows = self.plan(steps)

        def more(i: Tensor, x: Tensor, previous_x0: Tensor) -> Tensor:
            return i < steps

        def step(i: Tensor, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            row = Row(rows.index_select(0, i.reshape(1)).squeeze(0))
            x, x0 = body(i, row, x, previous_x0)
            return i + 1, x, x0

        first = torch.zeros_like(steps) if first is None else first
        return while_loop(more, step, (first, x, torch.zeros_like(x)))[1]


class Generate(Sampler):
    """seed, steps[, label[, guidance]] -> image."""

    def forward(
        self, seed: Tensor, steps: Tensor, label: Tensor | None = None, guidance: Tensor | None = None
    ) -> Tensor:
        def body(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            x0, deviation = self.predict(x, row, label, guidance)
            x = self.advance(x, x0, previous_x0, row)
            return (x + deviation * self.fresh(seed, i) if self.noisy else x), x0

        x = self.walk(self.start(seed), steps, body)
        return to_uint8(x) if self.shape[0] in (1, 3) else x


class Begin(Sampler):
    """seed, steps -> x, previous_x0, plan: what a host that keeps the loop starts with."""

    def forward(self, seed: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.start(seed)
        return x, torch.zeros_like(x), self.plan(steps)


class TakeStep(Sampler):
    """x, previous_x0, row[, label[, guidance]] -> next_x, x0: `row` is that of this step in the plan."""

    def forward(
        self, x: Tensor, previous_x0: Tensor, row: Tensor, label: Tensor | None = None, guidance: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        numbers = Row(row)
        x0, _ = self.predict(x, numbers, label, guidance)
        return self.advance(x, x0, previous_x0, numbers), x0


class TakeNoisyStep(Sampler):
    """x, previous_x0, row, seed, index[, label[, guidance]] -> next_x, x0, for samplers that add noise in a step."""

    def forward(
        self,
        x: Tensor,
        previous_x0: Tensor,
        row: Tensor,
        seed: Tensor,
        index: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        numbers = Row(row)
        x0, deviation = self.predict(x, numbers, label, guidance)
        return self.advance(x, x0, previous_x0, numbers) + deviation * self.fresh(seed, index), x0


class End(nn.Module):
    """x -> image."""

    def forward(self, x: Tensor) -> Tensor:
        return to_uint8(x)


# --- Pictures that must agree with a given one: DDNM ------------------------------------------------------------------

DDNM_ETA = 0.85  # of the paper's code: some noise lets what is drawn anew agree with what is given


class Restore(Sampler):
    """DDIM whose every predicted picture is made to agree with what is known of it.

    Source: Wang, Yu, Zhang 2022, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model"
    (https://arxiv.org/abs/2212.00490), equation 13 and algorithm 1: with a linear degradation A and its pseudo-inverse
    A+, x0 <- A+ y + (I - A+ A) x0. The range of A comes from the given picture y, the rest from the model.
    """

    def __init__(self, network: nn.Module, c: DiffusionConfig):
        super().__init__(network, c, sampler="ddim", eta=DDNM_ETA)

    def restore(
        self,
        agree: Callable[[Tensor], Tensor],
        seed: Tensor,
        steps: Tensor,
        label: Tensor | None,
        guidance: Tensor | None,
    ) -> Tensor:
        def body(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            x0 = agree(self.predict(x, row, label, guidance)[0])
            return self.advance(x, x0, previous_x0, row) + row.noise * self.fresh(seed, i), x0

        return to_uint8(self.walk(self.start(seed), steps, body))


class Inpaint(Restore):
    """image, mask, seed, steps[, label[, guidance]] -> inpainted. A keeps the pixels whose mask is under 128."""

    def forward(
        self,
        image: Tensor,
        mask: Tensor,
        seed: Tensor,
        steps: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        y = to_float(image)
        anew = (mask.permute(0, 3, 1, 2) >= 128).to(torch.float32)  # [N, 1, H, W]
        return self.restore(lambda x0: y + anew * (x0 - y), seed, steps, label, guidance)


class Upscale(Restore):
    """image, seed, steps[, label[, guidance]] -> upscaled. A is the mean of factor x factor pixels; A+ repeats it."""

    def __init__(self, network: nn.Module, c: DiffusionConfig, factor: int):
        super().__init__(network, c)
        self.factor = factor

    def forward(
        self, image: Tensor, seed: Tensor, steps: Tensor, label: Tensor | None = None, guidance: Tensor | None = None
    ) -> Tensor:
        y = to_float(image)

        def agree(x0: Tensor) -> Tensor:
            missing = y - F.avg_pool2d(x0, self.factor)
            return x0 + F.interpolate(missing, scale_factor=float(self.factor), mode="nearest")

        return self.restore(agree, seed, steps, label, guidance)


class Colorize(Restore):
    """image (grey), seed, steps[, label[, guidance]] -> colorized. A is the mean of the three channels."""

    def forward(
        self, image: Tensor, seed: Tensor, steps: Tensor, label: Tensor | None = None, guidance: Tensor | None = None
    ) -> Tensor:
        y = to_float(image)
        return self.restore(lambda x0: x0 + (y - x0.mean(dim=1, keepdim=True)), seed, steps, label, guidance)


class Denoise(Restore):
    """image, sigma (levels, 0 .. 255), seed, steps[, label[, guidance]] -> denoised.

    DDNM+ (Wang et al. 2022, section 3.3) with A = I: y itself is noisy, by sigma_y. The predicted picture moves to y by
    the share lambda, so that no more of y's noise comes in than the next point may hold, and fresh noise fills that up:
    lambda = min(1, sigma' / (alpha' sigma_y)), variance sigma'^2 - (alpha' lambda sigma_y)^2; 1 where y has no noise.
    """

    def forward(
        self,
        image: Tensor,
        sigma: Tensor,
        seed: Tensor,
        steps: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        y = to_float(image)
        sigma_y = (sigma / 127.5)[:, None, None, None]  # in the unit of y
        ends = self.plan(steps)[:, 1:3]
        # Row i: alpha and sigma where step i leads.
        ends = torch.cat((ends[1:], torch.zeros_like(ends[:1])))

        def body(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            last = i == steps - 1
            end = ends.index_select(0, i.reshape(1)).squeeze(0)
            alpha, sigma = torch.where(last, 1.0, end[0]), torch.where(last, 0.0, end[1])
            most = alpha * sigma_y  # of y's noise, if all of y comes in
            share = torch.where(sigma >= most, 1.0, sigma / most.clamp(min=1e-6))  # lambda
            x0 = self.predict(x, row, label, guidance)[0]
            x0 = x0 + share * (y - x0)
            deviation = (sigma**2 - (alpha * share * sigma_y) ** 2).clamp(min=0).sqrt()
            return alpha * x0 + deviation * self.fresh(seed, i), x0

        return to_uint8(self.walk(self.start(seed), steps, body))


class Variations(Sampler):
    """image, strength (0 .. 1), seed, steps[, label[, guidance]] -> variation.

    Meng et al. 2021, "SDEdit" (https://arxiv.org/abs/2108.01073), algorithm 1: noise the picture to a place on the way,
    and go on from there. Strength 0 gives the picture back, 1 leaves nothing of it but a trace; each picture has its
    own.
    """

    def forward(
        self,
        image: Tensor,
        strength: Tensor,
        seed: Tensor,
        steps: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        y, eps = to_float(image), self.start(seed)
        begins = torch.round((1 - strength) * steps).to(torch.int64)  # the first step of each picture, 0 .. steps

        def body(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            begun = (i >= begins)[:, None, None, None]
            fresh = (i <= begins)[:, None, None, None]
            x = torch.where(fresh, row.alpha * y + row.sigma * eps, x)
            x0, deviation = self.predict(x, row, label, guidance)
            x_next = self.advance(x, x0, torch.where(fresh, x0, previous_x0), row)
            if self.noisy:
                x_next = x_next + deviation * self.fresh(seed, i)
            return torch.where(begun, x_next, y), x0

        return to_uint8(self.walk(y + torch.zeros_like(eps), steps, body, first=begins.min()))


def build(task: str, network: nn.Module, c: DiffusionConfig) -> nn.Module:
    """The module of a task of ports.py."""
    if task == "generate_end":
        return End()
    if task.startswith("upscale"):
        return Upscale(network, c, int(task.removeprefix("upscale")))
    modules = {
        "generate": Generate,
        "generate_begin": Begin,
        "generate_step": TakeNoisyStep if adds_noise(c) else TakeStep,
        "inpaint": Inpaint,
        "denoise": Denoise,
        "colorize": Colorize,
        "variations": Variations,
    }
    return modules[task](network, c)
