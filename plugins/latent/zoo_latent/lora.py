"""Merges LoRA files into a pipeline's weights: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".

https://arxiv.org/abs/2106.09685, section 4.1: W + weight * alpha / rank * up @ down. For convolutions `down` has the
kernel and `up` is 1x1, as in kohya's sd-scripts. Both kohya's names and diffusers', of all its versions, are read.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.errors import InvalidFileError
from zoo.hookspecs import Extra
from zoo.text import safe_text

PARTS = ("unet", "transformer", "text_encoder_2", "text_encoder")
KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}

# The end of a tensor's name, and which of the three it is.
_ENDS = (
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora_down.weight", "down"),
    (".lora_up.weight", "up"),
    (".lora_linear_layer.down.weight", "down"),
    (".lora_linear_layer.up.weight", "up"),
    (".lora.down.weight", "down"),
    (".lora.up.weight", "up"),
    ("_lora.down.weight", "down"),
    ("_lora.up.weight", "up"),
    (".alpha", "alpha"),
)
_METADATA = "lora_adapter_metadata"
"""The key under which diffusers keeps the configs of PEFT, whose `lora_alpha` is not a tensor."""


@dataclass
class _Layer:
    """The tensors of a LoRA for one layer, each with its name in the file."""

    down: tuple[str, Tensor] | None = None
    up: tuple[str, Tensor] | None = None
    alpha: tuple[str, Tensor] | None = None


def merged(tensors: Mapping[str, Tensor], lora: Extra) -> dict[str, Tensor]:
    """A pipeline's tensors, `part.name`, with those of a LoRA added; the tensors given stay as they are.

    Raises:
        InvalidFileError: a tensor of the LoRA has an unknown name, no counterpart, or another shape.
    """
    where = safe_text(lora.path.name)
    found = _Names(tensors)
    layers: dict[str, _Layer] = {}
    for name, tensor in lora.tensors.items():
        end, kind = next(((end, kind) for end, kind in _ENDS if name.endswith(end)), ("", ""))
        target = found.target(name.removesuffix(end)) if end else None
        if target is None:
            what = "it is not a layer of this pipeline" if end else "this kind of adapter is not supported"
            raise InvalidFileError(f"{where}: {safe_text(name)[:200]}: {what}")
        layer = layers.setdefault(target, _Layer())
        if getattr(layer, kind) is not None:
            raise InvalidFileError(f"{where}: {safe_text(name)[:200]}: the layer has such a tensor under two names")
        setattr(layer, kind, (name, tensor))
    if not layers:
        raise InvalidFileError(f"{where} is not a LoRA: it contains no tensors")
    alphas = _Alphas(lora, where)
    result = dict(tensors)
    for target, layer in layers.items():
        result[target] = tensors[target].float() + lora.weight * _change(where, layer, target, tensors[target], alphas)
    return result


def _change(where: str, layer: _Layer, target: str, weight: Tensor, alphas: "_Alphas") -> Tensor:
    """alpha / rank * up @ down, with the shape of the layer's weight."""
    if layer.down is None or layer.up is None:
        name = next(pair[0] for pair in (layer.down, layer.up, layer.alpha) if pair)
        raise InvalidFileError(f"{where}: {safe_text(name)[:200]}: the layer's other half is missing")
    (down_name, down), (up_name, up) = layer.down, layer.up
    rank = down.shape[0] if down.ndim else 0
    if not rank or up.ndim < 2 or up.shape[1] != rank or up[0, 0].numel() != 1:
        raise InvalidFileError(
            f"{where}: {safe_text(up_name)[:200]} is {list(up.shape)}; it must be [outputs, {rank}], to fit"
            f" {list(down.shape)}"
        )
    if up.shape[0] != weight.shape[0] or not _same_kernel(down.shape[1:], weight.shape[1:]):
        raise InvalidFileError(
            f"{where}: {safe_text(down_name)[:200]} is {list(down.shape)}, with {up.shape[0]} outputs; the layer"
            f" {safe_text(target)} is {list(weight.shape)}"
        )
    alpha = alphas.of(target, rank)
    if layer.alpha is not None:
        if layer.alpha[1].numel() != 1:
            raise InvalidFileError(f"{where}: {safe_text(layer.alpha[0])[:200]} must be one number")
        alpha = float(layer.alpha[1])
    product = up.float().flatten(1) @ down.float().flatten(1)
    return (alpha / rank) * product.reshape(weight.shape)


def _same_kernel(down: torch.Size, weight: torch.Size) -> bool:
    """Whether shapes without the first dimension are the same; a matrix is also a 1x1 convolution."""

    def kernel(shape: torch.Size) -> list[int]:
        sides = list(shape[1:])
        return [*shape[:1], *(() if all(side == 1 for side in sides) else sides)]

    return kernel(down) == kernel(weight)


# --- Names ------------------------------------------------------------------------------------------------------------


class _Names:
    """From a layer's name in a LoRA to the name of the weight in the pipeline."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.dotted: dict[str, str] = {}
        for name in tensors:
            part, _, rest = name.partition(".")
            if part in PARTS and rest.endswith(".weight"):
                self.dotted[_plain(f"{part}.{rest.removesuffix('.weight')}")] = name
        self.underlined = {name.replace(".", "_"): full for name, full in self.dotted.items()}

    def target(self, layer: str) -> str | None:
        for prefix, part in KOHYA.items():
            if layer.startswith(prefix):
                rest = layer.removeprefix(prefix).removeprefix("text_model_" if part != "unet" else "")
                return self.underlined.get(f"{part}_{rest.replace('.', '_')}")
        if not layer.startswith(tuple(f"{part}." for part in PARTS)):
            layer = f"unet.{layer}"  # diffusers' first files have only the U-Net's attention
        layer = re.sub(r"\.processor\.(to_[qkv]|to_out)", r".\1", layer)
        layer = re.sub(r"\.to_out\Z", ".to_out.0", layer)
        return self.dotted.get(_plain(layer))


def _plain(name: str) -> str:
    """The name without `text_model.`, which transformers left out since version 5."""
    return re.sub(r"\A(text_encoder(?:_2)?)\.text_model\.", r"\1.", name)


class _Alphas:
    """PEFT's alphas, from a file's metadata; without them alpha is the rank, so that the factor is 1."""

    def __init__(self, lora: Extra, where: str):
        self.parts: dict[str, Mapping[str, Any]] = {}
        try:
            with safe_open(lora.path, "pt") as f:
                said = (f.metadata() or {}).get(_METADATA)
        except SafetensorError:  # torch's own format, which has none
            return
        if said is None:
            return
        try:
            fields = json.loads(said)
            for name, value in fields.items():
                part, _, field = name.partition(".")
                if field in ("use_dora", "use_rslora") and value:
                    raise InvalidFileError(f"{where}: {safe_text(name)} is {safe_text(value)}; that is not supported")
                self.parts.setdefault(part, {})
                self.parts[part] = {**self.parts[part], field: value}
                if field == "alpha_pattern":
                    {re.compile(pattern): float(alpha) for pattern, alpha in value.items()}
                if field == "lora_alpha":
                    float(value)
        except (ValueError, TypeError, AttributeError, RecursionError, re.error):
            raise InvalidFileError(f"{where}: its metadata {_METADATA} cannot be read") from None

    def of(self, target: str, rank: int) -> float:
        part, _, layer = target.removesuffix(".weight").partition(".")
        fields = self.parts.get(part, {})
        for pattern, alpha in (fields.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", layer):  # as PEFT looks it up
                return float(alpha)
        return float(fields.get("lora_alpha") or rank)
