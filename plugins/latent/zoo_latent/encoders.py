"""Reads the text encoders of diffusers' pipelines, and their vocabulary."""

from collections.abc import Mapping

from torch import Tensor, nn
from zoo_diffusion.layouts.common import read_json
from zoo_diffusion.layouts.scheduler import require

from zoo.build.keys import Keys
from zoo.errors import InvalidFileError

from .clip import Clip
from .config import ClipConfig
from .layouts import text_weights
from .source import Source, converted
from .text import MERGES, VOCABULARY

CLIP = ("CLIPTextModel",)
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
MAX_VOCABULARY_BYTES = 64 << 20


def text_config(source: Source) -> ClipConfig:
    """The text encoder's config.

    Raises:
        InvalidFileError: a field has a value that is not supported.
    """
    config, where = source.config("text_encoder"), "text_encoder/config.json"
    require(config, where, hidden_act=("quick_gelu", "gelu"))
    said = read_json(source.folder / "tokenizer" / "tokenizer_config.json") or {}
    padding = said.get("pad_token") or ""
    if isinstance(padding, Mapping):  # a token with its properties
        padding = padding.get("content", "")
    return converted(
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
        where,
    )


def vocabulary(source: Source) -> dict[str, bytes]:
    """The tokenizer's files."""
    files = {name: source.folder / "tokenizer" / name for name in (VOCABULARY, MERGES)}
    for name, file in files.items():
        if not file.is_file():
            raise InvalidFileError(f"{source.layout}: tokenizer/{name} is missing")
        if file.stat().st_size > MAX_VOCABULARY_BYTES:
            raise InvalidFileError(f"{source.layout}: tokenizer/{name} has more than {MAX_VOCABULARY_BYTES:,} bytes")
    return {name: file.read_bytes() for name, file in files.items()}


def text_state(source: Source, c: ClipConfig, assets: Mapping[str, bytes]) -> dict[str, Tensor]:
    """The text encoder's weights, and the tables of its tokenizer."""
    tensors = source.tensors("text_encoder")
    keys = Keys({f"text_encoder.{name}": tensor.float() for name, tensor in tensors.items()})
    module = nn.ModuleDict({"text": Clip(c, assets)})
    text_weights(keys, c.depth)
    for name, tensor in module.state_dict().items():
        if name.startswith("text.tokenize."):
            keys.put(name, tensor)
    unused = ("*position_ids", "text_encoder.text_projection.weight")
    return keys.finish(module, unused=unused)[0]
