"""What the graphs of a VQ codec do: pixels in, tokens; tokens in, pixels.

Each module's `forward` is one task, as the ports in plugin.py name it. Pictures of any size of at least 8x8 pixels are
padded inside to a multiple of the downsampling factor by repeating the edge, and cropped back on the way out.
"""

import torch
from torch import Tensor, nn

from .quantize import nearest_code


def to_float(image: Tensor) -> Tensor:
    """uint8 [N, H, W, C], 0 .. 255, to float [N, C, H, W], -1 .. 1."""
    return image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """float [N, C, H, W], -1 .. 1, to uint8 [N, H, W, C]; values outside are clamped, halves round to even."""
    levels = ((x + 1) * 127.5).clamp(0, 255).round()
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


def pad_to_multiple(x: Tensor, factor: int) -> Tensor:
    """[N, C, H, W] with H and W rounded up to multiples of `factor`, the last row and column repeated."""
    for axis in (2, 3):
        length = x.shape[axis]
        padded = (length + factor - 1) // factor * factor
        index = torch.arange(padded, device=x.device).clamp(max=length - 1)
        x = x.index_select(axis, index)
    return x


def crop(x: Tensor, size: Tensor) -> Tensor:
    """The upper left `size` (int64 [2]: height, width) of [N, C, H, W]; larger sizes give what is there."""
    for axis in (2, 3):
        index = torch.arange(x.shape[axis], device=x.device)
        keep = index[index < size[axis - 2]]
        x = x.index_select(axis, keep)
    return x


def margins(z_e: Tensor, codebook: Tensor) -> Tensor:
    """Distance of the second-best code less that of the best: float [N, h, w, code_size] to [N, h, w]."""
    distances = torch.cdist(z_e.flatten(1, 2), codebook.unsqueeze(0)).square()
    best = distances.topk(2, dim=-1, largest=False).values
    return (best[..., 1] - best[..., 0]).reshape(z_e.shape[:-1])


class Encode(nn.Module):
    """image -> tokens, size."""

    def __init__(self, codec: nn.Module):
        super().__init__()
        self.codec = codec

    def latents(self, image: Tensor) -> Tensor:  # uint8 [N, H, W, C] -> float [N, h, w, code_size]
        x = pad_to_multiple(to_float(image), self.codec.config.downsampling)
        return self.codec.encoder(x).permute(0, 2, 3, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = nearest_code(self.latents(image), self.codec.quantizer.codebook)
        size = torch.tensor([image.shape[1], image.shape[2]], dtype=torch.int64)
        return tokens, size

    def margins(self, image: Tensor) -> Tensor:
        return margins(self.latents(image), self.codec.quantizer.codebook)


class Decode(nn.Module):
    """tokens, size -> image."""

    def __init__(self, codec: nn.Module):
        super().__init__()
        self.codec = codec

    def forward(self, tokens: Tensor, size: Tensor) -> Tensor:
        z_q = self.codec.quantizer.decode(tokens).permute(0, 3, 1, 2)
        return to_uint8(crop(self.codec.decoder(z_q), size))


class Reconstruct(nn.Module):
    """image -> reconstruction: encode, then decode."""

    def __init__(self, codec: nn.Module):
        super().__init__()
        self.encode = Encode(codec)

    def forward(self, image: Tensor) -> Tensor:
        codec = self.encode.codec
        tokens, _ = self.encode(image)
        x = codec.decoder(codec.quantizer.decode(tokens).permute(0, 3, 1, 2))
        return to_uint8(x[:, :, : image.shape[1], : image.shape[2]])

    def margins(self, image: Tensor) -> Tensor:
        return self.encode.margins(image)
