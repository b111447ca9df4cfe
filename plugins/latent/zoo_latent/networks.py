"""Reads the denoisers of diffusers' pipelines: the config of each class, field by field, and its weights.

What cannot be computed is refused with field and value.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from zoo_diffusion.layouts import dit_diffusers
from zoo_diffusion.layouts.common import sides
from zoo_diffusion.layouts.scheduler import require
from zoo_diffusion.layouts.unet2d import is_unet2d
from zoo_diffusion.layouts.unet2d import move as move_unet2d
from zoo_diffusion.layouts.unet2d import network_of as unet2d_of

from zoo.build.keys import Keys, with_present_names
from zoo.errors import InvalidFileError
from zoo.text import safe_text

from .config import DenoiserConfig, LabelDenoiserConfig, Network
from .denoiser import build_denoiser
from .layouts import denoiser_weights
from .source import Source, converted


class Reader(NamedTuple):
    """How a class of denoisers becomes ours."""

    part: str  # the pipeline's name for it
    classes: tuple[str, ...]
    config: Callable[[Source, str], Network]
    move: Callable[[Keys, Network], None]  # its tensors, under `denoiser.`

    def state(
        self, tensors: Mapping[str, Tensor], c: Network, outputs: int, scale: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Its weights under our names.

        Args:
            outputs: 2 if the variance is learned too.
            scale: what the codec's latents are like, under our names.
        """
        keys = Keys({name: tensor.float() for name, tensor in with_present_names(tensors).items()})
        self.move(keys, c)
        for name, tensor in scale.items():
            keys.put(f"denoiser.{name}", tensor)
        with torch.device("meta"):
            module = nn.ModuleDict({"denoiser": build_denoiser(c, outputs=outputs)})
        return keys.finish(module)[0]


# --- The U-Net with attention to a text -------------------------------------------------------------------------------

_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")
_USED = {"sample_size", "in_channels", "out_channels", "flip_sin_to_cos", "freq_shift", "down_block_types"}
_USED |= {"up_block_types", "block_out_channels", "layers_per_block", "norm_num_groups", "norm_eps"}
_USED |= {"cross_attention_dim", "attention_head_dim", "num_attention_heads", "use_linear_projection"}
_USED |= {"transformer_layers_per_block", "dropout", "upcast_attention"}
_FIXED: dict[str, Any] = {
    "act_fn": ("silu", "swish"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "mid_block_scale_factor": 1,
    "downsample_padding": (1, 0),
    "time_embedding_type": "positional",
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "resnet_out_scale_factor": 1,
}
_MOOT = ("addition_embed_type_num_heads",)


def _unet_config(source: Source, part: str, *, inpaints: bool = False) -> DenoiserConfig:
    where = f"{part}/config.json"
    config = source.config(part, UNET.classes)

    def refuse(field: str, reason: str) -> None:
        raise InvalidFileError(f"{where}: {field} is {safe_text(config.get(field))[:100]}; {reason}")

    require(config, where, **_FIXED)
    for field, value in config.items():
        known = field in _USED or field in _FIXED or field in _MOOT or field.startswith("_")
        if not known and value not in (None, False):
            refuse(field, "that is not supported")
    widths = tuple(config.get("block_out_channels", (320, 640, 1280, 1280)))
    down = config.get("down_block_types", (_DOWN[0],) * 3 + (_DOWN[1],))
    up = config.get("up_block_types", (_UP[1],) + (_UP[0],) * 3)
    for field, kinds, known in (("down_block_types", down, _DOWN), ("up_block_types", up, _UP)):
        if any(kind not in known for kind in kinds):
            refuse(field, f"each must be {' or '.join(known)}")
    levels = tuple(level for level, kind in enumerate(down) if kind == _DOWN[0])
    if levels != tuple(level for level, kind in enumerate(reversed(up)) if kind == _UP[0]):
        refuse("up_block_types", "they must have attention on the levels of down_block_types")
    for field in ("layers_per_block", "transformer_layers_per_block", "cross_attention_dim"):
        if not isinstance(config.get(field, 1), int):
            refuse(field, "it must be one number for all levels")
    channels = config.get("out_channels", 4)
    wanted = 2 * channels + 1 if inpaints else channels
    if config.get("in_channels", 4) != wanted:
        refuse("in_channels", f"with {channels} out_channels in a {source.index['_class_name']} it must be {wanted}")
    # `attention_head_dim` is the number of heads, by an old mistake of diffusers that its files have kept.
    field = "num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim"
    heads = config.get(field, 8)
    heads = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    used = sorted({(widths[i], heads[i]) for i in (*levels, len(widths) - 1)})
    sizes = {width // number for width, number in used}
    if len({number for _, number in used}) > 1 and len(sizes) > 1:
        refuse(field, "all levels must have the same number of heads, or heads of the same size")
    same = len({number for _, number in used}) == 1
    height, width = sides(config.get("sample_size") or 64)
    return converted(
        {
            "kind": "unet",
            "image_size": height,
            "image_width": 0 if width == height else width,
            "image_channels": channels,
            "widths": widths,
            "blocks": config.get("layers_per_block", 2),
            "attention_levels": levels,
            "heads": used[0][1] if same else 1,
            "head_size": 0 if same else sizes.pop(),
            "scale_shift": config.get("resnet_time_scale_shift") == "scale_shift",
            "resampling": "conv_asymmetric" if config.get("downsample_padding", 1) == 0 else "conv",
            "norm_groups": config.get("norm_num_groups", 32),
            "norm_epsilon": config.get("norm_eps", 1e-5),
            "cosine_first": config.get("flip_sin_to_cos", True),
            "frequency_shift": float(config.get("freq_shift", 0)),
            "context_width": config.get("cross_attention_dim", 1280),
            "transformer_depth": config.get("transformer_layers_per_block", 1),
            "inpaints": inpaints,
        },
        DenoiserConfig,
        where,
    )


def _move_unet(keys: Keys, c: Network) -> None:
    assert isinstance(c, DenoiserConfig)
    denoiser_weights(keys, c)


UNET = Reader("unet", ("UNet2DConditionModel",), _unet_config, _move_unet)
INPAINTING_UNET = UNET._replace(config=partial(_unet_config, inpaints=True))
"""Which also sees a mask and the latents of a masked picture."""


# --- The U-Net without a text -----------------------------------------------------------------------------------------


def _plain_config(source: Source, part: str) -> DenoiserConfig:
    where, config, tensors = f"{part}/config.json", source.config(part, PLAIN_UNET.classes), source.tensors(part)
    if not is_unet2d(tensors):
        raise InvalidFileError(f"{source.layout}: the tensors of {part} are not those of a {PLAIN_UNET.classes[0]}")
    require(config, where, num_class_embeds=(None,), out_channels=config.get("in_channels", 3))
    network, _ = unet2d_of(with_present_names(tensors), config)
    fields = msgspec.to_builtins(network) | {"kind": "unet", "latents": True, "attention": "plain"}
    return converted(fields, DenoiserConfig, where)


def _move_plain(keys: Keys, c: Network) -> None:
    assert isinstance(c, DenoiserConfig)
    move_unet2d(keys, c, "denoiser.")


PLAIN_UNET = Reader("unet", ("UNet2DModel",), _plain_config, _move_plain)


# --- DiT --------------------------------------------------------------------------------------------------------------

NULL_LABEL = 1000
"""Of DiTPipeline, whatever the number of classes."""


def _dit_config(source: Source, part: str) -> LabelDenoiserConfig:
    config, tensors = source.config(part, DIT.classes), source.tensors(part)
    if not dit_diffusers.is_diffusers_dit(tensors):
        raise InvalidFileError(f"{source.layout}: the tensors of {part} are not those of a {DIT.classes[0]}")
    network = dit_diffusers.network_of(tensors, config)
    if network.num_classes > NULL_LABEL:
        raise InvalidFileError(
            f"{part}/config.json: num_embeds_ada_norm is {network.num_classes}; the pipeline's null label is"
            f" {NULL_LABEL}: it must be at most that"
        )
    fields = msgspec.to_builtins(network) | {"kind": "dit", "latents": True}
    return converted(fields, LabelDenoiserConfig, f"{part}/config.json")


def _move_dit(keys: Keys, c: Network) -> None:
    assert isinstance(c, LabelDenoiserConfig)
    dit_diffusers.move(keys, c, "denoiser.")


DIT = Reader("transformer", ("DiTTransformer2DModel", "Transformer2DModel"), _dit_config, _move_dit)
