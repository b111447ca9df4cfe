"""Reads the text encoders of diffusers' pipelines, and their vocabulary."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from zoo_diffusion.layouts.common import read_json
from zoo_diffusion.layouts.scheduler import require

from zoo.build.keys import Keys
from zoo.errors import InvalidFileError
from zoo.text import one_line, safe_text

from .clip import Clip, Clips
from .config import ClipConfig, ClipsConfig
from .layouts import text_weights
from .source import Source, converted
from .text import MERGES, VOCABULARY

PLAIN, PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
WHOLE = "tokenizer.json"
MAX_VOCABULARY_BYTES = 64 << 20
OLD_END = 2
"""The `eos_token_id` of configs from before transformers 4.31, whatever the vocabulary says."""


def text_config(source: Source, number: int = 1, *, penultimate: bool = False) -> ClipConfig:
    """The config of the pipeline's first or second text encoder.

    Args:
        penultimate: the network looks at what the last block but one gives.

    Raises:
        InvalidFileError: a field has a value that is not supported.
    """
    part = numbered("text_encoder", number)
    config, where = source.config(part), f"{part}/config.json"
    require(config, where, hidden_act=("quick_gelu", "gelu"))
    said = read_json(source.folder / numbered("tokenizer", number) / "tokenizer_config.json") or {}
    padding = said.get("pad_token") or ""
    if isinstance(padding, Mapping):  # a token with its properties
        padding = padding.get("content", "")
    length, longest = config.get("max_position_embeddings", 77), said.get("model_max_length")
    if longest not in (None, length):
        raise InvalidFileError(
            f"{numbered('tokenizer', number)}/tokenizer_config.json: model_max_length is {safe_text(longest)}; the text"
            f" encoder's max_position_embeddings is {length}, which it must be too"
        )
    projects = penultimate and source.index[part][1] == PROJECTED
    return converted(
        {
            "kind": "clip",
            "vocabulary": config.get("vocab_size", 49_408),
            "length": length,
            "width": config.get("hidden_size", 512),
            "hidden": config.get("intermediate_size", 2048),
            "depth": config.get("num_hidden_layers", 12),
            "heads": config.get("num_attention_heads", 8),
            "activation": config.get("hidden_act", "quick_gelu"),
            "norm_epsilon": config.get("layer_norm_eps", 1e-5),
            "padding": padding,
            "penultimate": penultimate,
            "projection": config.get("projection_dim", 512) if projects else 0,
        },
        ClipConfig,
        where,
    )


def text_configs(source: Source, **fields: Any) -> ClipsConfig:
    """The config of both text encoders of a pipeline, and how the network looks at them.

    Raises:
        InvalidFileError: they cannot be computed together.
    """
    encoders = tuple(text_config(source, number, penultimate=True) for number in (1, 2))
    first, second = vocabulary(source), vocabulary(source, 2)
    for name, data in first.items():
        if second[name] != data:
            raise InvalidFileError(
                f"{source.layout}: tokenizer_2/{name} is not tokenizer/{name}; both encoders must have one vocabulary"
            )
    return converted({"kind": "clips", "encoders": encoders, **fields}, ClipsConfig, "text_encoder/config.json")


def numbered(part: str, number: int) -> str:
    """The name of a pipeline's first or second part of a kind."""
    return part if number == 1 else f"{part}_{number}"


def vocabulary(source: Source, number: int = 1) -> dict[str, bytes]:
    """The vocabulary and merges of a tokenizer: its two files, or the one that transformers writes since version 5.

    Raises:
        InvalidFileError: there are neither, or they are too large.
    """
    part = numbered("tokenizer", number)
    found = {name: source.folder / part / name for name in (VOCABULARY, MERGES, WHOLE)}
    for name, file in found.items():
        if file.is_file() and file.stat().st_size > MAX_VOCABULARY_BYTES:
            raise InvalidFileError(f"{source.layout}: {part}/{name} has more than {MAX_VOCABULARY_BYTES:,} bytes")
    whole = found.pop(WHOLE)
    missing = [name for name, file in found.items() if not file.is_file()]
    if not missing:
        return {name: file.read_bytes() for name, file in found.items()}
    if not whole.is_file():
        raise InvalidFileError(f"{source.layout}: {part}/{missing[0]} is missing, and so is {part}/{WHOLE}")
    try:
        model = json.loads(whole.read_bytes())["model"]
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        numbers = json.dumps(model["vocab"], ensure_ascii=False).encode()
    except (ValueError, LookupError, TypeError, RecursionError) as e:
        raise InvalidFileError(f"{source.layout}: {part}/{WHOLE} has no vocab with merges: {one_line(e)}") from None
    return {VOCABULARY: numbers, MERGES: "".join(f"{pair}\n" for pair in pairs).encode()}


def text_state(
    source: Source, c: ClipConfig | ClipsConfig, assets: Mapping[str, bytes]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of the text encoders with the tables of their tokenizer, and the tensors that nothing looks at."""
    encoders = c.encoders if isinstance(c, ClipsConfig) else (c,)
    parts = {numbered("text_encoder", number): encoder for number, encoder in enumerate(encoders, start=1)}
    keys = Keys({f"{part}.{name}": t.float() for part in parts for name, t in source.tensors(part).items()})
    text = Clips(c, assets) if isinstance(c, ClipsConfig) else Clip(c, assets)
    module = nn.ModuleDict({"text": text})
    unused = ["*position_ids"]
    for number, (part, encoder) in enumerate(parts.items()):
        target = f"text.encoders.{number}" if isinstance(c, ClipsConfig) else "text"
        whole = encoder.computed == encoder.depth
        text_weights(keys, encoder.computed, part, target, norm=whole, project=bool(encoder.projection))
        unused += [] if whole else [f"{part}.*layers.{encoder.computed}.*", f"{part}.*final_layer_norm.*"]
        if encoder.projection:
            _check_end(source, part, json.loads(assets[VOCABULARY]), text.tokenize.end)
        unused += [] if encoder.projection else [f"{part}.text_projection.weight"]
    for name, tensor in module.state_dict().items():
        if name.startswith("text.tokenize."):
            keys.put(name, tensor)
    state, left = keys.finish(module, unused=tuple(unused))
    # Of old files a table of places, 0, 1, …, and of CLIPTextModel a projection: both mean nothing to the pipeline.
    return state, tuple(name for name in left if not name.endswith(("position_ids", "text_projection.weight")))


def _check_end(source: Source, part: str, vocabulary: Mapping[str, int], end: int) -> None:
    """The whole text's vector is that of the end token: refuses a config that takes another one for it."""
    said = source.config(part).get("eos_token_id", end)
    oldest = said == OLD_END and end == max(vocabulary.values())  # then transformers takes the highest number
    if said != end and not oldest:
        raise InvalidFileError(
            f"{part}/config.json: eos_token_id is {safe_text(said)}; the tokenizer's end token is {end}"
        )
