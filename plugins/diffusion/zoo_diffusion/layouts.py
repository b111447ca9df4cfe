"""Public checkpoints in the layouts that their projects use, as our configs and weights.

A layout is known by its tensors' names; the config beside it says what shapes can't: heads, sizes, schedules. Traps
that these functions provide for are named where they are.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from zoo.build.keys import Keys
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import ConfigRequest, Imported, ImportRequest
from zoo.text import safe_text

from .config import DDPMConfig, DiffusionConfig, DiTConfig, TransformerConfig, UNetConfig
from .dit import DiT
from .plugin import validate_config
from .scheduler_config import about_scheduler, diffusers_schedule, read_scheduler, require
from .unet import UNet

RESIDUAL_DIFFUSERS = {
    "norm1": "norm_in",
    "conv1": "conv_in",
    "time_emb_proj": "time",
    "norm2": "norm_out",
    "conv2": "conv_out",
    "conv_shortcut": "skip",
}
RESIDUAL_OPENAI = {
    "in_layers.0": "norm_in",
    "in_layers.2": "conv_in",
    "emb_layers.1": "time",
    "out_layers.0": "norm_out",
    "out_layers.3": "conv_out",
    "skip_connection": "skip",
}


def read(request: ImportRequest) -> Imported | None:
    """The checkpoint as the family's, or None where it has none of its layouts.

    Raises:
        InvalidFileError: a layout that is known, with tensors missing, left over or of wrong shapes (all are named), or
            a config beside it that is not one of it, or that the family cannot hold.
    """
    try:
        return _read(request)
    except KeyError as e:
        what = f"the config beside it has no '{safe_text(e.args[0])}'"
    except (TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as e:
        what = f"the config beside it can't be that of these weights ({safe_text(e)[:200]})"
    raise InvalidFileError(f"{safe_text(request.path)}: {what}")


def _read(request: ImportRequest) -> Imported | None:
    tensors, config = request.tensors, request.config
    if request.family == "dit":
        if is_dit(tensors):
            return dit(tensors, config)
        return diffusers_dit(tensors, config, read_scheduler(request.path)) if is_diffusers_dit(tensors) else None
    if is_openai(tensors):
        return openai(tensors, config)
    return unet2d(tensors, config, read_scheduler(request.path)) if is_unet2d(tensors) else None


def _residual(keys: Keys, source: str, target: str, names: Mapping[str, str]) -> None:
    for theirs, ours in names.items():
        if ours != "skip" or keys.has(f"{source}.{theirs}"):
            keys.move(f"{source}.{theirs}", f"{target}.{ours}")


def _sides(size: int | list[int]) -> tuple[int, int]:
    """Height and width of diffusers' `sample_size`."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _need(tensors: Mapping[str, Tensor], layout: str, *names: str) -> None:
    """Refuses a checkpoint that lacks tensors from which its architecture is read."""
    if missing := [name for name in names if name not in tensors]:
        raise InvalidFileError(f"{layout}: the checkpoint is not whole: {', '.join(missing)} missing")


def _imported(
    layout: str, config: DDPMConfig | DiTConfig, keys: Keys, network: type, notes: tuple[str, ...] = ()
) -> Imported:
    try:
        family = "dit" if isinstance(config, DiTConfig) else "ddpm"
        complete = validate_config(ConfigRequest(family=family, config=msgspec.to_builtins(config)))
    except UsageError as e:
        raise InvalidFileError(f"{layout}, but one that this family cannot hold: {e}") from None
    with torch.device("meta"):
        module = network(config.network, outputs=2 if config.diffusion.variance == "learned" else 1)
    state, _ = keys.finish(module)
    picture = config.network
    if picture.num_classes and not picture.null_label:
        notes += ("has no null label, so no guidance",)
    if picture.image_channels not in (1, 3):
        notes += (f"draws latents of {picture.image_channels} channels; their decoder is another model",)
    return Imported(layout=layout, config=complete, state_dict=state, notes=notes)


# --- diffusers: UNet2DModel -------------------------------------------------------------------------------------------


def is_unet2d(tensors: Mapping[str, Tensor]) -> bool:
    return "time_embedding.linear_1.weight" in tensors and "conv_norm_out.weight" in tensors


def unet2d(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, scheduler: Mapping[str, Any]) -> Imported:
    """diffusers' UNet2DModel.

    Args:
        config: its config.json; the class's own defaults fill what it leaves out.
        scheduler: scheduler_config.json, or nothing: then DDPM's own schedule.
    """
    layout = "diffusers UNet2DModel"
    if config is None:
        raise InvalidFileError(f"{layout}: there is no config.json beside the weights, which says sizes and heads")
    require(
        config,
        layout,
        _class_name="UNet2DModel",
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
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    for kind in [*down, *up]:
        if kind.replace("Attn", "").replace("ResnetDownsample", "Down").replace("ResnetUpsample", "Up") not in (
            "DownBlock2D",
            "UpBlock2D",
        ):
            raise InvalidFileError(f"{layout}: a block of the kind {safe_text(kind)} can't be imported")
    attention = [level for level, kind in enumerate(down) if kind.startswith("Attn")]
    if attention != [level for level, kind in enumerate(reversed(up)) if kind.startswith("Attn")]:
        raise InvalidFileError(f"{layout}: attention on other levels down than up can't be imported")
    keys = Keys(_with_present_names(tensors))
    widths = tuple(config["block_out_channels"])
    residual = any(".downsamplers.0.conv1." in name for name in tensors)
    scale_shift = config.get("resnet_time_scale_shift", "default") == "scale_shift"
    # Where the key is left out the class's default counts: 8 channels a head; null is one head.
    head_size = config.get("attention_head_dim", 8)
    if config.get("num_class_embeds") is not None:
        _need(tensors, layout, "class_embedding.weight")
    classes = tensors["class_embedding.weight"].shape[0] if "class_embedding.weight" in tensors else 0
    height, width = _sides(config.get("sample_size") or 32)
    conv = "conv_asymmetric" if config.get("downsample_padding", 1) == 0 else "conv"
    network = UNetConfig(
        image_size=height,
        image_width=0 if width == height else width,
        image_channels=config.get("in_channels", 3),
        num_classes=classes,
        null_label=False,
        widths=widths,
        blocks=config.get("layers_per_block", 2),
        attention_levels=tuple(attention),
        middle_attention=config.get("add_attention", True),
        # diffusers builds the middle's attention without its norm in scale-shift networks.
        middle_attention_norm=not scale_shift,
        heads=1,
        head_size=head_size or 0,
        scale_shift=scale_shift,
        resampling="residual" if residual else conv,
        norm_groups=config.get("norm_num_groups", 32),
        norm_epsilon=config.get("norm_eps", 1e-5),
        time_width=config.get("time_embedding_dim") or 0,
        cosine_first=config.get("flip_sin_to_cos", True),
        frequency_shift=float(config.get("freq_shift", 0)),
        dropout=config.get("dropout", 0.0),
    )

    def attention_layer(source: str, target: str) -> None:
        if network.middle_attention_norm or not target.startswith("middle"):
            keys.move(f"{source}.group_norm", f"{target}.norm")
        keys.join([f"{source}.to_{name}" for name in "qkv"], f"{target}.qkv")
        keys.move(f"{source}.to_out.0", f"{target}.proj")

    keys.move("time_embedding.linear_1", "time_in")
    keys.move("time_embedding.linear_2", "time_out")
    if classes:
        keys.move("class_embedding", "label", bias=False)
    keys.move("conv_in", "conv_in")
    last = len(widths) - 1
    for way, blocks in (("down", network.blocks), ("up", network.blocks + 1)):
        for i in range(len(widths)):
            level = i if way == "down" else last - i
            source, target = f"{way}_blocks.{i}", f"{way}.{i}"
            for j in range(blocks):
                _residual(keys, f"{source}.resnets.{j}", f"{target}.blocks.{j}", RESIDUAL_DIFFUSERS)
                if level in attention:
                    attention_layer(f"{source}.attentions.{j}", f"{target}.attentions.{j}")
            if i < last:
                resample = f"{source}.{way}samplers.0"
                if residual:
                    _residual(keys, resample, f"{target}.resample", RESIDUAL_DIFFUSERS)
                else:
                    keys.move(f"{resample}.conv", f"{target}.resample.conv")
    for j in range(2):
        _residual(keys, f"mid_block.resnets.{j}", f"middle.blocks.{j}", RESIDUAL_DIFFUSERS)
    if network.middle_attention:
        attention_layer("mid_block.attentions.0", "middle.attentions.0")
    keys.move("conv_norm_out", "norm_out")
    keys.move("conv_out", "conv_out")
    diffusion = diffusers_schedule(scheduler, learned=config.get("out_channels", 3) == 2 * network.image_channels)
    return _imported(
        layout, DDPMConfig(network=network, diffusion=diffusion), keys, UNet, notes=about_scheduler(scheduler)
    )


def _with_present_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Files of 2022 call attention's layers query, key, value and proj_attn; diffusers renames them on loading."""
    renames = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    result = {}
    for name, tensor in tensors.items():
        for old, new in renames.items():
            name = name.replace(old, new)
        result[name] = tensor
    return result


# --- OpenAI: guided-diffusion and improved-diffusion ------------------------------------------------------------------


def is_openai(tensors: Mapping[str, Tensor]) -> bool:
    return "input_blocks.0.0.weight" in tensors and "time_embed.0.weight" in tensors and "out.2.weight" in tensors


CHANNEL_MULTIPLES = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}
"""What guided-diffusion takes for an image size when `channel_mult` is empty."""


GUIDED_ONLY = {"num_head_channels", "resblock_updown", "use_new_attention_order"}
"""Flags that improved-diffusion does not have."""


def openai(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> Imported:
    """A U-Net of guided-diffusion or improved-diffusion; `config`: the repository's flags or constructor arguments."""
    layout = "openai guided-diffusion"
    if config is None:
        raise InvalidFileError(
            f"{layout}: heads and image size are not in the weights; write the flags of the repository's README into a "
            "config.json beside them"
        )
    flags = config.get("flags", config)
    constructed = "model_channels" in flags
    if flags.get("num_classes") if constructed else flags.get("class_cond"):
        _need(tensors, layout, "label_emb.weight")
    channels = flags.get("model_channels") or flags.get("num_channels", 128)
    size = flags.get("image_size") or 32
    multiples = flags.get("channel_mult") or CHANNEL_MULTIPLES.get(size, (1, 2, 2, 2))
    if isinstance(multiples, str):
        multiples = tuple(float(m) for m in multiples.split(","))
    widths = tuple(int(channels * m) for m in multiples)
    resolutions = flags.get("attention_resolutions", "16,8")
    resolutions = [int(r) for r in (resolutions.split(",") if isinstance(resolutions, str) else resolutions)]
    # The command line gives image sizes, the constructor how often the picture was halved.
    rates = resolutions if constructed else [size // r for r in resolutions]
    attention = tuple(level for level in range(len(widths)) if 2**level in rates)
    head_size = flags.get("num_head_channels", -1)
    updown = flags.get("resblock_updown", False)
    learned = tensors["out.2.weight"].shape[0] == 2 * tensors["input_blocks.0.0.weight"].shape[1]
    classes = tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else 0
    steps = flags.get("diffusion_steps", 1000)
    improved = not constructed and not flags.keys() & GUIDED_ONLY
    network = UNetConfig(
        image_size=size,
        image_channels=tensors["input_blocks.0.0.weight"].shape[1],
        num_classes=classes,
        null_label=False,
        widths=widths,
        blocks=flags.get("num_res_blocks", 2),
        attention_levels=attention,
        heads=flags.get("num_heads", 1 if constructed else 4),
        head_size=head_size if head_size > 0 else 0,
        scale_shift=flags.get("use_scale_shift_norm", not constructed),
        resampling="residual" if updown else "conv" if flags.get("conv_resample", True) else "plain",
        time_channels=channels,
        time_width=4 * channels,
        dropout=flags.get("dropout", 0.0),
    )
    if flags.get("num_heads_upsample", -1) not in (-1, network.heads):
        raise InvalidFileError(f"{layout}: another number of heads on the way up can't be imported")
    diffusion = DiffusionConfig(
        schedule=flags.get("noise_schedule", "linear"),
        num_timesteps=steps,
        beta_start=1e-4 * 1000 / steps,
        beta_end=min(0.999, 0.02 * 1000 / steps),
        # improved-diffusion's default is to feed t as if there were 1000 steps, guided-diffusion's not to.
        timestep_scale=1000 / steps if flags.get("rescale_timesteps", improved) else 1.0,
        prediction="x0" if flags.get("predict_xstart", False) else "epsilon",
        variance="learned" if learned else "small" if flags.get("sigma_small", False) else "large",
    )
    keys = Keys(tensors)

    def attention_layer(source: str, target: str, width: int) -> None:
        keys.move(f"{source}.norm", f"{target}.norm")
        heads = width // network.head_size if network.head_size else network.heads
        for part in ("weight", "bias"):
            qkv = keys.take(f"{source}.qkv.{part}", f"{target}.qkv.{part}")
            if qkv is None:
                continue
            if not flags.get("use_new_attention_order", False) and qkv.shape[0] == 3 * width:
                # The old order has q, k, v of the first head, then those of the second, …
                qkv = qkv.unflatten(0, (heads, 3, width // heads)).transpose(0, 1).flatten(0, 2)
            keys.put(f"{target}.qkv.{part}", qkv)
        keys.move(f"{source}.proj_out", f"{target}.proj")

    def resampling(source: str, target: str, conv: str) -> None:
        if updown:
            _residual(keys, source, target, RESIDUAL_OPENAI)
        elif network.resampling == "conv":
            keys.move(f"{source}.{conv}", f"{target}.conv")

    keys.move("time_embed.0", "time_in")
    keys.move("time_embed.2", "time_out")
    if classes:
        keys.move("label_emb", "label", bias=False)
    keys.move("input_blocks.0.0", "conv_in")
    last, k = len(widths) - 1, 1
    for level, width in enumerate(widths):
        for j in range(network.blocks):
            _residual(keys, f"input_blocks.{k}.0", f"down.{level}.blocks.{j}", RESIDUAL_OPENAI)
            if level in attention:
                attention_layer(f"input_blocks.{k}.1", f"down.{level}.attentions.{j}", width)
            k += 1
        if level < last:
            resampling(f"input_blocks.{k}.0", f"down.{level}.resample", "op")
            k += 1
    _residual(keys, "middle_block.0", "middle.blocks.0", RESIDUAL_OPENAI)
    attention_layer("middle_block.1", "middle.attentions.0", widths[-1])
    _residual(keys, "middle_block.2", "middle.blocks.1", RESIDUAL_OPENAI)
    k = 0
    for i, width in enumerate(reversed(widths)):
        attended = last - i in attention
        for j in range(network.blocks + 1):
            _residual(keys, f"output_blocks.{k}.0", f"up.{i}.blocks.{j}", RESIDUAL_OPENAI)
            if attended:
                attention_layer(f"output_blocks.{k}.1", f"up.{i}.attentions.{j}", width)
            if i < last and j == network.blocks:  # the last block of a level carries the way up
                resampling(f"output_blocks.{k}.{2 if attended else 1}", f"up.{i}.resample", "conv")
            k += 1
    keys.move("out.0", "norm_out")
    keys.move("out.2", "conv_out")
    return _imported(layout, DDPMConfig(network=network, diffusion=diffusion), keys, UNet)


# --- DiT: Meta's and diffusers' ---------------------------------------------------------------------------------------


def is_dit(tensors: Mapping[str, Tensor]) -> bool:
    return "x_embedder.proj.weight" in tensors and "final_layer.linear.weight" in tensors


def is_diffusers_dit(tensors: Mapping[str, Tensor]) -> bool:
    return "proj_out_2.weight" in tensors and "transformer_blocks.0.norm1.linear.weight" in tensors


HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Of the published DiT-S, B, L and XL, by width."""

# Section 3.1 of Peebles and Xie: ADM's linear schedule and learned variance, guidance on the first three channels.
_DIT_DIFFUSION = {"clip": False, "guided_channels": 3}


def dit(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> Imported:
    """facebookresearch/DiT; `config` (its constructor's arguments) is needed where the width is not a published one."""
    layout = "facebookresearch/DiT"
    config = config or {}
    _need(tensors, layout, "pos_embed", "y_embedder.embedding_table.weight", "blocks.0.mlp.fc1.weight")
    width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    heads = config.get("num_heads") or HEADS.get(width)
    if heads is None:
        raise InvalidFileError(
            f"{layout}: the number of heads is not in the weights, and {width} is the width of no published DiT; "
            'write {"num_heads": …} into a config.json beside them'
        )
    patches, rows = tensors["pos_embed"].shape[1], tensors["y_embedder.embedding_table.weight"].shape[0]
    outputs = tensors["final_layer.linear.weight"].shape[0] // (patch**2 * channels)
    classes = config.get("num_classes") or (rows if rows % 10 == 0 else rows - 1)
    network = TransformerConfig(
        image_size=round(patches**0.5) * patch,
        image_channels=channels,
        num_classes=classes,
        null_label=rows > classes,
        patch_size=patch,
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
        heads=heads,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
    )
    keys = Keys(tensors)
    keys.move("x_embedder.proj", "patches.proj")
    keys.move_tensor("pos_embed", "positions")
    keys.move("t_embedder.mlp.0", "conditions.0.time_in")
    keys.move("t_embedder.mlp.2", "conditions.0.time_out")
    keys.move("y_embedder.embedding_table", "conditions.0.label", bias=False)
    for i in range(network.depth):
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            keys.move(f"blocks.{i}.{layer}", f"blocks.{i}.{layer}")
        keys.move(f"blocks.{i}.adaLN_modulation.1", f"blocks.{i}.modulation")
    keys.move("final_layer.linear", "linear_out")
    keys.move("final_layer.adaLN_modulation.1", "modulation_out")
    diffusion = DiffusionConfig(variance="learned" if outputs == 2 else "large", **_DIT_DIFFUSION)
    return _imported(layout, DiTConfig(network=network, diffusion=diffusion), keys, DiT)


def diffusers_dit(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, scheduler: Mapping[str, Any]
) -> Imported:
    """diffusers' DiTTransformer2DModel, or a Transformer2DModel with ada_norm_zero.

    It is not Meta's DiT: its timestep frequencies are shifted by one and its second norm has another epsilon.
    """
    layout = "diffusers DiTTransformer2DModel"
    if config is None:
        raise InvalidFileError(f"{layout}: there is no config.json beside the weights, which says the number of heads")
    require(
        config,
        layout,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        attention_bias=True,
    )
    labels = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    _need(tensors, layout, "pos_embed.proj.weight", labels, "transformer_blocks.0.ff.net.0.proj.weight")
    width, channels, patch, _ = tensors["pos_embed.proj.weight"].shape
    rows = tensors[labels].shape[0]
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("transformer_blocks."))
    outputs = tensors["proj_out_2.weight"].shape[0] // (patch**2 * channels)
    embedding = {
        "timestep_embedder.linear_1": "time_in",
        "timestep_embedder.linear_2": "time_out",
        "class_embedder.embedding_table": "label",
    }
    first = "transformer_blocks.0.norm1.emb."
    same = all(
        torch.equal(tensor, tensors.get(name.replace("transformer_blocks.0.", f"transformer_blocks.{i}."), tensor))
        for name, tensor in tensors.items()
        if name.startswith(first)
        for i in range(depth)
    )
    height, across = _sides(config.get("sample_size", 32))
    network = TransformerConfig(
        image_size=height,
        image_width=0 if across == height else across,
        image_channels=channels,
        num_classes=config.get("num_embeds_ada_norm", rows - 1),
        null_label=True,
        patch_size=patch,
        width=width,
        depth=depth,
        heads=config.get("num_attention_heads", 16),
        mlp_ratio=tensors["transformer_blocks.0.ff.net.0.proj.weight"].shape[0] / width,
        mlp_norm_epsilon=config.get("norm_eps", 1e-5),
        frequency_shift=1.0,
        condition_per_block=not same,
    )
    keys = Keys(tensors)
    keys.move("pos_embed.proj", "patches.proj")
    if "pos_embed.pos_embed" in tensors:
        keys.move_tensor("pos_embed.pos_embed", "positions")
    else:
        keys.put("positions", DiT.positions_of(network))
    for i in range(depth):
        source, target = f"transformer_blocks.{i}", f"blocks.{i}"
        for theirs, ours in embedding.items():
            if same and i > 0:  # a copy of the first block's
                for part in ("weight", "bias") if ours != "label" else ("weight",):
                    keys.take(f"{source}.norm1.emb.{theirs}.{part}", f"conditions.0.{ours}.{part}")
            else:
                keys.move(f"{source}.norm1.emb.{theirs}", f"conditions.{i}.{ours}", bias=ours != "label")
        keys.move(f"{source}.norm1.linear", f"{target}.modulation")
        keys.join([f"{source}.attn1.to_{name}" for name in "qkv"], f"{target}.attn.qkv")
        keys.move(f"{source}.attn1.to_out.0", f"{target}.attn.proj")
        keys.move(f"{source}.ff.net.0.proj", f"{target}.mlp.fc1")
        keys.move(f"{source}.ff.net.2", f"{target}.mlp.fc2")
    keys.move("proj_out_1", "modulation_out")
    keys.move("proj_out_2", "linear_out")
    said = diffusers_schedule(scheduler, learned=outputs == 2)
    diffusion = msgspec.structs.replace(said, **(_DIT_DIFFUSION | ({"clip": said.clip} if scheduler else {})))
    return _imported(
        layout, DiTConfig(network=network, diffusion=diffusion), keys, DiT, notes=about_scheduler(scheduler)
    )
