"""Reads diffusers' folders of Stable Diffusion (1.x and 2.x) into our config, weights and vocabulary.

Each part's config is read field by field; what cannot be computed is refused with field and value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from zoo_diffusion.layouts.common import read_json, sides
from zoo_diffusion.layouts.scheduler import require
from zoo_vqgan.layouts import import_checkpoint as import_codec

from zoo.build.keys import Keys, with_present_names
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Imported, ImportRequest
from zoo.text import safe_text

from .clip import Clip
from .config import ClipConfig, DenoiserConfig, read_config
from .denoiser import Denoiser
from .layouts import denoiser_weights, text_weights
from .schedulers import SCHEDULERS, read_schedule
from .text import MERGES, VOCABULARY

LAYOUT = "diffusers StableDiffusionPipeline"
MAX_VOCABULARY_BYTES = 64 << 20

PARTS: dict[str, tuple[str, ...]] = {
    "vae": ("AutoencoderKL",),
    "unet": ("UNet2DConditionModel",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": SCHEDULERS,
}
"""The parts of a pipeline, and the classes that are computed here."""


def import_checkpoint(request: ImportRequest) -> Imported | None:
    """The hook of the contract.

    Raises:
        InvalidFileError: a part is missing, of another class or shape, or has a field that is not supported.
    """
    index = request.config or {}
    if "unet" not in index or "_class_name" not in index:
        return None
    require(index, "model_index.json", _class_name=("StableDiffusionPipeline",))
    folder = request.path if request.path.is_dir() else request.path.parent
    for part, classes in PARTS.items():
        said = index.get(part)
        kind = said[1] if isinstance(said, list) and len(said) == 2 else None
        if kind is None or not (folder / part).is_dir():
            raise InvalidFileError(f"{LAYOUT}: {part} is missing; it must be a folder with a {classes[0]}")
        require({part: kind}, "model_index.json", **{part: classes})
    tensors = {part: _part(request.tensors, part) for part in ("vae", "unet", "text_encoder")}
    vae = _config(folder, "vae")
    codec = import_codec(ImportRequest(family="klvae", path=folder / "vae", tensors=tensors["vae"], config=vae))
    if codec is None:
        raise InvalidFileError(f"{LAYOUT}: the tensors of vae are not those of an AutoencoderKL")
    diffusion, notes = read_schedule(folder)
    network = _network(_config(folder, "unet"))
    text = _text(folder)
    if network.context_width != text.width:
        raise InvalidFileError(
            f"unet/config.json: cross_attention_dim is {network.context_width}; the text encoder's hidden_size is"
            f" {text.width}"
        )
    whole = {
        "codec": codec.config["codec"],
        "text": msgspec.to_builtins(text),
        "network": msgspec.to_builtins(network),
        "diffusion": msgspec.to_builtins(diffusion),
    }
    try:
        c, _ = read_config(whole)
    except UsageError as e:
        raise InvalidFileError(f"{LAYOUT}, but one that this family does not support: {e}") from None
    assets = _vocabulary(folder)
    state = dict(codec.state_dict)
    state |= _denoiser_state(tensors["unet"], c.network, vae)
    state |= _text_state(tensors["text_encoder"], text, assets)
    left = [name for name in ("safety_checker", "feature_extractor", "image_encoder", "watermark") if index.get(name)]
    left = [name for name in left if not isinstance(index[name], list) or index[name][-1] is not None]
    if left:
        notes += (f"left out: {', '.join(left)}; pictures are not checked",)
    notes += ("the weights have the licence of their source: state it with --license",)
    unused = tuple(f"vae.{name}" for name in codec.unused)
    return Imported(
        layout=LAYOUT, config=msgspec.to_builtins(c), state_dict=state, notes=notes, unused=unused, assets=assets
    )


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    found = {n.removeprefix(f"{part}."): tensor for n, tensor in tensors.items() if n.startswith(f"{part}.")}
    if not found:
        raise InvalidFileError(f"{LAYOUT}: {part} is missing: its folder contains no weights")
    return found


def _config(folder: Path, part: str) -> dict[str, Any]:
    config = read_json(folder / part / "config.json")
    if config is None:
        raise InvalidFileError(f"{LAYOUT}: {part}/config.json is missing")
    return config


# --- The parts --------------------------------------------------------------------------------------------------------


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


def _network(config: Mapping[str, Any]) -> DenoiserConfig:
    where = "unet/config.json"

    def refuse(field: str, reason: str) -> None:
        raise InvalidFileError(f"{where}: {field} is {safe_text(config.get(field))[:100]}; {reason}")

    require(config, where, _class_name="UNet2DConditionModel", **_FIXED)
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
    channels = config.get("in_channels", 4)
    if config.get("out_channels", 4) != channels:
        refuse("in_channels", f"it must be out_channels, {config.get('out_channels', 4)}")
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
    try:
        return msgspec.convert(
            {
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
            },
            DenoiserConfig,
        )
    except msgspec.ValidationError as e:
        raise InvalidFileError(f"{where} is one that this family does not support: {e}") from None


def _text(folder: Path) -> ClipConfig:
    config, where = _config(folder, "text_encoder"), "text_encoder/config.json"
    require(config, where, hidden_act=("quick_gelu", "gelu"))
    said = read_json(folder / "tokenizer" / "tokenizer_config.json") or {}
    padding = said.get("pad_token") or ""
    if isinstance(padding, Mapping):  # a token with its properties
        padding = padding.get("content", "")
    try:
        return msgspec.convert(
            {
                "kind": "clip",
                "vocabulary": config.get("vocab_size", 49_408),
                "length": config.get("max_position_embeddings", 77),
                "width": config.get("hidden_size", 512),
                "hidden": config.get("intermediate_size", 2048),
                "depth": config.get("num_hidden_layers", 12),
                "heads": config.get("num_attention_heads", 8),
                "activation": config.get("hidden_act", "quick_gelu"),
                "norm_epsilon": config.get("layer_norm_eps", 1e-5),
                "padding": padding,
            },
            ClipConfig,
        )
    except msgspec.ValidationError as e:
        raise InvalidFileError(f"{where} is one that this family does not support: {e}") from None


def _vocabulary(folder: Path) -> dict[str, bytes]:
    files = {name: folder / "tokenizer" / name for name in (VOCABULARY, MERGES)}
    for name, file in files.items():
        if not file.is_file():
            raise InvalidFileError(f"{LAYOUT}: tokenizer/{name} is missing")
        if file.stat().st_size > MAX_VOCABULARY_BYTES:
            raise InvalidFileError(f"{LAYOUT}: tokenizer/{name} has more than {MAX_VOCABULARY_BYTES:,} bytes")
    return {name: file.read_bytes() for name, file in files.items()}


# --- The tensors ------------------------------------------------------------------------------------------------------


def _denoiser_state(tensors: Mapping[str, Tensor], c: DenoiserConfig, vae: Mapping[str, Any]) -> dict[str, Tensor]:
    keys = Keys({name: tensor.float() for name, tensor in with_present_names(tensors).items()})
    denoiser_weights(keys, c)
    # The pipeline's latents are (z - shift) * scale: mean and deviation of the codec's.
    scale, shift = vae.get("scaling_factor") or 0.18215, vae.get("shift_factor") or 0.0
    keys.put("denoiser.mean", torch.full((c.image_channels,), float(shift)))
    keys.put("denoiser.deviation", torch.full((c.image_channels,), 1 / float(scale)))
    keys.put("denoiser.measured", torch.ones((), dtype=torch.int64))
    with torch.device("meta"):
        module = nn.ModuleDict({"denoiser": Denoiser(c)})
    return keys.finish(module)[0]


def _text_state(tensors: Mapping[str, Tensor], c: ClipConfig, assets: Mapping[str, bytes]) -> dict[str, Tensor]:
    keys = Keys({f"text_encoder.{name}": tensor.float() for name, tensor in tensors.items()})
    module = nn.ModuleDict({"text": Clip(c, assets)})
    text_weights(keys, c.depth)
    for name, tensor in module.state_dict().items():
        if name.startswith("text.tokenize."):
            keys.put(name, tensor)
    unused = ("*position_ids", "text_encoder.text_projection.weight")
    return keys.finish(module, unused=unused)[0]
