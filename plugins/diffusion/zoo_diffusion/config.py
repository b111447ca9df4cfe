"""Config and training settings of diffusion models. Does not import torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import Meta

from zoo.errors import UsageError
from zoo.hookspecs import DataFacts
from zoo.settings import AveragedSettings, read

Schedule = Literal["linear", "scaled_linear", "cosine", "sigmoid"]
Prediction = Literal["epsilon", "x0", "v", "flow"]
Variance = Literal["small", "large", "learned"]
Sampler = Literal[
    "dpm++2m",
    "ddim",
    "ddpm",
    "euler",
    "euler_ancestral",
    "heun",
    "dpm++2m_sde",
    "plms",
    "unipc",
    "lcm",
    "consistency",
]
Spacing = Literal["linspace", "leading", "trailing"]

Count = Annotated[int, Meta(ge=1, le=4096)]
Share = Annotated[float, Meta(ge=0, le=1)]
Beta = Annotated[float, Meta(gt=0, lt=1)]
K_DIFFUSION = ("euler", "euler_ancestral", "heun")  # their places are noise levels, also between whole timesteps
LCM_STEPS = 50  # of the solver that a latent consistency model was distilled from; it draws in some of them
Places = Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(min_length=1, max_length=8)]


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DiffusionConfig(Struct, frozen=True, kw_only=True):
    """The forward process, what the network predicts, and how the process is reversed."""

    schedule: Schedule = "linear"
    num_timesteps: Annotated[int, Meta(ge=2, le=4000)] = 1000  # T
    beta_start: Beta = 1e-4  # not for cosine
    beta_end: Beta = 0.02
    zero_terminal_snr: bool = False  # Lin et al. 2023: the last timestep is pure noise
    timestep_scale: Annotated[float, Meta(gt=0, le=1)] = 1.0  # the network's input is t times this
    prediction: Prediction = "epsilon"  # flow: another process, x_t = (1 - t) x_0 + t noise, which has no `schedule`
    shift: Annotated[float, Meta(gt=0, le=100)] = 1.0  # flow: over 1 spends more of the steps where noise is strong
    variance: Variance = "small"  # of the ancestral sampler; `learned`: twice as many outputs
    clip: bool = True  # clip predicted images to -1 .. 1
    clipped_noise: bool = True  # DDIM with clip: the noise that belongs to the clipped image, not the network's own
    sampler: Sampler = "dpm++2m"
    eta: Share = 0.0  # DDIM's noise: 0 none, 1 as much as DDPM
    spacing: Spacing = "trailing"  # how the steps' timesteps are spaced
    steps_offset: Annotated[int, Meta(ge=0, le=100)] = 0  # added to the timesteps, with `leading` spacing
    karras: bool = False  # the steps' noise levels are those of Karras et al. 2022, not at evenly spaced timesteps
    clean_end: bool = True  # the last step ends at the clean image; otherwise at the first timestep
    default_steps: Annotated[int, Meta(ge=1, le=4000)] = 20
    default_guidance: Annotated[float, Meta(ge=0, le=20)] = 1.0
    places: Annotated[tuple[Places, ...], Meta(min_length=1, max_length=8)] = (
        (1.0,),
        (1.0, 0.6),
        (1.0, 0.7, 0.4),
        (1.0, 0.8, 0.55, 0.3),
    )
    """Of `consistency`, for one step, two steps and so on: where each starts, as a share of T."""
    guided_channels: Annotated[int, Meta(ge=0, le=64)] = 0  # guidance only affects the first N channels; 0: all
    guidance_rescale: Share = 0.0  # Lin et al. 2023: 1 gives the output the deviation that it has without guidance
    guidance_from: Annotated[float, Meta(ge=0)] = 0.0  # guidance only where noise / signal is in this interval
    guidance_to: Annotated[float, Meta(ge=0)] = 0.0  # 0: without an upper end

    @property
    def most_steps(self) -> int:
        """The most steps that the sampler can take; a step is one pass of the network."""
        if self.sampler == "consistency":
            return len(self.places)
        return min(self.num_timesteps, LCM_STEPS) if self.sampler == "lcm" else self.num_timesteps


class Picture(Struct, frozen=True, kw_only=True):
    """What every denoiser has: the image's shape and its labels."""

    image_size: Annotated[int, Meta(ge=4, le=1024)] = 32  # height, pixels
    image_width: Annotated[int, Meta(ge=0, le=1024)] = 0  # 0: as image_size
    image_channels: Annotated[int, Meta(ge=1, le=64)] = 3  # 1 grey, 3 RGB; others: latents of another model
    num_classes: Annotated[int, Meta(ge=0, le=100_000)] = 0  # 0: no labels
    null_label: bool = True  # with labels: an additional "no label", which guidance needs
    latents: bool = False  # 1 or 3 channels are latents of another model too, not pixels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image_size, self.image_width or self.image_size

    @property
    def pictures(self) -> bool:
        """Whether the model draws pixels; otherwise latents, whose decoder is another model."""
        return self.image_channels in (1, 3) and not self.latents


class UNetConfig(Picture, frozen=True, kw_only=True):
    """Ho et al. 2020, appendix B, with the options of Dhariwal and Nichol 2021 and of the public checkpoints."""

    patch_size: Literal[1, 2, 4] = 1  # folds pixels into channels at the input, and back at the output
    widths: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=8)] = (128, 256, 256, 256)  # one per level
    blocks: Annotated[int, Meta(ge=1, le=8)] = 2  # residual blocks per level
    attention_levels: tuple[Annotated[int, Meta(ge=0, le=7)], ...] = (1,)  # 0 is the finest
    middle_attention: bool = True
    middle_attention_norm: bool = True  # diffusers' scale-shift networks do not have it
    heads: Annotated[int, Meta(ge=1, le=64)] = 1  # of attention, if head_size is 0
    head_size: Annotated[int, Meta(ge=0, le=4096)] = 0  # channels per head; 0: use `heads`
    scale_shift: bool = False  # time scales and shifts the second norm instead of being added before it
    resampling: Literal["conv", "conv_asymmetric", "plain", "residual"] = "conv"
    norm_groups: Count = 32
    norm_epsilon: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    time_channels: Annotated[int, Meta(ge=0, le=8192)] = 0  # of the sinusoids; 0: widths[0]
    time_width: Annotated[int, Meta(ge=0, le=16384)] = 0  # of the embedding; 0: 4 widths[0]
    cosine_first: bool = True  # cos before sin in the sinusoids
    frequency_shift: Annotated[float, Meta(ge=0, le=1)] = 0.0  # 1: the lowest frequency is 10000^-1
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    @property
    def multiple(self) -> int:
        """What both sides of an image must be a multiple of: each level has half the size of the previous one."""
        return self.patch_size * 2 ** (len(self.widths) - 1)


class DDPMConfig(Struct, frozen=True, kw_only=True):
    """Config of the family `ddpm`."""

    tasks: tuple[str, ...] = ()  # the tasks of the bundle; empty: all that fit the model

    network: UNetConfig = UNetConfig()
    diffusion: DiffusionConfig = DiffusionConfig()


class TransformerConfig(Picture, frozen=True, kw_only=True):
    """Peebles and Xie 2023, section 3.2; the defaults are DiT-S/2's."""

    patch_size: Annotated[int, Meta(ge=1, le=64)] = 2
    width: Count = 384
    depth: Annotated[int, Meta(ge=1, le=64)] = 12
    heads: Annotated[int, Meta(ge=1, le=64)] = 6
    mlp_ratio: Annotated[float, Meta(ge=0.25, le=16)] = 4.0
    mlp_norm_epsilon: Annotated[float, Meta(gt=0, lt=1)] = 1e-6  # diffusers' DiT has 1e-5 here
    frequency_shift: Annotated[float, Meta(ge=0, le=1)] = 0.0  # diffusers' DiT has 1, Meta's 0
    condition_per_block: bool = False  # a time and label embedding in each block, as diffusers stores them

    @property
    def multiple(self) -> int:
        """What both sides of an image must be a multiple of."""
        return self.patch_size


class DiTConfig(Struct, frozen=True, kw_only=True):
    """Config of the family `dit`."""

    tasks: tuple[str, ...] = ()

    network: TransformerConfig = TransformerConfig()
    diffusion: DiffusionConfig = DiffusionConfig()


class DiffusionSettings(AveragedSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for the training of a denoiser."""

    warmup_steps: Annotated[int, Meta(ge=0)] = 300  # of the learning rate
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.999  # of the weights' moving average, which is published
    clip_gradient: Annotated[float, Meta(gt=0)] = 1.0  # to this norm
    label_dropout: Share = 0.1  # share of pictures trained without their label, if the network has "no label"
    mirror: bool = False  # mirrors half of the pictures left to right
    times: Literal["uniform", "logit_normal"] = "uniform"  # logit_normal: more of the middle (Esser et al. 2024)
    precision: Literal["float32", "bfloat16"] = "float32"  # of the products; weights and sums stay float32


class DistilSettings(DiffusionSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the stage `distil`."""

    paths: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000  # that the teacher draws
    path_steps: Annotated[int, Meta(ge=1, le=1000)] = 10  # of each
    guidance: Annotated[float, Meta(ge=0, le=20)] | None = None  # of the teacher; None: its own default
    noise_share: Share = 0.4  # of the batch that starts at a path's noise; the rest at any of its other points


def fitted(family: str, config: Mapping[str, Any], data: DataFacts) -> dict[str, Any]:
    """A config whose network draws images like the data, where it leaves open what they are like.

    Raises:
        UsageError: the network halves the sides until one is odd; the message has the nearest size that fits.
    """
    network = config.get("network", {})
    if not isinstance(network, Mapping):
        return dict(config)  # refused by `read_config`
    found: dict[str, Any] = {"image_channels": data.channels, "num_classes": len(data.classes)}
    if "image_size" not in network:
        kind = TransformerConfig if family == "dit" else UNetConfig
        partial = read(kind, {k: v for k, v in network.items() if k in ("patch_size", "widths")}, f"{family} config")
        if data.height % partial.multiple or data.width % partial.multiple:
            raise UsageError(
                f"the pictures are {data.width}x{data.height}; the sides must be multiples of {partial.multiple} for"
                f" this {family}: give --image-size {data.nearest(partial.multiple)} to crop and scale them"
            )
        found |= {"image_size": data.height, "image_width": 0 if data.width == data.height else data.width}
    return {**config, "network": found | dict(network)}


def check_trained(sampler: str, trained: Mapping[str, Any]) -> None:
    """Checks that a network draws with the sampler that it is given: what `--stage distil` trained is a consistency
    function, which draws with `consistency` only, and no other network does.

    Args:
        trained: the config that its weights were trained with.

    Raises:
        UsageError: it does not.
    """
    before = trained.get("diffusion", {}).get("sampler", DiffusionConfig().sampler)
    if sampler == "consistency" != before:
        raise UsageError(
            "config: diffusion.sampler is consistency, which draws with networks that `zoo train --stage distil` made;"
            " this one was not"
        )
    if before == "consistency" != sampler:
        raise UsageError(
            f"config: diffusion.sampler is {sampler}; this network was made by `zoo train --stage distil`, and draws"
            " with consistency only"
        )


# --- Checks that the schema cannot express: the parts are consistent --------------------------------------------------


def read_config(family: str, config: Mapping[str, Any]) -> DDPMConfig | DiTConfig:
    """A family's complete config.

    Raises:
        UsageError: a field is wrong, or does not fit another one.
    """
    c = read(DiTConfig if family == "dit" else DDPMConfig, config, f"{family} config")
    if isinstance(c, DiTConfig):
        check_transformer(c.network)
    else:
        check_unet(c.network)
    for number, places in enumerate(c.diffusion.places, 1):
        if len(places) != number or sorted(places, reverse=True) != list(places):
            raise UsageError(
                f"{family} config: diffusion.places[{number - 1}] is {list(places)}; it must have {number} numbers that"
                " fall"
            )
    if c.diffusion.sampler == "consistency" and c.diffusion.variance == "learned":
        raise UsageError(
            f"{family} config: diffusion.variance is learned; with the sampler consistency it must be small"
        )
    if c.diffusion.zero_terminal_snr and c.diffusion.prediction == "epsilon":
        raise UsageError(
            f"{family} config: diffusion.prediction is epsilon; with zero_terminal_snr it must be v or x0: "
            "for pure noise, the predicted noise contains no information"
        )
    check_flow(family, c.diffusion)
    return c


def check_flow(family: str, c: DiffusionConfig) -> None:
    """Refuses what needs timesteps of a schedule, for a process that has none.

    Raises:
        UsageError: a field does not fit prediction `flow`, or `shift` another prediction.
    """
    refused = {
        "sampler": c.sampler == "lcm",
        "spacing": c.spacing == "leading",
        "karras": c.karras,
        "zero_terminal_snr": c.zero_terminal_snr,
    }
    if c.prediction != "flow":
        refused = {"shift": c.shift != 1}
    for field, wrong in refused.items():
        if wrong:
            value = msgspec.to_builtins(c)[field]
            raise UsageError(
                f"{family} config: diffusion.{field} is {value}; that is not for prediction {c.prediction}"
            )


def _refuse(field: str, value: object, reason: str) -> NoReturn:
    raise UsageError(f"config: network.{field} is {value}; {reason}")


def check_transformer(network: Any) -> None:
    """Refuses a transformer over patches whose fields do not fit each other."""
    if any(side % network.multiple for side in network.size):
        _refuse("image_size", network.image_size, f"it must be a multiple of patch_size, {network.patch_size}")
    if network.width % network.heads or network.width % 4:
        _refuse("width", network.width, f"it must be a multiple of 4 and of heads, {network.heads}")


def check_unet(network: UNetConfig) -> None:
    if any(side % network.multiple for side in network.size):
        _refuse(
            "image_size",
            network.image_size,
            f"it must be a multiple of {network.multiple}, since each level halves it",
        )
    for width in network.widths:
        if width % network.norm_groups:
            _refuse("widths", list(network.widths), f"each must be a multiple of norm_groups, {network.norm_groups}")
    attended = [network.widths[level] for level in network.attention_levels if level < len(network.widths)]
    if len(attended) < len(network.attention_levels):
        _refuse("attention_levels", list(network.attention_levels), f"there are {len(network.widths)} levels, from 0")
    for width in attended + [network.widths[-1]] * network.middle_attention:
        if width % (network.head_size or network.heads) or width < network.head_size:
            field = "head_size" if network.head_size else "heads"
            _refuse(field, getattr(network, field), f"it must divide the width {width}")
    channels = network.time_channels or network.widths[0]
    if channels % 2 or channels < 4:
        _refuse("time_channels", channels, "it must be even, half sines and half cosines, and at least 4")
