"""Reads public transformers over a codec's tokens as its prior: taming-transformers' Net2Net, and LlamaGen.

Sizes are read from the tensors, and a config must agree with them. Pitfalls that this file handles:

- Net2Net reads a class as the code of the same number, so its embedding is here copied to the labels; it never learned
  pictures without a class, so there is no guidance;
- LlamaGen's embedding of "no label" is the last row, here it is the first;
- tensors do not show the number of heads, and in LlamaGen not the number of tokens either.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from zoo_vqvae.config import PriorConfig, check_prior
from zoo_vqvae.prior import Prior, rotation_2d

from zoo.build.keys import Keys
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Extra
from zoo.text import safe_text

from .config import CodecConfig

NET2NET = "transformer."
"""What the names of its transformer's tensors begin with, next to those of `first_stage_model.`"""

LLAMAGEN_HEADS = {
    (768, 12): 12,  # B
    (1024, 24): 16,  # L
    (1280, 36): 20,  # XL
    (1536, 48): 24,  # XXL
    (2560, 48): 40,  # XXXL
    (2048, 22): 32,  # 1B
    (3200, 24): 32,  # 3B
    (4096, 32): 32,  # 7B
}
"""The number of heads of the published sizes, by width and depth."""


class Part(NamedTuple):
    """A prior, or why there is none."""

    config: PriorConfig | None = None
    state: Mapping[str, Tensor] = {}
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    layout: str = ""


# --- taming-transformers' Net2Net -------------------------------------------------------------------------------------


def read_net2net(tensors: Mapping[str, Tensor], params: Mapping[str, Any], codec: CodecConfig, source: str) -> Part:
    """The transformer of a whole model; nothing but a note if it draws from something else than a class.

    Args:
        params: of the whole model, from its config.

    Raises:
        InvalidFileError: a tensor is missing, unexpected or misshapen; or the config disagrees with the tensors.
    """
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(NET2NET)}
    if f"{NET2NET}tok_emb.weight" not in own:
        return Part()
    if reason := _why_not(params):
        return Part(unused=tuple(own), notes=(f"its transformer is left out: {reason}",))
    gpt = _params(params.get("transformer_config"))
    vocabulary, width = _matrix(own, f"{NET2NET}tok_emb.weight", source)
    positions = own.get(f"{NET2NET}pos_emb")
    shape = [] if positions is None else list(positions.shape)
    if positions is None or len(shape) != 3 or shape[0] != 1:
        raise InvalidFileError(f"{source}: {NET2NET}pos_emb is {shape or 'missing'}, not [1, positions, {width}]")
    length = shape[1]
    resolution = _params(params.get("first_stage_config")).get("ddconfig", {}).get("resolution")
    side = resolution // codec.downsampling if resolution else math.isqrt(length)
    depth = 1 + max((int(m[1]) for n in own if (m := re.match(r"transformer\.blocks\.(\d{1,3})\.", n))), default=-1)
    _agree(
        {"vocab_size": vocabulary, "n_embd": width, "n_layer": depth, "block_size": length},
        {"vocab_size": None, "n_embd": 256, "n_layer": 12, "block_size": None} | dict(gpt),
        source,
    )
    if vocabulary != codec.num_codes:
        raise InvalidFileError(
            f"{source}: its transformer draws {vocabulary} codes, but its codec has {codec.num_codes}"
        )
    if side * side > length or not side:
        raise InvalidFileError(
            f"{source}: its transformer has {length} positions, but {side}x{side} tokens are a picture"
        )
    unconditional, first = _unconditional(params), int(params.get("sos_token", 0))
    num_classes = 0 if unconditional else int(_params(params.get("cond_stage_config")).get("n_classes") or vocabulary)
    if num_classes > vocabulary or not 0 <= first < vocabulary:
        raise InvalidFileError(f"{source}: it has {num_classes or first} classes, but only {vocabulary} embeddings")
    config = _config(
        {
            "kind": "autoregressive",
            "rows": side,
            "columns": side,
            "num_classes": num_classes,
            "null_label": unconditional,
            "width": width,
            "depth": depth,
            "heads": gpt.get("n_head", 8),
            "default_top_k": min(250, vocabulary),  # as in its scripts/sample_fast.py
        },
        source,
    )

    own[f"{NET2NET}pos_emb"] = positions[0, : side * side]
    for name, mask in own.items():
        if name.endswith(".attn.mask") and not torch.equal(mask.bool(), torch.ones_like(mask).tril().bool()):
            raise InvalidFileError(f"{source}: {name} is not a causal mask (n_unmasked), which is not supported")
    keys, codes, none = Keys(_floats(own)), own[f"{NET2NET}tok_emb.weight"].float(), torch.zeros(1, width)
    start = codes[first : first + 1] if unconditional else none
    keys.put("prior.labels.weight", torch.cat([start, codes[:num_classes]]))
    keys.move_tensor(f"{NET2NET}tok_emb.weight", "prior.tokens.weight", more=none)
    keys.move_tensor(f"{NET2NET}pos_emb", "prior.positions", more=none)  # of the last token, which is never read
    for i in range(depth):
        theirs, ours = f"{NET2NET}blocks.{i}", f"prior.blocks.{i}"
        keys.move(f"{theirs}.ln1", f"{ours}.norm_1")
        keys.join([f"{theirs}.attn.{name}" for name in ("query", "key", "value")], f"{ours}.qkv")
        keys.move(f"{theirs}.attn.proj", f"{ours}.proj")
        keys.move(f"{theirs}.ln2", f"{ours}.norm_2")
        keys.move(f"{theirs}.mlp.0", f"{ours}.mlp_in")
        keys.move(f"{theirs}.mlp.2", f"{ours}.mlp_out")
    keys.move(f"{NET2NET}ln_f", "prior.norm")
    keys.move(f"{NET2NET}head", "prior.head", bias=False)
    state, unused = keys.finish(_empty(config, codec), unused=("*.attn.mask",))
    return Part(config, state, unused, layout="Net2NetTransformer")


def _why_not(params: Mapping[str, Any]) -> str:
    """Why a Net2Net is not a prior of ours; empty: it is."""
    gpt = params.get("transformer_config")
    if not isinstance(gpt, Mapping):
        return "the number of its heads is only in its config; put that next to it as config.yaml"
    if not str(gpt.get("target")).endswith("mingpt.GPT"):
        return f"it is a {safe_text(gpt.get('target'))}"
    condition = params.get("cond_stage_config")
    name = str(condition.get("target")) if isinstance(condition, Mapping) else str(condition)
    if not _unconditional(params) and not name.endswith(".Labelator"):
        return f"it draws from a condition, {safe_text(name)}, not from a class"
    order = params.get("permuter_config") or {}
    if not str(order.get("target", "permuter.Identity")).endswith("permuter.Identity"):
        return f"it draws tokens in another order, {safe_text(order['target'])}"
    if params.get("pkeep", 1.0) <= 0:
        return "with pkeep 0 it draws all tokens at once"
    return ""


def _unconditional(params: Mapping[str, Any]) -> bool:
    return bool(params.get("unconditional")) or params.get("cond_stage_config") == "__is_unconditional__"


# --- LlamaGen ---------------------------------------------------------------------------------------------------------


def read_llamagen(extra: Extra, codec: CodecConfig) -> Part:
    """The class-conditional transformer that --prior names.

    Raises:
        InvalidFileError: it is something else; a tensor is missing, unexpected or misshapen; the config disagrees with
            the tensors; or nothing says how many tokens a picture has.
    """
    tensors, said, source = dict(extra.tensors), dict(extra.config or {}), f"--prior {safe_text(extra.path)}"
    if any(name.startswith(("cls_embedding.cap_proj.", "cls_embedding.uncond_embedding")) for name in tensors):
        raise InvalidFileError(f"{source}: it draws from texts (t2i), which needs T5; only labels are supported")
    if "layers.0.attention.wqkv.weight" not in tensors or "cls_embedding.embedding_table.weight" not in tensors:
        raise InvalidFileError(f"{source}: it is not a class-conditional transformer of FoundationVision/LlamaGen")
    vocabulary, width = _matrix(tensors, "tok_embeddings.weight", source)
    depth = 1 + max(int(m[1]) for name in tensors if (m := re.match(r"layers\.(\d{1,3})\.", name)))
    for field, value in {"cls_token_num": 1, "rope_base": 10000, "norm_eps": 1e-5, "model_type": "c2i"}.items():
        if said.get(field, value) != value:
            raise InvalidFileError(f"{source}: {field} is {safe_text(said[field])}; only {value} is supported")
    if vocabulary != codec.num_codes:
        raise InvalidFileError(f"{source}: it draws {vocabulary} codes, but the codec has {codec.num_codes}")
    rows, _ = _matrix(tensors, "cls_embedding.embedding_table.weight", source)
    null_label = said.get("class_dropout_prob", 0.1) > 0
    table = tensors.pop("freqs_cis", None)  # [1 + tokens, head_size / 2, 2]
    places, note = _places(table, said, codec, extra, source)
    side, heads = math.isqrt(places), _heads(table, said, width, depth, source)
    if side * side != places or not side:
        raise InvalidFileError(f"{source}: {places} tokens are not the square that its pictures are")
    shown = {"dim": width, "n_layer": depth, "vocab_size": vocabulary, "num_classes": rows - null_label}
    _agree(shown | {"n_kv_head": heads, "block_size": places}, said, source)
    config = _config(
        {
            "kind": "autoregressive",
            "block": "llama",
            "rows": side,
            "columns": side,
            "num_classes": rows - null_label,
            "null_label": null_label,
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_width": _matrix(tensors, "layers.0.feed_forward.w1.weight", source)[0],
            "default_guidance": 4.0,  # these two as in its autoregressive/sample/sample_c2i.py
            "default_top_k": min(2000, vocabulary),
        },
        source,
    )
    if table is not None:
        ours = torch.stack(rotation_2d(config, torch.arange(places + 1)), dim=2)
        if table.shape != ours.shape or not torch.allclose(table.float(), ours, atol=1e-2):  # it may be in bfloat16
            raise InvalidFileError(f"{source}: its freqs_cis are not those of {side}x{side} tokens and base 10000")

    keys, none = Keys(_floats(tensors)), torch.zeros(1, width)
    keys.move_tensor("cls_embedding.embedding_table.weight", "prior.labels.weight", more=None if null_label else none)
    keys.move_tensor("tok_embeddings.weight", "prior.tokens.weight", more=none)
    for i in range(depth):
        theirs, ours = f"layers.{i}", f"prior.blocks.{i}"
        keys.move(f"{theirs}.attention_norm", f"{ours}.norm_1", bias=False)
        keys.move(f"{theirs}.attention.wqkv", f"{ours}.qkv", bias=False)
        keys.move(f"{theirs}.attention.wo", f"{ours}.proj", bias=False)
        keys.move(f"{theirs}.ffn_norm", f"{ours}.norm_2", bias=False)
        u, v = (keys.take(f"{theirs}.feed_forward.{name}.weight", f"{ours}.mlp_in.weight", 2) for name in ("w1", "w3"))
        if u is not None and v is not None and u.shape == v.shape:
            keys.put(f"{ours}.mlp_in.weight", torch.cat([u, v]))
        keys.move(f"{theirs}.feed_forward.w2", f"{ours}.mlp_out", bias=False)
    keys.move("norm", "prior.norm", bias=False)
    keys.move("output", "prior.head", bias=False)
    try:
        state, unused = keys.finish(_empty(config, codec), unused=("*.kv_cache.*", "causal_mask"))
    except InvalidFileError as e:
        raise InvalidFileError(f"{source}: {e}") from None
    state["prior.labels.weight"] = state["prior.labels.weight"].roll(1, dims=0)  # the last row to the front
    return Part(config, state, unused, note, "GPT")


def _places(
    table: Tensor | None, said: Mapping[str, Any], codec: CodecConfig, extra: Extra, source: str
) -> tuple[int, tuple[str, ...]]:
    """The number of tokens of a picture, and a note if only the file's name says it."""
    if table is not None:
        return table.shape[0] - 1, ()
    if said.get("block_size"):
        return int(said["block_size"]), ()
    named = re.search(r"_(256|384|512)\b", extra.path.stem)
    size = said.get("image_size") or (int(named[1]) if named else 0)
    if not size:
        raise InvalidFileError(
            f'{source}: nothing says how large its pictures are; put a config.json with {{"image_size": 256}}, or what'
            " is right, next to it"
        )
    side = int(size) // codec.downsampling
    note = f"{extra.path.name}: by its name, for pictures of {size}x{size} pixels, {side}x{side} tokens"
    return side * side, () if said.get("image_size") else (note,)


def _heads(table: Tensor | None, said: Mapping[str, Any], width: int, depth: int, source: str) -> int:
    if said.get("n_head"):
        return int(said["n_head"])
    if table is not None and table.ndim == 3 and table.shape[1]:
        return width // (2 * table.shape[1])
    if (width, depth) not in LLAMAGEN_HEADS:
        raise InvalidFileError(
            f"{source}: {depth} layers of width {width} are not a published size; put a config.json with n_head next"
            " to it"
        )
    return LLAMAGEN_HEADS[width, depth]


# --- Both -------------------------------------------------------------------------------------------------------------


def _params(config: Any) -> Mapping[str, Any]:
    """The constructor's arguments in `{target: …, params: …}`."""
    params = config.get("params") if isinstance(config, Mapping) else None
    return params if isinstance(params, Mapping) else {}


def _matrix(tensors: Mapping[str, Tensor], name: str, source: str) -> tuple[int, int]:
    """The shape of a matrix that tells sizes."""
    shape = list(tensors[name].shape) if name in tensors else []
    if len(shape) != 2 or not all(shape):
        raise InvalidFileError(f"{source}: {name} {f'is {shape}, not a matrix' if shape else 'is missing'}")
    return shape[0], shape[1]


def _agree(shown: Mapping[str, int], said: Mapping[str, Any], source: str) -> None:
    for field, value in shown.items():
        if said.get(field) is not None and said[field] != value:
            raise InvalidFileError(f"{source}: its config says {field} {safe_text(said[field])}, its tensors {value}")


def _config(fields: Mapping[str, Any], source: str) -> PriorConfig:
    try:
        config = msgspec.convert(fields, PriorConfig)
        check_prior(config, "vqgan")
    except (msgspec.ValidationError, UsageError) as e:
        raise InvalidFileError(f"{source}: its transformer is not supported: {e}") from None
    return config


def _floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


def _empty(config: PriorConfig, codec: CodecConfig) -> nn.Module:
    with torch.device("meta"):
        return nn.ModuleDict({"prior": Prior(config, codec.num_codes)})
