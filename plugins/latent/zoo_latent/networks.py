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

from .config import DenoiserConfig, JointDenoiserConfig, LabelDenoiserConfig, Network
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
_SIZED = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim")
NUMBERS = 6
"""Numbers at which SDXL's network looks: height and width, top and left of a crop, height and width."""


def _unet_config(source: Source, part: str, *, inpaints: bool = False, sized: bool = False) -> DenoiserConfig:
    """
    Args:
        inpaints: it also sees a mask and the latents of a masked picture.
        sized: it also looks at a vector for the whole text, and at sizes.
    """
    where = f"{part}/config.json"
    config = source.config(part, UNET.classes)

    def refuse(field: str, reason: str) -> None:
        raise InvalidFileError(f"{where}: {field} is {safe_text(config.get(field))[:100]}; {reason}")

    require(config, where, **_FIXED)
    for field, value in config.items():
        known = field in _USED or field in _FIXED or field in _MOOT or field.startswith("_")
        known = known or (sized and field in _SIZED)
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
    for field in ("layers_per_block", "cross_attention_dim"):
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
    depth = config.get("transformer_layers_per_block", 1)
    sizes_used = _sizes(config, where) if sized else {}
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
            "transformer_depth": depth if isinstance(depth, int) else tuple(depth),
            **sizes_used,
            "inpaints": inpaints,
        },
        DenoiserConfig,
        where,
    )


def _sizes(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a network that looks at sizes. Which sizes depends on the codec too: zeros, until it is known."""
    if config.get("addition_embed_type") != "text_time":
        raise InvalidFileError(
            f"{where}: addition_embed_type is {safe_text(config.get('addition_embed_type'))}; it must be text_time"
        )
    channels = config["addition_time_embed_dim"]
    pooled = config["projection_class_embeddings_input_dim"] - NUMBERS * channels
    if pooled <= 0:
        raise InvalidFileError(
            f"{where}: projection_class_embeddings_input_dim is {config['projection_class_embeddings_input_dim']}; it"
            f" must be over {NUMBERS} times addition_time_embed_dim, {NUMBERS * channels}; a refiner has five numbers,"
            " and is not supported"
        )
    return {"sizes": (0,) * NUMBERS, "size_channels": channels, "pooled_width": pooled}


def _move_unet(keys: Keys, c: Network) -> None:
    assert isinstance(c, DenoiserConfig)
    denoiser_weights(keys, c)


UNET = Reader("unet", ("UNet2DConditionModel",), _unet_config, _move_unet)
INPAINTING_UNET = UNET._replace(config=partial(_unet_config, inpaints=True))
"""Which also sees a mask and the latents of a masked picture."""
SIZED_UNET = UNET._replace(config=partial(_unet_config, sized=True))
"""SDXL's, which also looks at a vector for the whole text, and at sizes."""


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


# --- MM-DiT -----------------------------------------------------------------------------------------------------------

_JOINT_USED = {"sample_size", "patch_size", "in_channels", "num_layers", "attention_head_dim", "num_attention_heads"}
_JOINT_USED |= {"joint_attention_dim", "caption_projection_dim", "pooled_projection_dim", "out_channels"}
_JOINT_USED |= {"pos_embed_max_size", "dual_attention_layers", "qk_norm"}


def _joint_config(source: Source, part: str) -> JointDenoiserConfig:
    where, config = f"{part}/config.json", source.config(part, JOINT.classes)
    for field, value in config.items():
        if field not in _JOINT_USED and not field.startswith("_") and value not in (None, False):
            raise InvalidFileError(f"{where}: {field} is {safe_text(value)[:100]}; that is not supported")
    heads, channels = config.get("num_attention_heads", 18), config.get("in_channels", 16)
    width = heads * config.get("attention_head_dim", 64)
    require(
        config,
        where,
        qk_norm=(None, "rms_norm"),
        caption_projection_dim=width,
        out_channels=(channels, None),
    )
    height, across = sides(config.get("sample_size", 128))
    patch, most = config.get("patch_size", 2), config.get("pos_embed_max_size", 96)
    if max(height, across) > patch * most:
        raise InvalidFileError(
            f"{where}: sample_size is {safe_text(config['sample_size'])}; with pos_embed_max_size {most} it must be at"
            f" most {patch * most}"
        )
    return converted(
        {
            "kind": "mmdit",
            "image_size": height,
            "image_width": 0 if across == height else across,
            "image_channels": channels,
            "patch_size": patch,
            "width": width,
            "depth": config.get("num_layers", 18),
            "heads": heads,
            "context_width": config.get("joint_attention_dim", 4096),
            "pooled_width": config.get("pooled_projection_dim", 2048),
            "norm_queries": config.get("qk_norm") is not None,
            "twice": tuple(config.get("dual_attention_layers") or ()),
        },
        JointDenoiserConfig,
        where,
    )


def _move_joint(keys: Keys, c: Network) -> None:
    assert isinstance(c, JointDenoiserConfig)

    def scale_first(source: str, target: str) -> None:
        """Their layer gives scale and shift, ours shift and scale."""
        for part in ("weight", "bias"):
            tensor = keys.take(f"{source}.{part}", f"{target}.{part}")
            if tensor is not None:
                keys.put(f"{target}.{part}", torch.cat(tuple(reversed(tensor.chunk(2)))))

    def projections(source: str, target: str, names: tuple[str, str, str], norms: tuple[str, str]) -> None:
        keys.join([f"{source}.{name}" for name in names], f"{target}.qkv")
        for theirs, ours in zip(norms, "qk", strict=True):
            if c.norm_queries:
                keys.move_tensor(f"{source}.{theirs}.weight", f"{target}.norm_{ours}.weight")

    own, added = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
    keys.move("pos_embed.proj", "denoiser.patches")
    positions = keys.take("pos_embed.pos_embed", "denoiser.positions")
    if positions is not None:  # of the largest grid, whose middle is ours
        keys.asked.pop("pos_embed.pos_embed")
        most = round(positions.shape[1] ** 0.5)
        rows, columns = (side // c.patch_size for side in c.size)
        top, left = (most - rows) // 2, (most - columns) // 2
        grid = positions.reshape(1, most, most, -1)[:, top : top + rows, left : left + columns]
        keys.put("denoiser.positions", grid.flatten(1, 2))
    for name, ours in (("timestep_embedder", "time"), ("text_embedder", "pooled")):
        keys.move(f"time_text_embed.{name}.linear_1", f"denoiser.{ours}_in")
        keys.move(f"time_text_embed.{name}.linear_2", f"denoiser.{ours}_out")
    keys.move("context_embedder", "denoiser.context_in")
    for i in range(c.depth):
        source, image, text = f"transformer_blocks.{i}", f"denoiser.blocks.{i}.image", f"denoiser.blocks.{i}.text"
        last = i == c.depth - 1
        keys.move(f"{source}.norm1.linear", f"{image}.modulation")
        (scale_first if last else keys.move)(f"{source}.norm1_context.linear", f"{text}.modulation")
        projections(f"{source}.attn", f"{image}.joint", own, ("norm_q", "norm_k"))
        projections(f"{source}.attn", f"{text}.joint", added, ("norm_added_q", "norm_added_k"))
        keys.move(f"{source}.attn.to_out.0", f"{image}.proj")
        if i in c.twice:
            projections(f"{source}.attn2", f"{image}.alone", own, ("norm_q", "norm_k"))
            keys.move(f"{source}.attn2.to_out.0", f"{image}.proj_alone")
        feeds = [("ff", image)] if last else [("ff", image), ("ff_context", text)]
        for feed, target in feeds:
            keys.move(f"{source}.{feed}.net.0.proj", f"{target}.mlp_in")
            keys.move(f"{source}.{feed}.net.2", f"{target}.mlp_out")
        if not last:
            keys.move(f"{source}.attn.to_add_out", f"{text}.proj")
    scale_first("norm_out.linear", "denoiser.modulation_out")
    keys.move("proj_out", "denoiser.linear_out")


JOINT = Reader("transformer", ("SD3Transformer2DModel",), _joint_config, _move_joint)
