"""facebookresearch/DiT."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.build.classes import NEEDS, class_of, require_class
from zoo.build.keys import Keys
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Imported
from zoo.text import safe_text

from ..config import DiffusionConfig, DiTConfig, TransformerConfig
from .common import depth, imported, need

LAYOUT = "facebookresearch/DiT"

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Heads of the published DiT-S, B, L and XL, by width."""

LABELS = "y_embedder.embedding_table.weight"
PUBLISHED_CLASSES = 1000  # ImageNet's

FLOW_FIELDS = ("path_type", "sample_eps", "train_eps", "loss_weight")
"""Arguments of SiT's training script."""

GUIDED_CHANNELS = 3
"""Section 3.1 of Peebles and Xie: ADM's linear schedule and learned variance, guidance on the first three channels."""


def is_dit(tensors: Mapping[str, Tensor]) -> bool:
    return "x_embedder.proj.weight" in tensors and "final_layer.linear.weight" in tensors


def dit(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, layout: str = "") -> Imported:
    """
    Args:
        config: its constructor's arguments, with the `model`: needed if the width is not a published one, or if the
            label table does not have the 1,001 rows of the published ones.
        layout: `dit`, for a file whose config names no model.
    """
    config = config or {}
    _refuse_flows(config, layout)
    need(tensors, LAYOUT, "pos_embed", LABELS, "blocks.0.mlp.fc1.weight")
    width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    heads = config.get("num_heads") or HEADS.get(width)
    patches, rows = tensors["pos_embed"].shape[1], tensors[LABELS].shape[0]
    classes = _classes(config, rows)
    unknown = []
    if not layout and not class_of(config)[1]:
        unknown.append("its tensors are those of DiT and of SiT, which draw differently: give --layout dit or sit")
    if heads is None:
        unknown.append(f'no published DiT has the width {width}: write {{"num_heads": …}} into its config.json')
    if classes is None:
        unknown.append(
            f'{rows} label rows are {rows} classes or, if trained for guidance, {rows - 1} and "no label": write '
            '{"num_classes": …} into its config.json'
        )
    if heads is None or classes is None or unknown:
        raise InvalidFileError(f"{LAYOUT}: the weights do not say everything: {'; '.join(unknown)}")
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


def _refuse_flows(config: Mapping[str, Any], layout: str) -> None:
    """SiT and other flows have the same tensors, and another equation."""
    require_class(config, ("DiT",), LAYOUT)
    if layout.lower() == "sit" or any(field in config for field in FLOW_FIELDS):
        raise InvalidFileError(f"a SiT cannot be imported: it is {NEEDS['SiT']}")
    if layout and layout.lower() != "dit":
        raise UsageError(f"--layout is '{safe_text(layout)}'; with these tensors it must be dit or sit")


def _classes(config: Mapping[str, Any], rows: int) -> int | None:
    """The number of classes; None if neither the config nor the rows of the label table say it.

    Raises:
        InvalidFileError: the config says what the rows cannot be.
    """
    classes, dropout = config.get("num_classes"), config.get("class_dropout_prob")
    if classes is None and dropout is not None:
        classes = rows - 1 if dropout else rows
    if classes is None:
        return PUBLISHED_CLASSES if rows == PUBLISHED_CLASSES + 1 else None
    if classes not in (rows, rows - 1) or (dropout and classes == rows):
        raise InvalidFileError(f"{LAYOUT}: num_classes is {safe_text(classes)}, but its label table has {rows} rows")
    return classes


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
