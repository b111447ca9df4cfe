"""Changes to training pictures that keep what they mean."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """What may happen to each picture of a batch, at random; nothing by default."""

    mirror: bool = False  # half of the pictures, left to right
    shift: int = 0  # pixels; each picture is moved by up to this much in each direction, its edges repeated
    crop: float = 1.0  # a part of at least this share of the sides is cut out and scaled to the whole

    def __bool__(self) -> bool:
        return self != Augment()

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The changed batch, of the same size: uint8 [batch, height, width, channels].

        Args:
            generator: on the CPU; the only source of chance.
        """
        number, height, width, _ = images.shape

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(number, generator=generator)

        # For each picture: where the output's corners lie in it, from -1 to 1, as `affine_grid` counts.
        scale = uniform(self.crop, 1.0) if self.crop < 1 else torch.ones(number)
        x, y = (uniform(-1.0, 1.0) * (1 - scale) for _ in range(2))
        if self.shift:
            x, y = (
                centre + 2 * torch.randint(-self.shift, self.shift + 1, (number,), generator=generator) / side
                for centre, side in ((x, width), (y, height))
            )
        sign = torch.where(uniform(0.0, 1.0) < 0.5, -1.0, 1.0) if self.mirror else torch.ones(number)
        zero = torch.zeros(number)
        rows = torch.stack((torch.stack((sign * scale, zero, x), 1), torch.stack((zero, scale, y), 1)), 1)
        grid = F.affine_grid(rows.to(images.device), [number, 1, height, width], align_corners=False)
        floats = images.permute(0, 3, 1, 2).float()
        changed = F.grid_sample(floats, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return changed.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
