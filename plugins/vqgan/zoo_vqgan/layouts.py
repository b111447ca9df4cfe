"""Reads public codecs in their projects' layouts into our configs and weights.

Sizes are read from the tensors, and a config must agree with them. A config is only needed for what shapes do not show:
the groups of diffusers' norms. Pitfalls that this file handles:

- the levels of a decoder count from the finest in taming-transformers and latent-diffusion, from the coarsest in
  diffusers, LlamaGen and here;
- attention is a 1x1 convolution there and a linear layer here and in diffusers, whose files of 2022 call its parts
  query, key, value and proj_attn;
- LlamaGen normalises latents and codes to length 1 unless its config turns that off; here the codes are stored that
way;
- latent-diffusion quantises the input of its decoder again, which tokens do not need.

priors.py reads the transformers that draw a codec's tokens.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.build.classes import NEEDS, require_class
from zoo.build.keys import Keys, with_present_names
from zoo.errors import InvalidFileError
from zoo.hookspecs import Imported, ImportRequest
from zoo.text import one_line, safe_text

from .config import CodecConfig, KLConfig, KLVAEConfig, VQGANConfig
from .model import VQGAN, KLAutoencoder
from .priors import NET2NET, read_llamagen, read_net2net

FIRST_STAGE = "first_stage_model."  # in whole models of latent-diffusion and taming-transformers
UNUSED = ("loss.", "model_ema.", "quantize.codebook_used", "logvar")


@dataclass(frozen=True)
class Layout:
    """The names that a project uses; `{i}` is a level, `{j}` a block."""

    name: str
    down: str
    up: str
    block: str
    attention: str
    downsample: str
    upsample: str
    middle: tuple[str, str, str]  # block, attention, block
    norm_out: str
    block_parts: tuple[str, str, str, str, str]  # norm, conv, norm, conv, skip
    attention_parts: tuple[str, str, str, str, str]  # norm, q, k, v, proj
    finest_first_up: bool  # whether the decoder's levels count from the finest


_PARTS = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")
_ATTENTION = ("norm", "q", "k", "v", "proj_out")

TAMING = Layout(
    name="CompVis/taming-transformers",
    down="encoder.down.{i}",
    up="decoder.up.{i}",
    block="block.{j}",
    attention="attn.{j}",
    downsample="downsample.conv",
    upsample="upsample.conv",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    norm_out="norm_out",
    block_parts=_PARTS,
    attention_parts=_ATTENTION,
    finest_first_up=True,
)
LLAMAGEN = Layout(
    name="FoundationVision/LlamaGen",
    down="encoder.conv_blocks.{i}",
    up="decoder.conv_blocks.{i}",
    block="res.{j}",
    attention="attn.{j}",
    downsample="downsample.conv",
    upsample="upsample.conv",
    middle=("mid.0", "mid.1", "mid.2"),
    norm_out="norm_out",
    block_parts=_PARTS,
    attention_parts=_ATTENTION,
    finest_first_up=False,
)
DIFFUSERS = Layout(
    name="diffusers",
    down="encoder.down_blocks.{i}",
    up="decoder.up_blocks.{i}",
    block="resnets.{j}",
    attention="attentions.{j}",
    downsample="downsamplers.0.conv",
    upsample="upsamplers.0.conv",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    norm_out="conv_norm_out",
    block_parts=("norm1", "conv1", "norm2", "conv2", "conv_shortcut"),
    attention_parts=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    finest_first_up=False,
)
LAYOUTS = (TAMING, LLAMAGEN, DIFFUSERS)

CLASSES = ("VQModel", "VQModelInterface", "VQGAN", "VQ", "AutoencoderKL", "KL", "klvae")
"""What configs call these codecs; `VQ-16` is LlamaGen's."""


def import_checkpoint(request: ImportRequest) -> Imported | None:
    """The hook of the contract.

    Raises:
        InvalidFileError: a known layout with tensors that are missing, unexpected or of the wrong shape, a config that
            disagrees with it, or something in it that these families do not support.
    """
    tensors, config = dict(request.tensors), dict(request.config or {})
    whole = _whole(config)
    config, outside = _first_stage(tensors, config)
    layout = next((known for known in LAYOUTS if _is(known, tensors)), None)
    if layout is None:
        return None
    source = request.path.name
    said = {field: config.get(field) for field in ("_class_name", "model")}
    require_class(said, CLASSES, source)
    if any(name.startswith("decoder.condition_encoder.") for name in tensors):
        raise InvalidFileError(f"{source} is {NEEDS['AsymmetricAutoencoderKL']}")
    if layout is DIFFUSERS:
        tensors = with_present_names(tensors)
    quantized = [name for name in tensors if name.startswith("quantize.")]
    if quantized and "quantize.embedding.weight" not in tensors:
        raise InvalidFileError(
            f"{source} has no codebook at quantize.embedding.weight but {safe_text(quantized[0])}: a quantiser that "
            "this family does not support (Gumbel, or without lookup)"
        )
    _refuse_what_is_not_ours(config, source)
    if (request.family == "vqgan") != bool(quantized):
        other = "vqgan" if quantized else "klvae"
        raise InvalidFileError(f"{source} is a codec of the family '{other}': use zoo import {other} …")
    c = (_quantized if quantized else _gaussian)(layout, tensors, config, source)
    codec = _take(layout, tensors, c, outside)
    if not isinstance(c, VQGANConfig):
        return codec
    try:
        return _with_prior(codec, c.codec, request, whole)
    except (TypeError, ValueError, AttributeError, LookupError) as e:
        raise InvalidFileError(f"{source}: a config does not belong to its transformer ({one_line(e)})") from None


def _with_prior(codec: Imported, c: CodecConfig, request: ImportRequest, whole: Mapping[str, Any]) -> Imported:
    """The codec with the transformer of its own file, or with that of --prior, if there is one."""
    source = request.path.name
    prior = read_net2net(request.tensors, whole, c, source)
    notes = prior.notes
    if extras := request.extras.get("prior"):
        if prior.config:
            raise InvalidFileError(f"--prior: {source} has a transformer of its own")
        prior = read_llamagen(extras[0], c)
        left = f"; not used: {', '.join(prior.unused[:6])}" if prior.unused else ""
        notes += (
            f"--prior: used {len(extras[0].tensors) - len(prior.unused)} of {len(extras[0].tensors)} tensors{left}",
        )
        notes += prior.notes
    if prior.config is None:
        return replace(codec, notes=codec.notes + notes)
    return replace(
        codec,
        layout=f"{codec.layout}, {prior.layout}",
        config={**codec.config, "prior": msgspec.to_builtins(prior.config)},
        state_dict={**codec.state_dict, **prior.state},
        unused=tuple(name for name in codec.unused if not name.startswith(NET2NET) or name in prior.unused),
        notes=codec.notes + notes,
    )


def _is(layout: Layout, tensors: Mapping[str, Tensor]) -> bool:
    ends = (layout.down.format(i=0), layout.up.format(i=0))
    return all(f"{end}.{layout.block.format(j=0)}.{layout.block_parts[1]}.weight" in tensors for end in ends)


def _whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments of a whole model."""
    model = config["model"] if isinstance(config.get("model"), dict) else {}  # a string in others, such as VQ-16
    return (model or config).get("params", model or config)


def _first_stage(tensors: dict[str, Tensor], config: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Extracts the codec from a whole model's tensors, in place; returns its config, and the names of the rest."""
    model = config["model"] if isinstance(config.get("model"), dict) else {}
    params = _whole(config)
    outside: tuple[str, ...] = ()
    if any(name.startswith(FIRST_STAGE) for name in tensors):
        outside = tuple(name for name in tensors if not name.startswith(FIRST_STAGE))
        inside = {name.removeprefix(FIRST_STAGE): t for name, t in tensors.items() if name.startswith(FIRST_STAGE)}
        tensors.clear()
        tensors.update(inside)
        stage = params.get("first_stage_config", {})
        config, params = stage, stage.get("params", {})
    return dict(params) | {"target": config.get("target", model.get("target", ""))}, outside


def _refuse_what_is_not_ours(config: Mapping[str, Any], source: str) -> None:
    """Fields that change the function but not the tensors' names."""
    inner = config.get("ddconfig", config)
    inner = inner if isinstance(inner, dict) else {}
    for field, allowed in {
        "attn_type": ("vanilla", "none"),
        "use_linear_attn": (False,),
        "tanh_out": (False,),
        "give_pre_end": (False,),
        "resamp_with_conv": (True,),
        "norm_type": ("group",),
        "act_fn": ("silu", "swish"),
    }.items():
        if inner.get(field, allowed[0]) not in allowed:
            told = " or ".join(map(str, allowed))
            raise InvalidFileError(f"{source}: {field} is {safe_text(inner[field])}; only {told} is supported")
    if "IBQ" in str(config.get("target", "")):
        raise InvalidFileError(
            f"{source} is an IBQ tokenizer, whose token is the largest product, not the nearest code"
        )


# --- The config, from shapes ------------------------------------------------------------------------------------------


def _shape(tensors: Mapping[str, Tensor], name: str, source: str) -> list[int]:
    if name not in tensors:
        raise InvalidFileError(f"{source} has no {name}, without which its sizes are unknown")
    return list(tensors[name].shape)


def _count(tensors: Mapping[str, Tensor], template: str) -> int:
    """The number of consecutive numbers from 0 in a template like `encoder.down.{n}.`: the highest plus one."""
    pattern = re.compile(re.escape(template).replace(r"\{n\}", r"(\d{1,3})"))
    return 1 + max((int(found[1]) for name in tensors if (found := pattern.match(name))), default=-1)


def _network(layout: Layout, tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The fields shared by both families' networks."""
    levels = _count(tensors, layout.down.replace("{i}", "{n}") + ".")
    first = layout.down.format(i=0)
    conv = layout.block_parts[1]
    block = layout.block.format(j=0)
    widths = [_shape(tensors, f"{layout.down.format(i=i)}.{block}.{conv}.weight", source)[0] for i in range(levels)]
    attention = [
        i
        for i in range(levels)
        if any(
            n.startswith(f"{layout.down.format(i=i)}.attn") or n.startswith(f"{layout.down.format(i=i)}.attentions.")
            for n in tensors
        )
    ]
    fields = {
        "image_channels": _shape(tensors, "encoder.conv_in.weight", source)[1],
        "widths": widths,
        "blocks": _count(tensors, f"{first}.{layout.block.replace('{j}', '{n}')}."),
        "attention_levels": attention,
        "middle_attention": any(n.startswith(f"encoder.{layout.middle[1]}.") for n in tensors),
        "latent_channels": _shape(tensors, "decoder.conv_in.weight", source)[1],
        "norm_groups": 32,
    }
    if layout is DIFFUSERS:
        fields["norm_groups"] = config.get("norm_num_groups", 32)
    _agree(fields, _said(layout, levels, config, source), source)
    return fields


def _said(layout: Layout, levels: int, config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The same fields from a config; None, or no field, for what it does not state."""
    if layout is DIFFUSERS:
        if "block_out_channels" not in config:
            raise InvalidFileError(f"{source}: there is no diffusers config.json with norm_num_groups next to it")
        return {
            "widths": list(config["block_out_channels"]),
            "blocks": config.get("layers_per_block", 1),
            "latent_channels": config.get("latent_channels"),
            "middle_attention": config.get("mid_block_add_attention", True),
        }
    if layout is LLAMAGEN:
        multiples, width = config.get("encoder_ch_mult"), config.get("ch", 128 if "encoder_ch_mult" in config else None)
        widths = [width * m for m in multiples] if multiples and width else None
        return {"latent_channels": config.get("z_channels"), "widths": widths}
    inner = config.get("ddconfig", {})
    said: dict[str, Any] = {"blocks": inner.get("num_res_blocks"), "latent_channels": inner.get("z_channels")}
    attention = inner.get("attn_type", "vanilla") != "none"
    if "ch" in inner and "ch_mult" in inner:
        said["widths"] = [inner["ch"] * m for m in inner["ch_mult"]]
    if "resolution" in inner and attention:
        sides = [inner["resolution"] // 2**i for i in range(levels)]
        said["attention_levels"] = [i for i in range(levels) if sides[i] in inner.get("attn_resolutions", ())]
    if inner:
        said["middle_attention"] = attention
    return said


def _agree(shown: Mapping[str, Any], said: Mapping[str, Any], source: str) -> None:
    for field, value in said.items():
        if value is not None and shown[field] != value:
            raise InvalidFileError(
                f"{source}: its config says {field} {safe_text(value)}, but its tensors {shown[field]}"
            )


def _quantized(layout: Layout, tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> VQGANConfig:
    num_codes, code_size = _shape(tensors, "quantize.embedding.weight", source)
    fields = _network(layout, tensors, config, source) | {
        "num_codes": num_codes,
        "code_size": code_size,
        "learn_codebook": "loss",
        "normalize_latents": layout is LLAMAGEN and config.get("codebook_l2_norm", True),
    }
    said = {
        TAMING: {"num_codes": config.get("n_embed"), "code_size": config.get("embed_dim")},
        LLAMAGEN: {"num_codes": config.get("codebook_size"), "code_size": config.get("codebook_embed_dim")},
        DIFFUSERS: {"num_codes": config.get("num_vq_embeddings"), "code_size": config.get("vq_embed_dim")},
    }[layout]
    _agree(fields, said, source)
    return VQGANConfig(codec=_convert(fields, CodecConfig, source))


def _gaussian(layout: Layout, tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> KLVAEConfig:
    latent = _shape(tensors, "decoder.conv_in.weight", source)[1]
    convolutions = "post_quant_conv.weight" in tensors or "quant_conv.weight" in tensors
    size = _shape(tensors, "post_quant_conv.weight", source)[1] if convolutions else latent
    fields = _network(layout, tensors, config, source)
    _agree(fields | {"code_size": size}, {"code_size": config.get("embed_dim")}, source)
    if convolutions and not (config.get("use_quant_conv", True) and config.get("use_post_quant_conv", True)):
        raise InvalidFileError(f"{source}: it has only one of quant_conv and post_quant_conv, which is not supported")
    return KLVAEConfig(
        codec=_convert(fields | {"code_size": size, "latent_convolutions": convolutions}, KLConfig, source)
    )


def _convert(fields: Mapping[str, Any], schema: type, source: str) -> Any:
    try:
        return msgspec.convert(fields, schema)
    except msgspec.ValidationError as e:
        raise InvalidFileError(f"{source} is a codec that this family does not support: {e}") from None


# --- The tensors ------------------------------------------------------------------------------------------------------


def _take(
    layout: Layout, tensors: Mapping[str, Tensor], c: VQGANConfig | KLVAEConfig, outside: tuple[str, ...]
) -> Imported:
    codec = c.codec
    keys = Keys({name: tensor.float() for name, tensor in tensors.items()})
    _move(keys, layout, codec)
    if isinstance(codec, CodecConfig):
        codebook = keys.take("quantize.embedding.weight", "codec.quantizer.codebook")
        if codebook is not None:
            codebook = F.normalize(codebook, dim=1) if codec.normalize_latents else codebook
            keys.put("codec.quantizer.codebook", codebook)
    with torch.device("meta"):
        module = VQGAN(codec) if isinstance(codec, CodecConfig) else KLAutoencoder(codec)
    state, unused = keys.finish(torch.nn.ModuleDict({"codec": module}), unused=UNUSED)
    config = {name: part for name, part in msgspec.to_builtins(c).items() if part is not None}
    return Imported(layout=layout.name, config=config, state_dict=state, unused=(*unused, *outside))


def _move(keys: Keys, layout: Layout, codec: CodecConfig | KLConfig) -> None:
    """Encoder and decoder, from input to output, and the convolutions to and from the code."""
    last = len(codec.widths) - 1
    norm, *attended, proj = layout.attention_parts

    def block(source: str, target: str) -> None:
        for theirs, ours in zip(layout.block_parts, ("norm_in", "conv_in", "norm_out", "conv_out", "skip")):
            if ours != "skip" or keys.has(f"{source}.{theirs}"):
                keys.move(f"{source}.{theirs}", f"codec.{target}.{ours}")

    def attention(source: str, target: str) -> None:
        keys.move(f"{source}.{norm}", f"codec.{target}.norm")
        keys.join([f"{source}.{name}" for name in attended], f"codec.{target}.qkv")
        keys.move(f"{source}.{proj}", f"codec.{target}.proj")

    def level(source: str, target: str, number: int, blocks: int, resample: str) -> None:
        for j in range(blocks):
            block(f"{source}.{layout.block.format(j=j)}", f"{target}.blocks.{j}")
            if number in codec.attention_levels:
                attention(f"{source}.{layout.attention.format(j=j)}", f"{target}.attentions.{j}")
        if resample:
            keys.move(f"{source}.{resample}", f"codec.{target}.resample.conv")

    for side in ("encoder", "decoder"):
        keys.move(f"{side}.conv_in", f"codec.{side}.conv_in")
        for i in range(last + 1):
            target = f"{side}.levels.{i}"
            if side == "encoder":
                level(layout.down.format(i=i), target, i, codec.blocks, layout.downsample if i < last else "")
            else:
                source = layout.up.format(i=last - i if layout.finest_first_up else i)
                level(source, target, last - i, codec.blocks + 1, layout.upsample if i < last else "")
        block(f"{side}.{layout.middle[0]}", f"{side}.middle.block_1")
        if codec.middle_attention:
            attention(f"{side}.{layout.middle[1]}", f"{side}.middle.attention")
        block(f"{side}.{layout.middle[2]}", f"{side}.middle.block_2")
        keys.move(f"{side}.{layout.norm_out}", f"codec.{side}.norm_out")
        keys.move(f"{side}.conv_out", f"codec.{side}.conv_out")
    if isinstance(codec, CodecConfig) or codec.latent_convolutions:
        keys.move("quant_conv", "codec.encoder.to_code")
        keys.move("post_quant_conv", "codec.decoder.from_code")
