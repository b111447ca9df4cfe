"""facebookresearch/DiT."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.build.keys import Keys
from zoo.errors import InvalidFileError
from zoo.hookspecs import Imported

from ..config import DiffusionConfig, DiTConfig, TransformerConfig
from .common import depth, imported, need

LAYOUT = "facebookresearch/DiT"

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Heads of the published DiT-S, B, L and XL, by width."""

GUIDED_CHANNELS = 3
"""Section 3.1 of Peebles and Xie: ADM's linear schedule and learned variance, guidance on the first three channels."""


def is_dit(tensors: Mapping[str, Tensor]) -> bool:
    return "x_embedder.proj.weight" in tensors and "final_layer.linear.weight" in tensors


def dit(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> Imported:
    """`config` (its constructor's arguments) is needed if the width is not a published one."""
    config = config or {}
    need(tensors, LAYOUT, "pos_embed", "y_embedder.embedding_table.weight", "blocks.0.mlp.fc1.weight")
    width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    heads = config.get("num_heads") or HEADS.get(width)
    if heads is None:
        raise InvalidFileError(
            f"{LAYOUT}: the number of heads is not in the weights, and no published DiT has the width {width}; "
            'write {"num_heads": …} into a config.json next to them'
        )
    patches, rows = tensors["pos_embed"].shape[1], tensors["y_embedder.embedding_table.weight"].shape[0]
    classes = config.get("num_classes") or (rows if rows % 10 == 0 else rows - 1)
    network = TransformerConfig(
        image_size=round(patches**0.5) * patch,
        image_channels=channels,
        num_classes=classes,
        null_label=rows > classes,
        patch_size=patch,
        width=width,
        depth=depth(tensors, "blocks"),
        heads=heads,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
    )
    outputs = tensors["final_layer.linear.weight"].shape[0] // (patch**2 * channels)
    diffusion = DiffusionConfig(
        variance="learned" if outputs == 2 else "large", clip=False, guided_channels=GUIDED_CHANNELS
    )
    keys = Keys(tensors)
    _move(keys, network.depth)
    return imported(LAYOUT, DiTConfig(network=network, diffusion=diffusion), keys)


def _move(keys: Keys, depth: int) -> None:
    keys.move("x_embedder.proj", "patches.proj")
    keys.move_tensor("pos_embed", "positions")
    keys.move("t_embedder.mlp.0", "conditions.0.time_in")
    keys.move("t_embedder.mlp.2", "conditions.0.time_out")
    keys.move("y_embedder.embedding_table", "conditions.0.label", bias=False)
    for i in range(depth):
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            keys.move(f"blocks.{i}.{layer}", f"blocks.{i}.{layer}")
        keys.move(f"blocks.{i}.adaLN_modulation.1", f"blocks.{i}.modulation")
    keys.move("final_layer.linear", "linear_out")
    keys.move("final_layer.adaLN_modulation.1", "modulation_out")
