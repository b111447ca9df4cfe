"""Config and training settings of VQ-VAEs. Does not import torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zoo.errors import UsageError
from zoo.hookspecs import DataFacts, TrainRequest
from zoo.settings import AveragedSettings


class CodecConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Encoder, codebook and decoder; section numbers refer to van den Oord et al. 2017."""

    image_channels: Literal[1, 3] = 3  # grey or RGB
    hidden_channels: Annotated[int, Meta(ge=8, le=1024)] = 128  # width at the lowest resolution; section 4.1
    residual_channels: Annotated[int, Meta(ge=4, le=1024)] = 32  # width inside a residual block
    residual_layers: Annotated[int, Meta(ge=0, le=16)] = 2
    downsampling: Literal[2, 4, 8, 16] = 4  # pixels per token, in each direction
    num_codes: Annotated[int, Meta(ge=2, le=65536)] = 512  # K
    code_size: Annotated[int, Meta(ge=1, le=512)] = 64  # D
    commitment_weight: Annotated[float, Meta(ge=0, le=10)] = 0.25  # beta, equation 3
    learn_codebook: Literal["ema", "loss"] = "ema"  # appendix A.1, or the second term of equation 3
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    skip_after_relu: bool = False
    """Whether a residual block adds to relu(x) instead of x. Networks whose first ReLU works in place do so silently:
    zalandoresearch/pytorch-vq-vae and its copies. Same tensors, but a different function; for imported weights."""

    @property
    def context(self) -> tuple[int, int]:
        """An upper bound of the receptive field of encoder and decoder in each direction, in pixels."""
        lowest = 1 + self.residual_layers  # 3x3 convolutions at the lowest resolution
        return (lowest + 2) * self.downsampling, (lowest + 4) * self.downsampling


class PriorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A transformer that draws a picture's tokens; see prior.py."""

    kind: Literal["masked", "autoregressive"] = "masked"
    block: Literal["gpt", "llama"] = "gpt"  # of the transformer: GPT-2's with learned positions, or LLaMA's with rotary
    rows: Annotated[int, Meta(ge=1, le=128)] = 7  # size of the token grid of the pictures that it draws
    columns: Annotated[int, Meta(ge=1, le=128)] = 7
    num_classes: Annotated[int, Meta(ge=0, le=100_000)] = 0  # 0: pictures have no labels
    null_label: bool = True  # whether it also learns pictures without their label; without, there is no guidance
    width: Annotated[int, Meta(ge=8, le=8192)] = 128
    depth: Annotated[int, Meta(ge=1, le=128)] = 4
    heads: Annotated[int, Meta(ge=1, le=128)] = 4
    mlp_width: Annotated[int, Meta(ge=0, le=65536)] = 0
    """Width inside a block's MLP. 0: 4 times the width; in `llama`, whose MLP has three matrices instead of two, 8/3
    of it, rounded up to a multiple of 256."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    choice_temperature: Annotated[float, Meta(ge=0, le=100)] = 4.5
    """`masked`: the initial amount of noise in the choice of which drawn tokens are kept; MaskGIT uses 4.5."""
    default_steps: Annotated[int, Meta(ge=1)] = 8  # `masked`
    default_temperature: Annotated[float, Meta(ge=0.1, le=10)] = 1.0
    default_guidance: Annotated[float, Meta(ge=0, le=10)] = 1.5
    default_top_k: Annotated[int, Meta(ge=0)] = 0  # `autoregressive`: draw one of so many likeliest codes; 0: of all
    default_top_p: Annotated[float, Meta(ge=0, le=1)] = 1.0  # `autoregressive`: of the likeliest with this probability

    @property
    def hidden_width(self) -> int:
        """Width inside a block's MLP."""
        if self.mlp_width:
            return self.mlp_width
        return 4 * self.width if self.block == "gpt" else -(-(8 * self.width // 3) // 256) * 256


class VQVAEConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Config of the family `vqvae`."""

    codec: CodecConfig = CodecConfig()
    prior: PriorConfig | None = None


def check_prior(prior: PriorConfig | None, family: str) -> None:
    """Checks of a prior's config that the schema cannot express; UsageError."""
    if not prior:
        return
    if prior.width % prior.heads:
        raise UsageError(f"{family} config: prior.heads is {prior.heads}; it must divide the width {prior.width}")
    if prior.block == "llama" and prior.width // prior.heads % 4:
        raise UsageError(
            f"{family} config: prior.heads is {prior.heads}; with prior.block llama, width / heads must be a multiple "
            f"of 4, and the width is {prior.width}"
        )


def fitted_codec(config: Mapping[str, Any], data: DataFacts) -> dict[str, Any]:
    """A config whose codec takes the data's channels, if it leaves them open. Codecs take images of any size."""
    codec = config.get("codec", {})
    return {**config, "codec": {"image_channels": data.channels, **codec} if isinstance(codec, Mapping) else codec}


def fitted_prior(config: Mapping[str, Any], data: DataFacts, downsampling: int) -> dict[str, Any]:
    """A config whose prior draws the token grid of the data's images, and their classes, if it leaves them open."""
    rows, columns = (-(-side // downsampling) for side in (data.height, data.width))
    found = {"rows": rows, "columns": columns, "num_classes": len(data.classes)}
    return {**config, "prior": {**found, **(config.get("prior") or {})}}


def completed(config: Any, stage: str) -> dict[str, Any]:
    """A family's config with `codec` and optionally `prior`, as plain data; the stage `prior` needs one."""
    if stage not in ("", "prior"):
        raise UsageError(f"--stage is '{stage}'; it must be prior, or left out for the codec")
    if stage == "prior" and config.prior is None:
        config = msgspec.structs.replace(config, prior=PriorConfig())
    return {name: part for name, part in msgspec.to_builtins(config).items() if part is not None}


def trains_prior(request: TrainRequest) -> bool:
    """Whether a training is of the prior. Training a codec that has a prior is refused: it must stay unchanged."""
    if request.stage == "prior":
        return True
    if request.config.get("prior"):
        raise UsageError("the prior was trained on this codec's tokens: train it with --stage prior, or a new codec")
    return False


class CodecSettings(AveragedSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for the training of a codec."""

    warmup_steps: Annotated[int, Meta(ge=0)] = 200  # of the learning rate
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.998  # of the weights' moving average, which is published
    clip_gradient: Annotated[float, Meta(gt=0)] = 1.0  # norm


class PriorSettings(AveragedSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for the training of a prior."""

    mirror: bool = False  # mirrors half of the pictures
    warmup_steps: Annotated[int, Meta(ge=0)] = 200  # of the learning rate
    weight_decay: Annotated[float, Meta(ge=0)] = 0.03
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.998  # of the weights' moving average, which is published
    clip_gradient: Annotated[float, Meta(gt=0)] = 1.0  # norm
    label_dropout: Annotated[float, Meta(ge=0, le=1)] = 0.1  # share of pictures trained without their label
    precision: Literal["float32", "bfloat16"] = "float32"  # of the matrix products; weights and sums stay float32
