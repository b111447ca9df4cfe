"""Single files of Stable Diffusion 1.x and 2.x in the original layout, as the folder that diffusers would make of them.

CompVis' and Stability AI's repositories save one `state_dict`: `model.diffusion_model.` is the U-Net (in the numbered
lists of openai's guided-diffusion), `first_stage_model.` the codec, `cond_stage_model.` the text encoder: transformers'
CLIP in 1.x, open_clip's in 2.x. Sizes are those of the tensors. What tensors do not show is an option: `--prediction`,
and `--tokenizer`, since the file has no vocabulary.
"""

import gzip
import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.build.tokenizers import letters_of_bytes
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import ImportRequest
from zoo.text import safe_text

from .text import END, MERGES, START, VOCABULARY

LAYOUT = "Stable Diffusion in one file"
UNET, CODEC, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
HEAD_SIZE = 64
"""Channels of a head: in CLIP's encoders, and in the U-Nets of 2.x. Those of 1.x have 8 heads."""

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_OPEN_CLIP = {
    "token_embedding": "embeddings.token_embedding",
    "ln_final": "final_layer_norm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OTHERS = {
    "conditioner.embedders.1.": "Stable Diffusion XL",
    "conditioner.embedders.0.": "Stable Diffusion XL's refiner",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "FLUX",
    "control_model.": "ControlNet",
}


def is_single_file(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith((f"{UNET}input_blocks.", *_OTHERS)) for name in tensors)


def as_pipeline(request: ImportRequest, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The file's model_index.json and tensors as of a pipeline of diffusers; the parts' configs are put into `folder`.

    Raises:
        InvalidFileError: a part is missing, or the file is of another model.
        UsageError: something is needed that only an option can say.
    """
    tensors, file = request.tensors, safe_text(request.path.name)
    for prefix, what in _OTHERS.items():
        if any(name.startswith(prefix) for name in tensors):
            raise InvalidFileError(f"{file} is {what} in one file; only Stable Diffusion 1.x and 2.x are supported")
    parts = {prefix: _inside(tensors, prefix) for prefix in (UNET, CODEC, TEXT)}
    for prefix, part in parts.items():
        if not part:
            hint = "; give --vae" if prefix == CODEC and "vae" not in request.extras else ""
            if prefix != CODEC or hint:
                raise InvalidFileError(f"{file}: {LAYOUT}, but it has no {prefix}*{hint}")
    if not any(name.startswith(("model.", "transformer.")) for name in parts[TEXT]):
        raise InvalidFileError(f"{file}: {LAYOUT}, but its {TEXT}* is not CLIP's text encoder")
    second = any(name.startswith("model.") for name in parts[TEXT])  # open_clip's
    prediction = _prediction(request, second=second, file=file)
    unet, config = _unet(parts[UNET], file, size=96 if second and prediction == "v_prediction" else 64)
    text, text_config = (_open_clip if second else _clip)(parts[TEXT], file)
    _write(folder / "unet" / "config.json", config)
    _write(folder / "text_encoder" / "config.json", text_config)
    _write(folder / "vae" / "config.json", {"_class_name": "AutoencoderKL", "scaling_factor": 0.18215})
    _write(folder / "scheduler" / "scheduler_config.json", _scheduler(tensors, prediction, file))
    _write(folder / "tokenizer" / "tokenizer_config.json", {"pad_token": "!" if second else END})
    for name, data in _vocabulary(request.options.get("tokenizer"), file).items():
        (folder / "tokenizer" / name).write_bytes(data)
    index = {
        "_class_name": "StableDiffusionInpaintPipeline" if config["in_channels"] == 9 else "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    whole = {"unet": unet, "text_encoder": text, "vae": parts[CODEC]}
    return index, {f"{part}.{name}": tensor for part, found in whole.items() for name, tensor in found.items()}


def assumed(request: ImportRequest, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the file does not say, as notes."""
    notes = ()
    if "tokenizer" not in request.options:
        notes += ("took CLIP's vocabulary from open_clip_torch",)
    notes += (f"predicts {config['diffusion']['prediction']}; --prediction changes that",)
    if any(name.startswith("model_ema.") for name in request.tensors):
        notes += ("used model.diffusion_model.*, left the averages model_ema.*",)
    return notes


def _inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _write(file: Path, config: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config))


# --- The schedule -----------------------------------------------------------------------------------------------------


def _prediction(request: ImportRequest, *, second: bool, file: str) -> str:
    """`epsilon` or `v_prediction`: as the option, the config next to the file, or a mark in the file says."""
    model = (request.config or {}).get("model")
    params = model.get("params") if isinstance(model, dict) else None
    said = params.get("parameterization", "eps") if isinstance(params, dict) else None
    marked = "v" if "v_pred" in request.tensors else None
    found = request.options.get("prediction") or marked or said
    if found is None and second:
        raise UsageError(
            f"{file} is Stable Diffusion 2, whose file does not say what it predicts: give --prediction v (768 pixels)"
            " or --prediction epsilon (512 pixels, and most inpainting)"
        )
    return "v_prediction" if found == "v" else "epsilon"


def _scheduler(tensors: Mapping[str, Tensor], prediction: str, file: str) -> dict[str, Any]:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    said = tensors.get("alphas_cumprod")
    if said is not None and not (
        said.shape == betas.shape and torch.allclose(said.double(), (1 - betas).cumprod(0), atol=1e-4)
    ):
        raise InvalidFileError(f"{file}: its alphas_cumprod is not Stable Diffusion's schedule")
    if "ztsnr" in tensors:
        raise InvalidFileError(f"{file}: ztsnr: a schedule of zero terminal SNR is not supported in one file")
    return {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction,
    }


# --- The U-Net --------------------------------------------------------------------------------------------------------


def _unet(tensors: Mapping[str, Tensor], file: str, *, size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The U-Net's tensors in diffusers' names, and its config."""

    def shape(name: str) -> list[int]:
        if name not in tensors:
            raise InvalidFileError(f"{file}: {UNET}{name} is missing")
        return list(tensors[name].shape)

    ends = [i for i in range(1, 100) if f"input_blocks.{i}.0.op.weight" in tensors]
    inputs = sum(f"input_blocks.{i}.0.in_layers.0.weight" in tensors for i in range(1, 100)) + len(ends)
    each = ends[0] if ends else inputs + 1  # numbers of a level: its blocks, and the convolution that halves
    blocks, levels = each - 1, len(ends) + 1
    if ends != [each * (i + 1) for i in range(levels - 1)] or inputs != each * levels - 1:
        raise InvalidFileError(f"{file}: {UNET}input_blocks do not have the same number of blocks in each level")
    firsts = [f"input_blocks.{1 + each * level}" for level in range(levels)]
    widths = [shape(f"{first}.0.out_layers.3.weight")[0] for first in firsts]
    attention = [f"{first}.1.proj_in.weight" in tensors for first in firsts]
    middle = "middle_block.1"
    linear = len(shape(f"{middle}.proj_in.weight")) == 2
    depth = sum(f"{middle}.transformer_blocks.{i}.norm1.weight" in tensors for i in range(64))
    if linear and any(width % HEAD_SIZE for width in widths):
        raise InvalidFileError(f"{file}: the widths {widths} are not multiples of {HEAD_SIZE}, a head's channels")
    kinds = ["CrossAttnDownBlock2D" if there else "DownBlock2D" for there in attention]
    config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": size,
        "in_channels": shape("input_blocks.0.0.weight")[1],
        "out_channels": shape("out.2.weight")[0],
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": kinds,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(kinds)],
        "cross_attention_dim": shape(f"{middle}.transformer_blocks.0.attn2.to_k.weight")[1],
        "attention_head_dim": [width // HEAD_SIZE for width in widths] if linear else 8,
        "use_linear_projection": linear,
        "transformer_layers_per_block": depth,
    }
    return {_unet_name(name, each, levels): tensor for name, tensor in tensors.items()}, config


def _unet_name(name: str, each: int, levels: int) -> str:
    """diffusers' name of a tensor; one that is unknown stays as it is, and is refused later by that name."""
    layer, _, part = name.rpartition(".")
    if layer in _ENDS:
        return f"{_ENDS[layer]}.{part}"
    found = re.fullmatch(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)|(middle_block)\.(\d)\.(.+)", layer)
    if not found:
        return name
    side, number, place, rest = (
        found[1] or found[5],
        int(found[2] or 0),
        int(found[3] or found[6]),
        found[4] or found[7],
    )
    if side == "middle_block":
        where = "mid_block.attentions.0" if place == 1 else f"mid_block.resnets.{place // 2}"
        attends = place == 1
    else:
        level, block = divmod(number - 1 if side == "input_blocks" else number, each)
        above = f"{'down' if side == 'input_blocks' else 'up'}_blocks.{level}"
        if rest == "op" and side == "input_blocks":
            return f"{above}.downsamplers.0.conv.{part}"
        if rest == "conv" and side == "output_blocks" and level < levels - 1:
            return f"{above}.upsamplers.0.conv.{part}"
        attends = place == 1
        where = f"{above}.{'attentions' if attends else 'resnets'}.{block}"
    if not attends:
        if rest not in _RESIDUAL:
            return name
        rest = _RESIDUAL[rest]
    return f"{where}.{rest}.{part}"


# --- The text encoder -------------------------------------------------------------------------------------------------


def _text_config(tensors: Mapping[str, Tensor], file: str, activation: str) -> dict[str, Any]:
    """From shapes of tensors in transformers' names."""
    table, places = "text_model.embeddings.token_embedding.weight", "text_model.embeddings.position_embedding.weight"
    hidden = "text_model.encoder.layers.0.mlp.fc1.weight"
    for name in (table, places, hidden):
        if name not in tensors or tensors[name].ndim != 2:
            raise InvalidFileError(f"{file}: {TEXT}* has no {name.removesuffix('.weight')}")
    vocabulary, width = tensors[table].shape
    if width % HEAD_SIZE:
        raise InvalidFileError(f"{file}: the text encoder's width {width} is not a multiple of {HEAD_SIZE}")
    return {
        "vocab_size": vocabulary,
        "max_position_embeddings": len(tensors[places]),
        "hidden_size": width,
        "intermediate_size": len(tensors[hidden]),
        "num_hidden_layers": sum(f"text_model.encoder.layers.{i}.mlp.fc1.weight" in tensors for i in range(64)),
        "num_attention_heads": width // HEAD_SIZE,
        "hidden_act": activation,
    }


def _clip(tensors: Mapping[str, Tensor], file: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """transformers' CLIP, of 1.x; some files leave out `text_model.`."""
    inside = {name.removeprefix("text_model."): t for name, t in _inside(tensors, "transformer.").items()}
    found = {f"text_model.{name}": t for name, t in inside.items()}
    return found, _text_config(found, file, "quick_gelu")


def _open_clip(tensors: Mapping[str, Tensor], file: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """open_clip's, of 2.x, whose last block is not used."""
    found: dict[str, Tensor] = {}
    blocks = sum(f"model.transformer.resblocks.{i}.ln_1.weight" in tensors for i in range(64))
    for full, tensor in tensors.items():
        name = full.removeprefix("model.")
        if name == "positional_embedding":
            found["text_model.embeddings.position_embedding.weight"] = tensor
            continue
        layer, _, part = name.rpartition(".")
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", layer)
        if block and int(block[1]) == blocks - 1:
            continue
        prefix = f"text_model.encoder.layers.{block[1]}." if block else "text_model."
        inner = block[2] if block else layer
        if part.startswith("in_proj_"):  # q, k and v in one
            for letter, third in zip("qkv", tensor.chunk(3), strict=False):
                found[f"{prefix}self_attn.{letter}_proj.{part.removeprefix('in_proj_')}"] = third
        elif inner in _OPEN_CLIP:
            found[f"{prefix}{_OPEN_CLIP[inner]}.{part}"] = tensor
        elif name not in ("text_projection", "logit_scale", "attn_mask"):
            raise InvalidFileError(f"{file}: {TEXT}{safe_text(full)[:200]} is not a tensor of open_clip's text encoder")
    return found, _text_config(found, file, "gelu")


# --- The vocabulary ---------------------------------------------------------------------------------------------------


def _vocabulary(folder: str | None, file: str) -> dict[str, bytes]:
    """Of the option's folder; without it, CLIP's own, if open_clip is installed, which ships it."""
    if folder is not None:
        files = {name: Path(folder) / name for name in (VOCABULARY, MERGES)}
        for name, path in files.items():
            if not path.is_file():
                raise UsageError(f"--tokenizer {safe_text(folder)[:200]}: it has no {name}")
        return {name: path.read_bytes() for name, path in files.items()}
    found = find_spec("open_clip")
    shipped = Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz" if found and found.origin else None
    if shipped is None or not shipped.is_file():
        raise UsageError(
            f"{file} contains no vocabulary: give --tokenizer FOLDER with {VOCABULARY} and {MERGES}, or install"
            " open_clip_torch, which ships CLIP's"
        )
    return clip_vocabulary(gzip.decompress(shipped.read_bytes()).decode())


def clip_vocabulary(text: str) -> dict[str, bytes]:
    """CLIP's vocabulary, from the list of merges of its repository: 49,408 tokens, as its `SimpleTokenizer` numbers."""
    merges = text.split("\n")[1 : 49_152 - 256 - 2 + 1]
    letters = sorted(letters_of_bytes())  # those that are printable as they are come first there
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m.split()) for m in merges), START, END]
    numbers = {token: number for number, token in enumerate(tokens)}
    rows = "".join(f"{merge}\n" for merge in merges)
    return {VOCABULARY: json.dumps(numbers, ensure_ascii=False).encode(), MERGES: f"#version: 0.2\n{rows}".encode()}
