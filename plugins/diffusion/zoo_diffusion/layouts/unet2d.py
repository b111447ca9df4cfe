"""diffusers' UNet2DModel."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from torch import Tensor

from zoo.build.classes import NEEDS, require_class
from zoo.build.keys import Keys, with_present_names
from zoo.errors import InvalidFileError
from zoo.hookspecs import Imported
from zoo.text import safe_text

from ..config import DDPMConfig, UNetConfig
from .common import imported, is_latent, labels, need, residual, sides
from .scheduler import about_scheduler, clips_noise, diffusers_schedule, read_scheduler, require

LAYOUT = "diffusers UNet2DModel"

RESIDUAL = {
    "norm1": "norm_in",
    "conv1": "conv_in",
    "time_emb_proj": "time",
    "norm2": "norm_out",
    "conv2": "conv_out",
    "conv_shortcut": "skip",
}

BLOCKS = (
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "UpBlock2D",
    "AttnUpBlock2D",
    "ResnetUpsampleBlock2D",
)


def is_unet2d(tensors: Mapping[str, Tensor]) -> bool:
    return "time_embedding.linear_1.weight" in tensors and "conv_norm_out.weight" in tensors


def unet2d(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, path: Path) -> Imported:
    """
    Args:
        config: its config.json; the class's own defaults apply to missing fields.
        path: of the weights, for the configs of the pipeline.
    """
    if config is None:
        raise InvalidFileError(f"{LAYOUT}: there is no config.json with sizes and heads next to the weights")
    require_class(config, ("UNet2DModel",), LAYOUT)
    scheduler = read_scheduler(path)
    network, notes = network_of(tensors, config)
    channels, outputs = network.image_channels, config.get("out_channels", 3)
    if outputs not in (channels, 2 * channels):
        raise InvalidFileError(
            f"{LAYOUT}: in_channels is {channels} and out_channels {outputs}: the network also takes an image, as in "
            f"{NEEDS['LDMSuperResolutionPipeline']}"
        )
    network = replace(network, latents=is_latent(path, channels))
    learned = outputs == 2 * channels
    keys = Keys(with_present_names(tensors))
    move(keys, network)
    diffusion = replace(diffusers_schedule(scheduler, learned=learned), clipped_noise=clips_noise(scheduler))
    c = DDPMConfig(network=network, diffusion=diffusion)
    return imported(LAYOUT, c, keys, notes=about_scheduler(scheduler) + notes)


def network_of(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[UNetConfig, tuple[str, ...]]:
    """The network, and what the user should know about it."""
    require(
        config,
        LAYOUT,
        time_embedding_type="positional",
        center_input_sample=False,
        mid_block_type=("UNetMidBlock2D",),
        mid_block_scale_factor=1,
        act_fn=("silu", "swish"),
        class_embed_type=(None,),
        attn_norm_num_groups=(None,),
        downsample_padding=(1, 0),
        resnet_time_scale_shift=("default", "scale_shift"),
    )
    residual_resampling = any(".downsamplers.0.conv1." in name for name in tensors)
    conv = "conv_asymmetric" if config.get("downsample_padding", 1) == 0 else "conv"
    scale_shift = config.get("resnet_time_scale_shift", "default") == "scale_shift"
    if config.get("num_class_embeds") is not None:
        need(tensors, LAYOUT, "class_embedding.weight")
    rows = tensors["class_embedding.weight"].shape[0] if "class_embedding.weight" in tensors else 0
    num_classes, null_label, notes = labels(config, rows, LAYOUT)
    height, width = sides(config.get("sample_size") or 32)
    network = UNetConfig(
        image_size=height,
        image_width=0 if width == height else width,
        image_channels=config.get("in_channels", 3),
        num_classes=num_classes,
        null_label=null_label,
        widths=tuple(config["block_out_channels"]),
        blocks=config.get("layers_per_block", 2),
        attention_levels=_attention_levels(config["down_block_types"], config["up_block_types"]),
        middle_attention=config.get("add_attention", True),
        # diffusers builds the middle's attention without its norm in scale-shift networks.
        middle_attention_norm=not scale_shift,
        heads=1,
        # If the key is missing, the class's default applies: 8 channels per head; null means one head.
        head_size=config.get("attention_head_dim", 8) or 0,
        scale_shift=scale_shift,
        resampling="residual" if residual_resampling else conv,
        norm_groups=config.get("norm_num_groups", 32),
        norm_epsilon=config.get("norm_eps", 1e-5),
        time_width=config.get("time_embedding_dim") or 0,
        cosine_first=config.get("flip_sin_to_cos", True),
        frequency_shift=float(config.get("freq_shift", 0)),
        dropout=config.get("dropout", 0.0),
    )
    return network, notes


def _attention_levels(down: Sequence[str], up: Sequence[str]) -> tuple[int, ...]:
    for kind in [*down, *up]:
        if kind not in BLOCKS:
            raise InvalidFileError(f"{LAYOUT}: a block of the kind {safe_text(kind)} is not supported")
    levels = [level for level, kind in enumerate(down) if kind.startswith("Attn")]
    if levels != [level for level, kind in enumerate(reversed(up)) if kind.startswith("Attn")]:
        raise InvalidFileError(f"{LAYOUT}: attention on different levels down and up is not supported")
    return tuple(levels)


def move(keys: Keys, network: UNetConfig, ours: str = "") -> None:
    """Their layers, from input to output; `ours` is what our names start with."""

    def attention(source: str, target: str, *, norm: bool = True) -> None:
        if norm:
            keys.move(f"{source}.group_norm", f"{target}.norm")
        keys.join([f"{source}.to_{name}" for name in "qkv"], f"{target}.qkv")
        keys.move(f"{source}.to_out.0", f"{target}.proj")

    def level(source: str, target: str, number: int, blocks: int, resample: str) -> None:
        for j in range(blocks):
            residual(keys, f"{source}.resnets.{j}", f"{target}.blocks.{j}", RESIDUAL)
            if number in network.attention_levels:
                attention(f"{source}.attentions.{j}", f"{target}.attentions.{j}")
        if resample and network.resampling == "residual":
            residual(keys, f"{source}.{resample}.0", f"{target}.resample", RESIDUAL)
        elif resample:
            keys.move(f"{source}.{resample}.0.conv", f"{target}.resample.conv")

    keys.move("time_embedding.linear_1", f"{ours}time_in")
    keys.move("time_embedding.linear_2", f"{ours}time_out")
    if network.num_classes:
        keys.move("class_embedding", f"{ours}label", bias=False)
    keys.move("conv_in", f"{ours}conv_in")
    last = len(network.widths) - 1
    for i in range(last + 1):
        level(f"down_blocks.{i}", f"{ours}down.{i}", i, network.blocks, "downsamplers" if i < last else "")
    for j in range(2):
        residual(keys, f"mid_block.resnets.{j}", f"{ours}middle.blocks.{j}", RESIDUAL)
    if network.middle_attention:
        attention("mid_block.attentions.0", f"{ours}middle.attentions.0", norm=network.middle_attention_norm)
    for i in range(last + 1):
        level(f"up_blocks.{i}", f"{ours}up.{i}", last - i, network.blocks + 1, "upsamplers" if i < last else "")
    keys.move("conv_norm_out", f"{ours}norm_out")
    keys.move("conv_out", f"{ours}conv_out")
