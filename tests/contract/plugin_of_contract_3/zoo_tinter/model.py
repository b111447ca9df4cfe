from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from zoo.build.random import uniform


class Tinter(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.gain = nn.Parameter(0.5 + 0.01 * torch.rand(len(levels), 1))
        self.register_buffer("levels", torch.tensor(levels))

    def forward(self, x, style):  # [N, H, W, 1] of 0 .. 1 -> the same
        return x * self.gain[style][:, None, None]


class Tint(nn.Module):
    def __init__(self, tinter):
        super().__init__()
        self.tinter = tinter

    def forward(self, image, style):
        return (self.tinter(image.float() / 255, style) * 255).clamp(0, 255).round().to(torch.uint8)


class Speckle(nn.Module):
    """A pixel is white with a probability that the style's gain gives: choices that rounding can flip."""

    def __init__(self, tinter):
        super().__init__()
        self.tinter = tinter

    def chances(self, seed, style, times):  # random numbers and their thresholds, [N, 16, 16, 1]
        gain = self.tinter.gain[style][:, None, None]
        return uniform(seed, (16, 16, 1)), torch.sigmoid(gain * times.float())

    def forward(self, seed, style, times):
        value, threshold = self.chances(seed, style, times)
        return (value < threshold).to(torch.uint8) * 255

    def margins(self, seed, style, times):
        value, threshold = self.chances(seed, style, times)
        return (value - threshold).abs()


class TinterTrainer:
    note = "on pairs"

    def __init__(self, request):
        assert "levels.csv" in request.assets
        self.module = request.module
        self.optimizer = torch.optim.SGD(request.module.parameters(), lr=request.settings["learning_rate"])

    def loss(self, batch):
        before, after = batch.images.float() / 255, batch.arrays["after"].float() / 255
        return F.mse_loss(self.module(before, batch.arrays["style"]), after)

    def augment(self, batch, generator):
        turned = torch.rand((), generator=generator) < 0.5
        if not turned:
            return batch
        arrays = {**batch.arrays, "after": batch.arrays["after"].flip(1)}
        return replace(batch, images=batch.images.flip(1), arrays=arrays)

    def step(self, batch, step, generator):
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def validate(self, batch, generator):
        return {"loss": self.loss(batch)}

    def examine(self, batch, generator):
        return {"largest_gain": self.module.gain.max(), "targets": batch.arrays["after"]}

    def state_dict(self):
        return {"module": self.module.state_dict()}

    def load_state_dict(self, state):
        self.module.load_state_dict(state["module"])

    def trained_module(self):
        return self.module
