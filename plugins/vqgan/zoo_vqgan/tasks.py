"""The graphs of codecs that zoo-vqvae does not have: with labels as conditions, and with continuous latents."""

from typing import Protocol

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from zoo_vqvae import tasks
from zoo_vqvae.prior import Prior
from zoo_vqvae.quantize import nearest_code
from zoo_vqvae.tasks import Grid, Pixels, Size, crop, pad_to_multiple, to_float, to_uint8

from .model import VQGAN, KLAutoencoder

Labels = Int64[Tensor, " batch"]
Latents = Float32[Tensor, "batch code_size rows columns"]


class VQGANParts(Protocol):
    """What `build_module` returns for `vqgan`: an `nn.ModuleDict` of these."""

    codec: VQGAN
    prior: Prior


class KLParts(Protocol):
    """What it returns for `klvae`: an `nn.ModuleDict` of this."""

    codec: KLAutoencoder


class ConditionalEncode(nn.Module):
    """image, label -> tokens, size."""

    def __init__(self, codec: VQGAN):
        super().__init__()
        self.codec = codec

    def latents(self, image: Pixels, label: Labels) -> Float32[Tensor, "batch rows columns code_size"]:
        x = pad_to_multiple(to_float(image), self.codec.config.downsampling)
        return self.codec.encoder(x, label).permute(0, 2, 3, 1)

    def forward(self, image: Pixels, label: Labels) -> tuple[Grid, Size]:
        tokens = nearest_code(self.latents(image, label), self.codec.quantizer.codebook)
        return tokens, torch.tensor([image.shape[1], image.shape[2]], dtype=torch.int64)

    def margins(self, image: Pixels, label: Labels) -> Float32[Tensor, "batch rows columns"]:
        return tasks.margins(self.latents(image, label), self.codec.quantizer.codebook)


class ConditionalDecode(nn.Module):
    """tokens, size, label -> image."""

    def __init__(self, codec: VQGAN):
        super().__init__()
        self.codec = codec

    def forward(self, tokens: Grid, size: Size, label: Labels) -> Pixels:
        z_q = self.codec.quantizer.decode(tokens).permute(0, 3, 1, 2)
        return to_uint8(crop(self.codec.decoder(z_q, label), size))


class ConditionalReconstruct(nn.Module):
    """image, label -> reconstruction."""

    def __init__(self, codec: VQGAN):
        super().__init__()
        self.encode = ConditionalEncode(codec)

    def forward(self, image: Pixels, label: Labels) -> Pixels:
        codec = self.encode.codec
        tokens, _ = self.encode(image, label)
        x = codec.decoder(codec.quantizer.decode(tokens).permute(0, 3, 1, 2), label)
        return to_uint8(x[:, :, : image.shape[1], : image.shape[2]])

    def margins(self, image: Pixels, label: Labels) -> Float32[Tensor, "batch rows columns"]:
        return self.encode.margins(image, label)


class EncodeLatents(nn.Module):
    """image -> latents (the mean), size."""

    def __init__(self, codec: KLAutoencoder):
        super().__init__()
        self.codec = codec

    def forward(self, image: Pixels) -> tuple[Latents, Size]:
        mean, _ = self.codec.encode(pad_to_multiple(to_float(image), self.codec.config.downsampling))
        return mean, torch.tensor([image.shape[1], image.shape[2]], dtype=torch.int64)


class DecodeLatents(nn.Module):
    """latents, size -> image."""

    def __init__(self, codec: KLAutoencoder):
        super().__init__()
        self.codec = codec

    def forward(self, latents: Latents, size: Size) -> Pixels:
        return to_uint8(crop(self.codec.decoder(latents), size))


class ReconstructLatents(nn.Module):
    """image -> reconstruction: the mean, decoded."""

    def __init__(self, codec: KLAutoencoder):
        super().__init__()
        self.encode = EncodeLatents(codec)

    def forward(self, image: Pixels) -> Pixels:
        mean, _ = self.encode(image)
        return to_uint8(self.encode.codec.decoder(mean)[:, :, : image.shape[1], : image.shape[2]])
