"""The shipped sampler, walked step by step with given noise, for tests."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from zoo_diffusion import sampling
from zoo_diffusion.config import DiffusionConfig, UNetConfig
from zoo_diffusion.sampling import Point, Row, Sampler

SHAPE = (2, 3, 4, 4)


class Network(nn.Module):
    """A function of x and t as a denoiser of images with 3 channels of 4x4 pixels."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], size: int = 4, channels: int = 3):
        super().__init__()
        self.function, self.config = function, UNetConfig(image_size=size, image_channels=channels)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.function(x, t)


class Given(Sampler):
    """The sampler of the bundles, but for its noise: that of step i is `noises[i]`, and 0 after the last."""

    def __init__(self, network: nn.Module, c: DiffusionConfig, noises: Sequence[Tensor] = ()):
        super().__init__(network, c)
        self.noises = noises

    def noise(self, seed: Tensor, stream: int | Tensor) -> Tensor:
        i = int(stream) - 1
        return self.noises[i] if i < len(self.noises) else torch.zeros(len(seed), *self.shape)


def walk(sampler: Sampler, rows: Iterable[Tensor], x: Tensor, starts: Iterable[Tensor] = ()) -> list[Tensor]:
    """x after each of the rows' steps, with the step that bundles have.

    Each starts where the one before ended or, while there are any, from the next of `starts`.
    """
    previous_x0, seed, trajectory = sampler.nothing_remembered(x), torch.zeros(len(x), dtype=torch.int64), []
    starts = iter(starts)
    for i, row in enumerate(rows):
        x = next(starts, x)
        x, previous_x0 = sampler.step(torch.tensor(i), Row.of(row), x, previous_x0, seed, None, None)
        trajectory.append(x)
    return trajectory


def planned(sampler: Sampler, steps: int) -> Tensor:
    """The rows that the sampler plans for so many steps."""
    return sampler.plan(torch.tensor(steps))[:steps]


def rows_along(sampler: Sampler, timesteps: Tensor, path: Point) -> Tensor:
    """The rows of a walk along places that no plan has: n timesteps, and n + 1 places with the one where it ends."""
    before = Point(*(torch.cat((part[:1], part[:-2])) for part in path))
    t, s = Point(*(part[:-1] for part in path)), Point(*(part[1:] for part in path))
    i = torch.arange(len(timesteps))
    return sampler.rows(timesteps, before, t, s, first=i == 0, last=i == len(timesteps) - 1)


def place(alpha_bar: Tensor, timesteps: Sequence[int]) -> Point:
    """The places of timesteps, float64 [n]; one below 0 is the end."""
    signal = torch.tensor([float(alpha_bar[t]) if t >= 0 else 1.0 for t in timesteps], dtype=torch.float64)
    return Point.of(signal)


def spaced(spacing: str, steps: int, T: int) -> list[int]:
    return sampling.timesteps(spacing, torch.arange(steps), torch.tensor(steps), T).tolist()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
