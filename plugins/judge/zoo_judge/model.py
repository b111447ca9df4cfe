"""A small residual classifier, and the tasks of its graphs.

He et al. 2016, "Identity Mappings in Deep Residual Networks" (https://arxiv.org/abs/1603.05027): pre-activation blocks,
each level half the size of the previous one. Departs from it: GroupNorm (Wu and He 2018) instead of BatchNorm, so that
training and evaluation compute the same.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn

from .config import JudgeConfig

Pixels = UInt8[Tensor, "batch height width channels"]
Images = Float[Tensor, "batch image_channels height width"]


class Block(nn.Module):
    """x + conv3x3(relu(norm(conv3x3(relu(norm(x))))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm_1 = nn.GroupNorm(8, channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_2 = nn.GroupNorm(8, channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        h = self.conv_1(F.relu(self.norm_1(x)))
        return x + self.conv_2(F.relu(self.norm_2(h)))


class Judge(nn.Module):
    """Images -1 .. 1 of any size to features, as many as the last width, and logits of the classes.

    With several labels, the logits are those of the first one's classes, then the second one's, and so on.
    """

    def __init__(self, config: JudgeConfig):
        super().__init__()
        self.patch_size, self.sizes = config.patch_size, tuple(config.sizes.values())
        widths = (config.image_channels * config.patch_size**2, *config.widths)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1) for i, (a, b) in enumerate(zip(widths, widths[1:]))
        )
        self.blocks = nn.ModuleList(Block(width) for width in config.widths)
        self.norm = nn.GroupNorm(8, config.widths[-1])
        self.head = nn.Linear(config.widths[-1], config.num_classes)

    def features(self, x: Images) -> Float[Tensor, "batch features"]:
        if self.patch_size > 1:
            x = patches(x, self.patch_size)
        for down, block in zip(self.downs, self.blocks):
            x = block(down(x))
        return F.relu(self.norm(x)).mean(dim=(2, 3))

    def forward(self, x: Images) -> Float[Tensor, "batch classes"]:
        return self.head(self.features(x))


def patches(x: Images, size: int) -> Float[Tensor, "batch channels rows columns"]:
    """Pixels of a patch as channels; white is added at the right and at the bottom where patches are not full."""
    return F.pixel_unshuffle(F.pad(x, (0, -x.shape[3] % size, 0, -x.shape[2] % size), value=1.0), size)


def to_float(image: Pixels) -> Float32[Tensor, "batch channels height width"]:
    """0 .. 255 to -1 .. 1."""
    return image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


class Classify(nn.Module):
    """image -> each label, the probabilities of each label's classes."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge

    def forward(self, image: Pixels) -> tuple[Int64[Tensor, " batch"] | Float32[Tensor, "batch _"], ...]:
        logits = self.judge(to_float(image)).split(self.judge.sizes, dim=1)
        probabilities = [each.softmax(dim=1) for each in logits]
        return *(each.argmax(dim=1) for each in probabilities), *probabilities


class Features(nn.Module):
    """image -> features: the input of the last layer, for distances between sets of images."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge

    def forward(self, image: Pixels) -> Float32[Tensor, "batch features"]:
        return self.judge.features(to_float(image))
