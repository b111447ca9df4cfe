"""What the graphs of a VQ codec do: pixels in, tokens; tokens in, pixels.

Each module's `forward` is one task, as the ports in plugin.py name it. Pictures of any size of at least 8x8 pixels are
padded inside to a multiple of the downsampling factor by repeating the edge, and cropped back on the way out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .prior import MaskedDrawing, Prior, SequentialDrawing
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


class Generate(nn.Module):
    """What the tasks of a prior share: codec, prior, and the way from tokens to a picture."""

    def __init__(self, codec: nn.Module, prior: Prior):
        super().__init__()
        self.codec, self.prior = codec, prior

    def label(self, label: Tensor | None, seed: Tensor) -> Tensor:
        """int64 [N]; -1 where the prior knows no labels."""
        return torch.full_like(seed, -1) if label is None else label

    def to_image(self, tokens: Tensor) -> Tensor:
        """int64 [N, L] to uint8 [N, H, W, C]."""
        c = self.prior.config
        z_q = self.codec.quantizer.decode(tokens.unflatten(1, (c.rows, c.columns)))
        return to_uint8(self.codec.decoder(z_q.permute(0, 3, 1, 2)))


class GenerateMasked(Generate):
    """seed, steps, temperature[, label, guidance] -> image."""

    def __init__(self, codec: nn.Module, prior: Prior):
        super().__init__(codec, prior)
        self.drawing = MaskedDrawing(prior)

    def start(self, seed: Tensor) -> Tensor:
        """Nothing but masks, int64 [N, L]."""
        masked = torch.full((1, self.prior.places), self.prior.num_codes, dtype=torch.int64, device=seed.device)
        return masked + torch.zeros_like(seed).unsqueeze(1)

    def forward(
        self,
        seed: Tensor,
        steps: Tensor,
        temperature: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        return self.to_image(
            self.drawing(self.start(seed), seed, steps, temperature, self.label(label, seed), guidance)
        )

    def margins(
        self,
        seed: Tensor,
        steps: Tensor,
        temperature: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        return self.drawing.margins(self.start(seed), seed, steps, temperature, self.label(label, seed), guidance)


class GenerateSequential(Generate):
    """seed, temperature[, label, guidance] -> image."""

    def __init__(self, codec: nn.Module, prior: Prior):
        super().__init__(codec, prior)
        self.drawing = SequentialDrawing(prior)

    def forward(
        self, seed: Tensor, temperature: Tensor, label: Tensor | None = None, guidance: Tensor | None = None
    ) -> Tensor:
        return self.to_image(self.drawing(seed, temperature, self.label(label, seed), guidance))

    def margins(
        self, seed: Tensor, temperature: Tensor, label: Tensor | None = None, guidance: Tensor | None = None
    ) -> Tensor:
        return self.drawing.margins(seed, temperature, self.label(label, seed), guidance)


class Inpaint(Generate):
    """image, mask, seed, steps, temperature[, label, guidance] -> inpainted.

    Every token that stands for a masked pixel is drawn again; pixels that are not masked stay the picture's own.
    """

    def __init__(self, codec: nn.Module, prior: Prior):
        super().__init__(codec, prior)
        self.drawing = MaskedDrawing(prior)
        self.encode = Encode(codec)

    def start(self, image: Tensor, mask: Tensor) -> Tensor:
        """The picture's tokens, K where the mask lies: int64 [N, L]."""
        tokens, _ = self.encode(image)
        anew = (mask >= 128).to(torch.float32).permute(0, 3, 1, 2)
        anew = F.max_pool2d(anew, self.codec.config.downsampling).flatten(1) > 0
        return torch.where(anew, self.prior.num_codes, tokens.flatten(1))

    def forward(
        self,
        image: Tensor,
        mask: Tensor,
        seed: Tensor,
        steps: Tensor,
        temperature: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        start, label = self.start(image, mask), self.label(label, seed)
        drawn = self.to_image(self.drawing(start, seed, steps, temperature, label, guidance))
        return torch.where(mask >= 128, drawn, image)

    def margins(
        self,
        image: Tensor,
        mask: Tensor,
        seed: Tensor,
        steps: Tensor,
        temperature: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        start, label = self.start(image, mask), self.label(label, seed)
        drawing = self.drawing.margins(start, seed, steps, temperature, label, guidance)
        return torch.minimum(drawing, self.encode.margins(image).flatten(1).amin(dim=1))


def build_prior_task(task: str, codec: nn.Module, prior: Prior) -> nn.Module:
    """The module of a task of `ports.prior_tasks`."""
    if task == "inpaint":
        return Inpaint(codec, prior)
    return (GenerateMasked if prior.config.kind == "masked" else GenerateSequential)(codec, prior)
