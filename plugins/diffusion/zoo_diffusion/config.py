"""What a diffusion model can be told. Read without torch."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from zoo.settings import AveragedSettings

Count = Annotated[int, Meta(ge=1, le=4096)]
Share = Annotated[float, Meta(ge=0, le=1)]
Beta = Annotated[float, Meta(gt=0, lt=1)]


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DiffusionConfig(Struct):
    """The forward process, what the network predicts of it, and how it is run backwards."""

    schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid"] = "linear"
    num_timesteps: Annotated[int, Meta(ge=2, le=4000)] = 1000  # T
    beta_start: Beta = 1e-4  # not for cosine
    beta_end: Beta = 0.02
    zero_terminal_snr: bool = False  # Lin et al. 2023: the last timestep is noise alone
    timestep_scale: Annotated[float, Meta(gt=0, le=1)] = 1.0  # the network is fed t times this
    prediction: Literal["epsilon", "x0", "v"] = "epsilon"
    variance: Literal["small", "large", "learned"] = "small"  # of the ancestral sampler; `learned`: twice the outputs
    clip: bool = True  # predicted pictures to -1 .. 1
    sampler: Literal["dpm++2m", "ddim", "ddpm"] = "dpm++2m"
    eta: Share = 0.0  # DDIM's noise: 0 none, 1 as much as DDPM
    spacing: Literal["linspace", "leading", "trailing"] = "trailing"  # which timesteps the steps are
    default_steps: Annotated[int, Meta(ge=1, le=4000)] = 20
    default_guidance: Annotated[float, Meta(ge=0, le=20)] = 1.0
    guided_channels: Annotated[int, Meta(ge=0, le=64)] = 0  # guidance acts on the first so many; 0: all


class Picture(Struct):
    """What every denoiser has: the picture's shape and its labels."""

    image_size: Annotated[int, Meta(ge=4, le=1024)] = 32  # height, pixels
    image_width: Annotated[int, Meta(ge=0, le=1024)] = 0  # 0: as image_size
    image_channels: Annotated[int, Meta(ge=1, le=64)] = 3  # 1 grey, 3 RGB; others are latents of another model
    num_classes: Annotated[int, Meta(ge=0, le=100_000)] = 0  # 0: no labels
    null_label: bool = True  # with labels: one more for "no label", which guidance needs

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image_size, self.image_width or self.image_size


class UNetConfig(Picture):
    """Ho et al. 2020, appendix B, with the options of Dhariwal and Nichol 2021 and of the public checkpoints."""

    patch_size: Literal[1, 2, 4] = 1  # pixels to channels at the door, back at the exit
    widths: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=8)] = (128, 256, 256, 256)  # a level each
    blocks: Annotated[int, Meta(ge=1, le=8)] = 2  # residual blocks a level
    attention_levels: tuple[Annotated[int, Meta(ge=0, le=7)], ...] = (1,)  # 0 is the finest
    middle_attention: bool = True
    middle_attention_norm: bool = True  # diffusers' scale-shift networks have none
    heads: Annotated[int, Meta(ge=1, le=64)] = 1  # of attention, where head_size does not say
    head_size: Annotated[int, Meta(ge=0, le=4096)] = 0  # channels a head; 0: `heads` heads
    scale_shift: bool = False  # time scales and shifts the second norm, instead of being added before it
    resampling: Literal["conv", "conv_asymmetric", "plain", "residual"] = "conv"
    norm_groups: Count = 32
    norm_epsilon: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    time_channels: Annotated[int, Meta(ge=0, le=8192)] = 0  # of the sinusoids; 0: widths[0]
    time_width: Annotated[int, Meta(ge=0, le=16384)] = 0  # of the embedding; 0: 4 widths[0]
    cosine_first: bool = True  # cos before sin in the sinusoids
    frequency_shift: Annotated[float, Meta(ge=0, le=1)] = 0.0  # the lowest frequency is 10000^-1 where it is 1
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0


class DDPMConfig(Struct):
    """Config of the family `ddpm`."""

    tasks: tuple[str, ...] = ()  # those that a bundle has; empty: all that fit the model

    network: UNetConfig = UNetConfig()
    diffusion: DiffusionConfig = DiffusionConfig()


class TransformerConfig(Picture):
    """Peebles and Xie 2023, section 3.2; the defaults are DiT-S/2's."""

    patch_size: Annotated[int, Meta(ge=1, le=64)] = 2
    width: Count = 384
    depth: Annotated[int, Meta(ge=1, le=64)] = 12
    heads: Annotated[int, Meta(ge=1, le=64)] = 6
    mlp_ratio: Annotated[float, Meta(ge=0.25, le=16)] = 4.0
    mlp_norm_epsilon: Annotated[float, Meta(gt=0, lt=1)] = 1e-6  # diffusers' DiT has 1e-5 here
    frequency_shift: Annotated[float, Meta(ge=0, le=1)] = 0.0  # diffusers' DiT has 1, Meta's 0
    condition_per_block: bool = False  # a time and label embedding in each block, as diffusers stores them


class DiTConfig(Struct):
    """Config of the family `dit`."""

    tasks: tuple[str, ...] = ()

    network: TransformerConfig = TransformerConfig()
    diffusion: DiffusionConfig = DiffusionConfig()


class DiffusionSettings(AveragedSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the training of a denoiser can be told."""

    warmup_steps: Annotated[int, Meta(ge=0)] = 300  # of the learning rate
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.999  # of the weights' moving average, which is published
    clip_gradient: Annotated[float, Meta(gt=0)] = 1.0  # to this norm
    label_dropout: Share = 0.1  # pictures trained without their label, where the network knows "no label"
    mirror: bool = False  # half of the pictures left to right
