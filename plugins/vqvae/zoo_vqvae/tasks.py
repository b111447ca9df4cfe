"""The graphs of a VQ codec: from pixels to tokens, and from tokens to pixels.

Each module's `forward` is one task, with the ports in ports.py. Images of at least 8x8 pixels, of any size, are padded
to a multiple of the downsampling factor by repeating the edge, and cropped again at the end.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn

from .prior import Count, Labels, MaskedDrawing, Numbers, Prior, Seeds, SequentialDrawing, Tokens
from .quantize import VectorQuantizer, nearest_code

Pixels = UInt8[Tensor, "batch height width channels"]
Grid = Int64[Tensor, "batch rows columns"]
Size = Int64[Tensor, "2"]


@runtime_checkable
class CodecSize(Protocol):
    @property
    def downsampling(self) -> int: ...


@runtime_checkable
class Codec(Protocol):
    """A `VQVAE`, or the `VQGAN` of zoo-vqgan."""

    @property
    def config(self) -> CodecSize: ...
    @property
    def encoder(self) -> nn.Module: ...
    @property
    def quantizer(self) -> VectorQuantizer: ...
    @property
    def decoder(self) -> nn.Module: ...


class Parts(Protocol):
    """What `build_module` returns: an `nn.ModuleDict` of these."""

    codec: Codec
    prior: Prior


def to_float(image: Pixels) -> Float32[Tensor, "batch channels height width"]:
    """0 .. 255 to -1 .. 1."""
    return image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_uint8(x: Float32[Tensor, "batch channels height width"]) -> Pixels:
    """-1 .. 1 to 0 .. 255; values outside are clamped, halves round to even."""
    levels = ((x + 1) * 127.5).clamp(0, 255).round()
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


def pad_to_multiple(
    x: Float32[Tensor, "batch channels height width"], factor: int
) -> Float32[Tensor, "batch channels padded_height padded_width"]:
    """Height and width padded to multiples of `factor` by repeating the last row and column."""
    for axis in (2, 3):
        length = x.shape[axis]
        padded = (length + factor - 1) // factor * factor
        index = torch.arange(padded, device=x.device).clamp(max=length - 1)
        x = x.index_select(axis, index)
    return x


def crop(
    x: Float32[Tensor, "batch channels padded_height padded_width"], size: Size
) -> Float32[Tensor, "batch channels height width"]:
    """The upper left corner of height and width `size`; a larger size gives everything."""
    for axis in (2, 3):
        index = torch.arange(x.shape[axis], device=x.device)
        keep = index[index < size[axis - 2]]
        x = x.index_select(axis, keep)
    return x


def margins(
    z_e: Float[Tensor, "batch rows columns code_size"], codebook: Float[Tensor, "num_codes code_size"]
) -> Float[Tensor, "batch rows columns"]:
    """Distance of the second-best code minus that of the best."""
    distances = torch.cdist(z_e.flatten(1, 2), codebook.unsqueeze(0)).square()
    best = distances.topk(2, dim=-1, largest=False).values
    return (best[..., 1] - best[..., 0]).reshape(z_e.shape[:-1])


class Encode(nn.Module):
    """image -> tokens, size."""

    def __init__(self, codec: Codec):
        super().__init__()
        self.codec = codec

    def latents(self, image: Pixels) -> Float32[Tensor, "batch rows columns code_size"]:
        x = pad_to_multiple(to_float(image), self.codec.config.downsampling)
        return self.codec.encoder(x).permute(0, 2, 3, 1)

    def forward(self, image: Pixels) -> tuple[Grid, Size]:
        tokens = nearest_code(self.latents(image), self.codec.quantizer.codebook)
        size = torch.tensor([image.shape[1], image.shape[2]], dtype=torch.int64)
        return tokens, size

    def margins(self, image: Pixels) -> Float32[Tensor, "batch rows columns"]:
        return margins(self.latents(image), self.codec.quantizer.codebook)


class Decode(nn.Module):
    """tokens, size -> image."""

    def __init__(self, codec: Codec):
        super().__init__()
        self.codec = codec

    def forward(self, tokens: Grid, size: Size) -> Pixels:
        z_q = self.codec.quantizer.decode(tokens).permute(0, 3, 1, 2)
        return to_uint8(crop(self.codec.decoder(z_q), size))


class Reconstruct(nn.Module):
    """image -> reconstruction: encode, then decode."""

    def __init__(self, codec: Codec):
        super().__init__()
        self.encode = Encode(codec)

    def forward(self, image: Pixels) -> Pixels:
        codec = self.encode.codec
        tokens, _ = self.encode(image)
        x = codec.decoder(codec.quantizer.decode(tokens).permute(0, 3, 1, 2))
        return to_uint8(x[:, :, : image.shape[1], : image.shape[2]])

    def margins(self, image: Pixels) -> Float32[Tensor, "batch rows columns"]:
        return self.encode.margins(image)


class Generate(nn.Module):
    """What the tasks of a prior share: codec, prior, and decoding of tokens to an image."""

    def __init__(self, codec: Codec, prior: Prior):
        super().__init__()
        self.codec, self.prior = codec, prior

    def label(self, label: Labels | None, seed: Seeds) -> Labels:
        """-1 for a prior without labels."""
        return torch.full_like(seed, -1) if label is None else label

    def to_image(self, tokens: Tokens) -> Pixels:
        c = self.prior.config
        z_q = self.codec.quantizer.decode(tokens.unflatten(1, (c.rows, c.columns)))
        return to_uint8(self.codec.decoder(z_q.permute(0, 3, 1, 2)))


class GenerateMasked(Generate):
    """seed, steps, temperature[, label, guidance] -> image."""

    def __init__(self, codec: Codec, prior: Prior):
        super().__init__(codec, prior)
        self.drawing = MaskedDrawing(prior)

    def start(self, seed: Seeds) -> Tokens:
        """All tokens masked."""
        masked = torch.full((1, self.prior.places), self.prior.num_codes, dtype=torch.int64, device=seed.device)
        return masked + torch.zeros_like(seed).unsqueeze(1)

    def forward(
        self,
        seed: Seeds,
        steps: Count,
        temperature: Numbers,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Pixels:
        return self.to_image(
            self.drawing(self.start(seed), seed, steps, temperature, self.label(label, seed), guidance)
        )

    def margins(
        self,
        seed: Seeds,
        steps: Count,
        temperature: Numbers,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Numbers:
        return self.drawing.margins(self.start(seed), seed, steps, temperature, self.label(label, seed), guidance)


class GenerateSequential(Generate):
    """seed, temperature, top_k, top_p[, label[, guidance]] -> image."""

    def __init__(self, codec: Codec, prior: Prior):
        super().__init__(codec, prior)
        self.drawing = SequentialDrawing(prior)

    def forward(
        self,
        seed: Seeds,
        temperature: Numbers,
        top_k: Numbers,
        top_p: Numbers,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Pixels:
        return self.to_image(self.drawing(seed, temperature, top_k, top_p, self.label(label, seed), guidance))

    def margins(
        self,
        seed: Seeds,
        temperature: Numbers,
        top_k: Numbers,
        top_p: Numbers,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Numbers:
        return self.drawing.margins(seed, temperature, top_k, top_p, self.label(label, seed), guidance)


class Inpaint(Generate):
    """image, mask, seed, steps, temperature[, label, guidance] -> inpainted.

    Every token that covers a masked pixel is redrawn; pixels that are not masked stay those of the image.
    """

    def __init__(self, codec: Codec, prior: Prior):
        super().__init__(codec, prior)
        self.drawing = MaskedDrawing(prior)
        self.encode = Encode(codec)

    def start(self, image: Pixels, mask: UInt8[Tensor, "batch height width 1"]) -> Tokens:
        """The image's tokens, K where masked."""
        tokens, _ = self.encode(image)
        redrawn = (mask >= 128).to(torch.float32).permute(0, 3, 1, 2)
        redrawn = F.max_pool2d(redrawn, self.codec.config.downsampling).flatten(1) > 0
        return torch.where(redrawn, self.prior.num_codes, tokens.flatten(1))

    def forward(
        self,
        image: Pixels,
        mask: UInt8[Tensor, "batch height width 1"],
        seed: Seeds,
        steps: Count,
        temperature: Numbers,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Pixels:
        start, label = self.start(image, mask), self.label(label, seed)
        drawn = self.to_image(self.drawing(start, seed, steps, temperature, label, guidance))
        return torch.where(mask >= 128, drawn, image)

    def margins(
        self,
        image: Pixels,
        mask: UInt8[Tensor, "batch height width 1"],
        seed: Seeds,
        steps: Count,
        temperature: Numbers,
        label: Labels | None = None,
        guidance: Numbers | None = None,
    ) -> Numbers:
        start, label = self.start(image, mask), self.label(label, seed)
        drawing = self.drawing.margins(start, seed, steps, temperature, label, guidance)
        return torch.minimum(drawing, self.encode.margins(image).flatten(1).amin(dim=1))


def build_prior_task(task: str, codec: Codec, prior: Prior) -> nn.Module:
    """The module of a task of `ports.prior_tasks`."""
    if task == "inpaint":
        return Inpaint(codec, prior)
    return (GenerateMasked if prior.config.kind == "masked" else GenerateSequential)(codec, prior)
