"""The graphs of a diffusion model other than `generate`: its parts for hosts, and tasks that start from an image.

Each module's `forward` is one task, with the ports in ports.py; label and guidance come last, since only networks that
support them have these ports. The sampler is that of sampling.py; a task defines what is done to x_0, or to x, in a
step.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from msgspec.structs import replace
from torch import Tensor, nn

from .config import DiffusionConfig
from .pixels import to_float, to_uint8
from .ports import adds_noise
from .sampling import (
    Count,
    Denoiser,
    Generate,
    Images,
    Labels,
    Memory,
    Numbers,
    Pixels,
    Point,
    Row,
    Sampler,
    Seeds,
    diffuse,
)

# --- The parts of `generate`, for hosts that run the loop -------------------------------------------------------------


class Begin(Sampler):
    """seed, steps -> x, previous_x0, plan."""

    def forward(self, seed: Seeds, steps: Count) -> tuple[Images, Memory, Float32[Tensor, "T columns"]]:
        x = self.start(seed, steps)
        return x, self.nothing_remembered(x), self.plan(steps)


class TakeStep(Sampler):
    """x, previous_x0, row[, label[, guidance]] -> next_x, x0: `row` is this step's row of the plan."""

    def forward(
        self,
        x: Images,
        previous_x0: Memory,
        row: Float32[Tensor, " columns"],
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> tuple[Images, Memory]:
        unused = torch.zeros((), dtype=torch.int64)
        return self.step(unused, Row.of(row), x, previous_x0, None, label, guidance)


class TakeNoisyStep(Sampler):
    """x, previous_x0, row, seed, index[, label[, guidance]] -> next_x, x0, for samplers that add noise in a step."""

    def forward(
        self,
        x: Images,
        previous_x0: Memory,
        row: Float32[Tensor, " columns"],
        seed: Seeds,
        index: Count,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> tuple[Images, Memory]:
        return self.step(index, Row.of(row), x, previous_x0, seed, label, guidance)


class End(nn.Module):
    """x -> image."""

    def forward(self, x: Images) -> Pixels:
        return to_uint8(x)


# --- Images that must agree with a given one: DDNM --------------------------------------------------------------------

DDNM_ETA = 0.85  # from the paper's code: some noise lets the redrawn part adapt to the given one


class Restore(Sampler):
    """DDIM in which every x_0 is made to agree with the known data.

    Source: Wang, Yu, Zhang 2022, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model"
    (https://arxiv.org/abs/2212.00490), equation 13 and algorithm 1: with a linear degradation A and its pseudo-inverse
    A+, x_0 <- A+ y + (I - A+ A) x_0. The range of A comes from the given image y, the rest from the model.
    """

    def __init__(self, network: Denoiser, c: DiffusionConfig):
        # A consistency function adds fresh noise to its x_0 anyway: Song et al. 2023, algorithm 4.
        super().__init__(network, c if c.sampler == "consistency" else replace(c, sampler="ddim", eta=DDNM_ETA))

    def restore(
        self,
        agree: Callable[[Tensor], Tensor],
        seed: Seeds,
        steps: Count,
        label: Labels | None,
        guidance: Numbers | None,
    ) -> Pixels:
        def step(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            x0, deviation = self.predict(x, row, label, guidance)
            x0 = agree(x0)
            return self.advance(x, x0, previous_x0, row) + deviation * self.noise(seed, i + 1), x0

        return to_uint8(self.loop(self.noise(seed, 0), steps, step))


class Inpaint(Restore):
    """image, mask, seed, steps[, label[, guidance]] -> inpainted. A keeps the pixels whose mask is below 128."""

    def forward(
        self,
        image: Pixels,
        mask: UInt8[Tensor, "batch height width 1"],
        seed: Seeds,
        steps: Count,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Pixels:
        y = to_float(image)
        redrawn = (mask.permute(0, 3, 1, 2) >= 128).to(torch.float32)  # [batch, 1, height, width]
        return self.restore(lambda x0: y + redrawn * (x0 - y), seed, steps, label, guidance)


class Upscale(Restore):
    """image, seed, steps[, label[, guidance]] -> upscaled. A is the mean of factor x factor pixels; A+ repeats it."""

    def __init__(self, network: Denoiser, c: DiffusionConfig, factor: int):
        super().__init__(network, c)
        self.factor = factor

    def forward(
        self,
        image: UInt8[Tensor, "batch small_height small_width channels"],
        seed: Seeds,
        steps: Count,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Pixels:
        y = to_float(image)

        def agree(x0: Tensor) -> Tensor:
            missing = y - F.avg_pool2d(x0, self.factor)
            return x0 + F.interpolate(missing, scale_factor=float(self.factor), mode="nearest")

        return self.restore(agree, seed, steps, label, guidance)


class Colorize(Restore):
    """image (grey), seed, steps[, label[, guidance]] -> colorized. A is the mean of the three channels."""

    def forward(
        self,
        image: UInt8[Tensor, "batch height width 1"],
        seed: Seeds,
        steps: Count,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Pixels:
        y = to_float(image)
        return self.restore(lambda x0: x0 + (y - x0.mean(dim=1, keepdim=True)), seed, steps, label, guidance)


class Denoise(Restore):
    """image, sigma (levels, 0 .. 255), seed, steps[, label[, guidance]] -> denoised.

    DDNM+ (Wang et al. 2022, section 3.3) with A = I: y itself has noise sigma_y. x_0 moves towards y by the share
    lambda, so that y contributes at most the noise that the next point may have, and new noise makes up the rest:
    lambda = min(1, sigma_s / (alpha_s sigma_y)), variance sigma_s^2 - (alpha_s lambda sigma_y)^2; lambda is 1 if y has
    no noise.
    """

    def forward(
        self,
        image: Pixels,
        sigma: Numbers,
        seed: Seeds,
        steps: Count,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Pixels:
        y = to_float(image)
        sigma_y = (sigma / 127.5)[:, None, None, None]  # in the unit of y
        _, _, _, s = self.places(torch.arange(self.c.most_steps, device=steps.device), steps)
        ends = torch.stack(s, dim=1).to(torch.float32)  # row i: alpha_s and sigma_s of step i

        def step(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            end = ends.index_select(0, i.reshape(1)).squeeze(0)
            alpha_s, sigma_s = end[0], end[1]
            most = alpha_s * sigma_y  # noise from y if lambda is 1
            share = torch.where(sigma_s >= most, 1.0, sigma_s / most.clamp(min=1e-6))  # lambda
            x0 = self.predict(x, row, label, guidance)[0]
            x0 = x0 + share * (y - x0)
            deviation = (sigma_s**2 - (alpha_s * share * sigma_y) ** 2).clamp(min=0).sqrt()
            return alpha_s * x0 + deviation * self.noise(seed, i + 1), x0

        return to_uint8(self.loop(self.noise(seed, 0), steps, step))


class Variations(Sampler):
    """image, strength (0 .. 1), seed, steps[, label[, guidance]] -> variation.

    Meng et al. 2021, "SDEdit" (https://arxiv.org/abs/2108.01073), algorithm 1: add the noise of an intermediate point,
    and sample from there. Strength 0 returns the image, 1 leaves only a trace of it; each image has its own strength.
    """

    def forward(
        self,
        image: Pixels,
        strength: Numbers,
        seed: Seeds,
        steps: Count,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Pixels:
        y, eps = to_float(image), self.noise(seed, 0)
        starts = torch.round((1 - strength) * steps).to(torch.int64)  # the first step of each image, 0 .. steps

        def step(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            started = (i >= starts)[:, None, None, None]
            fresh = (i <= starts)[:, None, None, None]
            x = torch.where(fresh, diffuse(y, eps, Point(row.alpha, row.sigma)), x)
            x_next, x0 = self.step(i, row, x, previous_x0, seed, label, guidance, fresh)
            return torch.where(started, x_next, y), x0

        return to_uint8(self.loop(y + torch.zeros_like(eps), steps, step, first=starts.min()))


def build(task: str, network: Denoiser, c: DiffusionConfig) -> nn.Module:
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
