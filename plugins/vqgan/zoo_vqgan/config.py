"""Config and training settings of VQGANs and KL autoencoders. Does not import torch."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from zoo_vqvae.config import PriorConfig

from zoo.settings import TrainingSettings

Width = Annotated[int, Meta(ge=4, le=2048)]


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Encoder and decoder, shared by VQGAN and KL autoencoder. Each level has half the size of the previous one."""

    image_channels: Literal[1, 3] = 3  # grey or RGB
    patch_size: Annotated[int, Meta(ge=1, le=16)] = 1
    """Squares of this side, pixels, become channels before the first level and pixels after the last one (Shi et al.
    2016), so that nothing is computed at full resolution."""
    widths: Annotated[tuple[Width, ...], Meta(min_length=1, max_length=8)] = (128, 128, 256, 256, 512)
    """Width of each level, starting at the image's own size; there are patch_size 2^(levels - 1) pixels per token, in
    each direction."""
    blocks: Annotated[int, Meta(ge=1, le=8)] = 2  # residual blocks per level; the decoder has one more
    attention_levels: tuple[Annotated[int, Meta(ge=0, le=7)], ...] = ()  # from 0; after every block of these levels
    middle_attention: bool = True  # global attention at the lowest level, between its two blocks
    latent_channels: Annotated[int, Meta(ge=1, le=1024)] = 256  # of the networks; 1x1 convolutions go to code_size
    code_size: Annotated[int, Meta(ge=1, le=1024)] = 256  # D
    norm: Literal["group", "place"] = "group"
    """`group`: over a group of channels and the whole image. `place`: over all channels of one position, so that
    without attention no position depends on the whole image, and large images can be run in tiles."""
    norm_groups: Annotated[int, Meta(ge=1, le=256)] = 32
    norm_epsilon: Annotated[float, Meta(gt=0, le=1)] = 1e-6
    condition_classes: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """The number of classes that encoder and decoder are conditioned on; label -1 means no label. 0: no condition."""

    @property
    def downsampling(self) -> int:
        """Pixels per token, in each direction."""
        return self.patch_size * 2 ** (len(self.widths) - 1)

    @property
    def context(self) -> tuple[int, int] | None:
        """An upper bound of the receptive field of encoder and decoder in each direction, pixels; None: unbounded."""
        if self.norm == "group" or self.middle_attention or self.attention_levels:
            return None
        sides = [self.patch_size * 2**i for i in range(len(self.widths))]  # pixels per position of each level
        lowest = 5 * sides[-1]  # the middle's four convolutions and one to or from it
        ends = 2 * self.patch_size - 1  # the first or last convolution, and the rest of a patch
        encoder = ends + sum(2 * self.blocks * side for side in sides) + sum(2 * side for side in sides[:-1]) + lowest
        decoder = ends + sum(2 * (self.blocks + 1) * side for side in sides) + sum(2 * side for side in sides) + lowest
        return encoder, decoder


class CodecConfig(NetworkConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The networks and the codebook between them."""

    num_codes: Annotated[int, Meta(ge=2, le=262_144)] = 1024  # K
    commitment_weight: Annotated[float, Meta(ge=0, le=10)] = 0.25  # beta
    learn_codebook: Literal["ema", "loss"] = "ema"
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    normalize_latents: bool = False  # normalise latents to length 1 before the search, like ViT-VQGAN and LlamaGen


class VQGANConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Config of the family `vqgan`."""

    codec: CodecConfig = CodecConfig()
    prior: PriorConfig | None = None


class KLConfig(NetworkConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The networks around a Gaussian latent."""

    latent_channels: Annotated[int, Meta(ge=1, le=1024)] = 4
    code_size: Annotated[int, Meta(ge=1, le=1024)] = 4
    latent_convolutions: bool = True  # the 1x1 convolutions between latent_channels and code_size


class KLVAEConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Config of the family `klvae`."""

    codec: KLConfig = KLConfig()


class CodecSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for the training of a codec."""

    crop: Annotated[int, Meta(ge=0, le=4096)] = 0  # train on random square crops of this side length; 0: whole pictures
    mirror: bool = False  # mirrors half of the pictures
    warmup_steps: Annotated[int, Meta(ge=0)] = 200  # of the learning rate
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.998  # of the weights' moving average, which is published
    clip_gradient: Annotated[float, Meta(gt=0)] = 1.0  # norm
    precision: Literal["float32", "bfloat16"] = "float32"  # of the convolutions; weights and sums stay float32
    pixel_loss: Literal["l1", "l2"] = "l1"
    pixel_weight: Annotated[float, Meta(ge=0)] = 1.0
    kl_weight: Annotated[float, Meta(ge=0)] = 1e-6  # only for klvae

    perceptual_weight: Annotated[float, Meta(ge=0)] = 1.0
    perceptual_backbone: str = "test_resnet"  # a timm model
    perceptual_weights: str = ""
    """Its weights: a safetensors file, `timm` for timm's own, or empty: then the first `perceptual_steps` steps train
    it on the training data, to classify the labels or, if there are none, how a picture is rotated."""
    perceptual_steps: Annotated[int, Meta(ge=0)] = 500
    perceptual_scale: Annotated[int, Meta(ge=1, le=8)] = 1  # factor by which pictures are enlarged for it

    discriminator_start: Annotated[int, Meta(ge=0)] = 2000  # the step from which the discriminator has an effect
    discriminator_weight: Annotated[float, Meta(ge=0)] = 0.8
    discriminator_width: Annotated[int, Meta(ge=4, le=512)] = 64
    discriminator_layers: Annotated[int, Meta(ge=1, le=6)] = 3
    discriminator_rate: Annotated[float, Meta(gt=0)] = 1.0  # its learning rate, as a multiple of the codec's
