"""Weights of other VQ-VAE implementations, as this family's config and `state_dict`.

Supported: the notebook of zalandoresearch/pytorch-vq-vae, in both of its variants (with and without moving averages),
on which many repositories are based. Three of its properties are not visible in the tensors' names and shapes:

- the first ReLU of a residual block works in place, so that the skip carries relu(x): `skip_after_relu`;
- the convolutions of the blocks have no bias: our biases become zeros;
- pictures are scaled to -0.5 .. 0.5, where ours are -1 .. 1: the first convolution is halved and the last one doubled,
  which is exact in floating point. (The notebook's first revisions scaled to -1 .. 1; their tensors look the same.)

Its moving counts are stored with Laplace smoothing, ours without. They only matter if training continues, and the
difference vanishes within a few hundred steps.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from torch import Tensor

from zoo.build.classes import require_class
from zoo.errors import InvalidFileError
from zoo.hookspecs import Imported, ImportRequest

from .config import CodecConfig, VQVAEConfig

ZALANDO = "zalandoresearch/pytorch-vq-vae"
PIXEL_SCALE = 2.0  # our scale divided by theirs

Shapes = dict[str, tuple[int, ...]]


def import_checkpoint(request: ImportRequest) -> Imported | None:
    """The hook of the contract.

    Raises:
        InvalidFileError: a known layout with tensors that are missing, unexpected or of the wrong shape (all are
        named),
            or one that this family does not support.
    """
    names = request.tensors.keys()
    if any(name.startswith(("quantize_t.", "quantize_b.")) for name in names):
        raise InvalidFileError(
            f"{request.path.name} is a VQ-VAE-2 (rosinality/vq-vae-2-pytorch): its pictures have two grids of tokens, "
            "but those of the family vqvae have one; no family supports it"
        )
    if any(name.startswith("_encoder._conv_") for name in names) and any(
        name.startswith(("_vq_vae.", "_pre_vq_conv.")) for name in names
    ):
        require_class(request.config, ("Model", "VQVAE", "VQ-VAE"), request.path.name)
        return _zalando(request.tensors, request.config or {}, request.path.name)
    return None


def _zalando(tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> Imported:
    codec = _codec(tensors, config, source)
    _check_shapes(tensors, _shapes(codec), source)

    weights: dict[str, Tensor] = {}
    for theirs, ours in _names(codec).items():
        weights[f"codec.{ours}"] = tensors[theirs].float()
    for part in ("encoder", "decoder"):
        for i in range(codec.residual_layers):
            for name in ("conv_in", "conv_out"):
                block = f"codec.{part}.blocks.{i}.{name}"
                weights[f"{block}.bias"] = weights[f"{block}.weight"].new_zeros(len(weights[f"{block}.weight"]))
    weights["codec.encoder.down.0.weight"] = weights["codec.encoder.down.0.weight"] / PIXEL_SCALE
    for name in ("weight", "bias"):
        weights[f"codec.decoder.up.1.{name}"] = weights[f"codec.decoder.up.1.{name}"] * PIXEL_SCALE
    return Imported(layout=ZALANDO, config=msgspec.to_builtins(VQVAEConfig(codec=codec)), state_dict=weights)


def _codec(tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> CodecConfig:
    """The architecture, read from shapes. If the tensor that shows a number is missing, the number comes from the
    notebook's own config or default, so that the message about missing tensors can name their shapes."""

    def axis(name: str, axis: int, said: str, default: int) -> int:
        shape = tensors[name].shape if name in tensors else ()
        shown = shape[axis] if len(shape) > axis else None
        if shown is not None and config.get(said, shown) != shown:
            raise InvalidFileError(f"{source}: its config says {said} {config[said]}, but its tensors {shown}")
        return config.get(said, default) if shown is None else shown

    layers = [
        int(found[1])
        for name in tensors
        if (found := re.match(r"_encoder\._residual_stack\._layers\.(\d{1,3})\.", name))
    ]
    try:
        return msgspec.convert(
            {
                "image_channels": axis("_encoder._conv_1.weight", 1, "in_channels", 3),
                "hidden_channels": axis("_encoder._conv_3.weight", 0, "num_hiddens", 128),
                "residual_channels": axis(
                    "_encoder._residual_stack._layers.0._block.1.weight", 0, "num_residual_hiddens", 32
                ),
                "residual_layers": max(layers, default=-1) + 1,
                "num_codes": axis("_vq_vae._embedding.weight", 0, "num_embeddings", 512),
                "code_size": axis("_vq_vae._embedding.weight", 1, "embedding_dim", 64),
                "commitment_weight": config.get("commitment_cost", 0.25),
                "learn_codebook": "ema" if "_vq_vae._ema_w" in tensors else "loss",
                "ema_decay": config.get("decay") or 0.99,  # in the notebook, 0 means no averages
                "skip_after_relu": True,
            },
            CodecConfig,
        )
    except msgspec.ValidationError as e:
        raise InvalidFileError(f"{source} is a VQ-VAE of {ZALANDO} that this family does not support: {e}") from None


def _names(codec: CodecConfig) -> dict[str, str]:
    """Their names of the codec's tensors, mapped to ours."""
    convolutions = {
        "_encoder._conv_1": "encoder.down.0",
        "_encoder._conv_2": "encoder.down.1",
        "_encoder._conv_3": "encoder.conv",
        "_pre_vq_conv": "encoder.to_code",
        "_decoder._conv_1": "decoder.from_code",
        "_decoder._conv_trans_1": "decoder.up.0",
        "_decoder._conv_trans_2": "decoder.up.1",
    }
    names = {f"{a}.{part}": f"{b}.{part}" for a, b in convolutions.items() for part in ("weight", "bias")}
    for part in ("encoder", "decoder"):
        for i in range(codec.residual_layers):
            block = f"_{part}._residual_stack._layers.{i}._block"
            names[f"{block}.1.weight"] = f"{part}.blocks.{i}.conv_in.weight"
            names[f"{block}.3.weight"] = f"{part}.blocks.{i}.conv_out.weight"
    names["_vq_vae._embedding.weight"] = "quantizer.codebook"
    if codec.learn_codebook == "ema":
        names["_vq_vae._ema_w"] = "quantizer.cluster_sum"
        names["_vq_vae._ema_cluster_size"] = "quantizer.cluster_size"
    return names


def _shapes(codec: CodecConfig) -> Shapes:
    """Their names, mapped to the shapes of our tensors."""
    import torch

    from .model import VQVAE

    with torch.device("meta"):
        ours = VQVAE(codec).state_dict()
    return {a: tuple(ours[b].shape) for a, b in _names(codec).items()}


def _check_shapes(tensors: Mapping[str, Tensor], expected: Shapes, source: str) -> None:
    wrong = [f"{name} {shape} is missing" for name, shape in expected.items() if name not in tensors]
    wrong += [f"{name} {tuple(tensor.shape)} is unexpected" for name, tensor in tensors.items() if name not in expected]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if wrong:
        raise InvalidFileError(f"{source} is incomplete as a checkpoint of {ZALANDO}: {'; '.join(wrong)}")
