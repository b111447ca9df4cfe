"""Pixels to the range of a denoiser and back."""

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor


def to_float(
    image: UInt8[Tensor, "batch height width channels"],
) -> Float32[Tensor, "batch channels height width"]:
    """0 .. 255 to -1 .. 1."""
    x = image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    # A loop's values must keep their strides, also those of axes of length 1, which `contiguous` does not change.
    return x.clone(memory_format=torch.contiguous_format)


def to_uint8(x: Float32[Tensor, "batch channels height width"]) -> UInt8[Tensor, "batch height width channels"]:
    """-1 .. 1 to 0 .. 255; values outside are clamped, halves round to even."""
    levels = ((x + 1) * 127.5).clamp(0, 255).round()
    return levels.permute(0, 2, 3, 1).to(torch.uint8)
