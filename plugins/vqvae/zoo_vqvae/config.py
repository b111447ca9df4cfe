"""What a VQ-VAE can be told. Read without torch."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from zoo.settings import TrainingSettings


class CodecConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Encoder, codebook and decoder; section numbers are of van den Oord et al. 2017."""

    image_channels: Literal[1, 3] = 3  # grey or RGB
    hidden_channels: Annotated[int, Meta(ge=8, le=1024)] = 128  # width at the lowest resolution; section 4.1
    residual_channels: Annotated[int, Meta(ge=4, le=1024)] = 32  # width inside a residual block
    residual_layers: Annotated[int, Meta(ge=0, le=16)] = 2
    downsampling: Literal[2, 4, 8, 16] = 4  # pixels per token, each way
    num_codes: Annotated[int, Meta(ge=2, le=65536)] = 512  # K
    code_size: Annotated[int, Meta(ge=1, le=512)] = 64  # D
    commitment_weight: Annotated[float, Meta(ge=0, le=10)] = 0.25  # beta, equation 3
    learn_codebook: Literal["ema", "loss"] = "ema"  # appendix A.1, or the second term of equation 3
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    skip_after_relu: bool = False
    """Whether a residual block adds to relu(x) in place of x. Networks whose first ReLU works in place do so unsaid:
    zalandoresearch/pytorch-vq-vae and what was copied from it. Same tensors, another function; for imported weights."""


class VQVAEConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Config of the family `vqvae`."""

    codec: CodecConfig = CodecConfig()


class CodecSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the training of a codec can be told."""

    warmup_steps: Annotated[int, Meta(ge=0)] = 200  # of the learning rate
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.998  # of the weights' moving average, which is published
    clip_gradient: Annotated[float, Meta(gt=0)] = 1.0  # norm
