"""OpenAI's U-Nets, ADM: guided-diffusion and improved-diffusion."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.build.classes import NEEDS, require_class
from zoo.build.keys import Keys
from zoo.errors import InvalidFileError
from zoo.hookspecs import Imported

from ..config import DDPMConfig, DiffusionConfig, UNetConfig
from .common import imported, labels, need, residual

LAYOUT = "openai guided-diffusion"

RESIDUAL = {
    "in_layers.0": "norm_in",
    "in_layers.2": "conv_in",
    "emb_layers.1": "time",
    "out_layers.0": "norm_out",
    "out_layers.3": "conv_out",
    "skip_connection": "skip",
}

CHANNEL_MULTIPLES = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}
"""What guided-diffusion uses for an image size if `channel_mult` is empty."""

CONSISTENCY = "UNetModel of consistency_models"

GUIDED_ONLY = {"num_head_channels", "resblock_updown", "use_new_attention_order"}
"""Flags that improved-diffusion does not have."""


def is_adm(tensors: Mapping[str, Tensor]) -> bool:
    return "input_blocks.0.0.weight" in tensors and "time_embed.0.weight" in tensors and "out.2.weight" in tensors


def adm(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> Imported:
    """`config`: the repository's flags, or the arguments of its constructor, which have `model_channels`."""
    if config is None:
        raise InvalidFileError(
            f"{LAYOUT}: heads and image size are not in the weights; write the flags of the repository's README into a "
            "config.json next to them"
        )
    require_class(config, ("UNetModel", "UNet", "ADM", "guided_diffusion", "improved_diffusion"), LAYOUT)
    flags = config.get("flags", config)
    _refuse_what_is_not_ours(tensors, flags)
    network, notes = _network(tensors, flags, config)
    learned = tensors["out.2.weight"].shape[0] == 2 * network.image_channels
    keys = Keys(tensors)
    _move(keys, network, interleaved=not flags.get("use_new_attention_order", False))
    return imported(LAYOUT, DDPMConfig(network=network, diffusion=_diffusion(flags, learned=learned)), keys, notes)


def _refuse_what_is_not_ours(tensors: Mapping[str, Tensor], flags: Mapping[str, Any]) -> None:
    """Networks of the same code whose tensors have the same names."""
    channels, outputs = tensors["input_blocks.0.0.weight"].shape[1], tensors["out.2.weight"].shape[0]
    if any(field in flags for field in ("large_size", "small_size")) or (channels == 6 and outputs in (3, 6)):
        raise InvalidFileError(f"{LAYOUT}: its input has {channels} channels; it is {NEEDS['SuperResModel']}")
    if any(".transformer_blocks." in name for name in tensors):
        raise InvalidFileError(f"{LAYOUT}: it has cross-attention; it is {NEEDS['UNet2DConditionModel']}")
    flat = (tensor.dim() == 3 for name, tensor in tensors.items() if name.endswith(".qkv.weight"))
    if not all(flat) or any(field in flags for field in ("sigma_max", "training_mode", "weight_schedule")):
        raise InvalidFileError(f"{LAYOUT}: its attention or its flags are those of {NEEDS[CONSISTENCY]}")


# --- The meaning of the flags -----------------------------------------------------------------------------------------


def _network(
    tensors: Mapping[str, Tensor], flags: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[UNetConfig, tuple[str, ...]]:
    """The network, and what the user should know about it."""
    constructed = "model_channels" in flags
    if flags.get("num_classes") if constructed else flags.get("class_cond"):
        need(tensors, LAYOUT, "label_emb.weight")
    channels = flags.get("model_channels") or flags.get("num_channels", 128)
    size = flags.get("image_size") or 32
    widths = _widths(flags, channels, size)
    heads = flags.get("num_heads", 1 if constructed else 4)
    if flags.get("num_heads_upsample", -1) not in (-1, heads):
        raise InvalidFileError(f"{LAYOUT}: a different number of heads in the upward path is not supported")
    rows = tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else 0
    num_classes, null_label, notes = labels({**config, **flags}, rows, LAYOUT)
    resampling = "conv" if flags.get("conv_resample", True) else "plain"
    network = UNetConfig(
        image_size=size,
        image_channels=tensors["input_blocks.0.0.weight"].shape[1],
        num_classes=num_classes,
        null_label=null_label,
        widths=widths,
        blocks=flags.get("num_res_blocks", 2),
        attention_levels=_attention_levels(flags, len(widths), 0 if constructed else size),
        heads=heads,
        head_size=max(flags.get("num_head_channels", -1), 0),
        scale_shift=flags.get("use_scale_shift_norm", not constructed),
        resampling="residual" if flags.get("resblock_updown", False) else resampling,
        time_channels=channels,
        time_width=4 * channels,
        dropout=flags.get("dropout", 0.0),
    )
    return network, notes


def _widths(flags: Mapping[str, Any], channels: Any, size: Any) -> tuple[int, ...]:
    multiples = flags.get("channel_mult") or CHANNEL_MULTIPLES.get(size, (1, 2, 2, 2))
    if isinstance(multiples, str):
        multiples = tuple(float(m) for m in multiples.split(","))
    return tuple(int(channels * m) for m in multiples)


def _attention_levels(flags: Mapping[str, Any], levels: int, size: Any) -> tuple[int, ...]:
    """The command line lists image sizes with attention; the constructor (`size` 0) lists divisors of the size."""
    given = flags.get("attention_resolutions", "16,8")
    given = [int(r) for r in (given.split(",") if isinstance(given, str) else given)]
    rates = [size // r for r in given] if size else given
    return tuple(level for level in range(levels) if 2**level in rates)


def _diffusion(flags: Mapping[str, Any], *, learned: bool) -> DiffusionConfig:
    steps = flags.get("diffusion_steps", 1000)
    improved = "model_channels" not in flags and not flags.keys() & GUIDED_ONLY
    return DiffusionConfig(
        schedule=flags.get("noise_schedule", "linear"),
        num_timesteps=steps,
        beta_start=1e-4 * 1000 / steps,
        beta_end=min(0.999, 0.02 * 1000 / steps),
        # By default, improved-diffusion scales t as if there were 1000 steps; guided-diffusion does not.
        timestep_scale=1000 / steps if flags.get("rescale_timesteps", improved) else 1.0,
        prediction="x0" if flags.get("predict_xstart", False) else "epsilon",
        variance="learned" if learned else "small" if flags.get("sigma_small", False) else "large",
    )


# --- The tensors ------------------------------------------------------------------------------------------------------


def _move(keys: Keys, network: UNetConfig, *, interleaved: bool) -> None:
    """Their layers, from input to output. They are numbered across all levels: k."""
    last = len(network.widths) - 1

    def attention(source: str, target: str, width: int) -> None:
        heads = width // network.head_size if network.head_size else network.heads
        keys.move(f"{source}.norm", f"{target}.norm")
        _move_qkv(keys, f"{source}.qkv", f"{target}.qkv", width, heads if interleaved else 0)
        keys.move(f"{source}.proj_out", f"{target}.proj")

    def resample(source: str, target: str, conv: str) -> None:
        if network.resampling == "residual":
            residual(keys, source, target, RESIDUAL)
        elif network.resampling == "conv":
            keys.move(f"{source}.{conv}", f"{target}.conv")

    keys.move("time_embed.0", "time_in")
    keys.move("time_embed.2", "time_out")
    if network.num_classes:
        keys.move("label_emb", "label", bias=False)
    keys.move("input_blocks.0.0", "conv_in")
    k = 1
    for level, width in enumerate(network.widths):
        for j in range(network.blocks):
            residual(keys, f"input_blocks.{k}.0", f"down.{level}.blocks.{j}", RESIDUAL)
            if level in network.attention_levels:
                attention(f"input_blocks.{k}.1", f"down.{level}.attentions.{j}", width)
            k += 1
        if level < last:
            resample(f"input_blocks.{k}.0", f"down.{level}.resample", "op")
            k += 1
    residual(keys, "middle_block.0", "middle.blocks.0", RESIDUAL)
    attention("middle_block.1", "middle.attentions.0", network.widths[-1])
    residual(keys, "middle_block.2", "middle.blocks.1", RESIDUAL)
    k = 0
    for i, width in enumerate(reversed(network.widths)):
        attended = last - i in network.attention_levels
        for j in range(network.blocks + 1):
            residual(keys, f"output_blocks.{k}.0", f"up.{i}.blocks.{j}", RESIDUAL)
            if attended:
                attention(f"output_blocks.{k}.1", f"up.{i}.attentions.{j}", width)
            if i < last and j == network.blocks:  # the last block of a level includes the upsampling
                resample(f"output_blocks.{k}.{2 if attended else 1}", f"up.{i}.resample", "conv")
            k += 1
    keys.move("out.0", "norm_out")
    keys.move("out.2", "conv_out")


def _move_qkv(keys: Keys, source: str, target: str, width: int, interleaved_heads: int) -> None:
    """In the old order, q, k, v of the first head come first, then those of the second, …; 0 heads: the new order."""
    for part in ("weight", "bias"):
        qkv = keys.take(f"{source}.{part}", f"{target}.{part}")
        if qkv is None:
            continue
        if interleaved_heads and qkv.shape[0] == 3 * width:
            heads = interleaved_heads
            qkv = qkv.unflatten(0, (heads, 3, width // heads)).transpose(0, 1).flatten(0, 2)
        keys.put(f"{target}.{part}", qkv)
