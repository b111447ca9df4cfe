"""diffusers' DiTTransformer2DModel, and its older Transformer2DModel with ada_norm_zero.

It differs from Meta's DiT: its timestep frequencies are shifted by one and its second norm has another epsilon. Every
block stores the embedding of timestep and label, which may be a copy of the first block's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from zoo.build.classes import require_class
from zoo.build.keys import Keys
from zoo.errors import InvalidFileError
from zoo.hookspecs import Imported

from ..config import DiTConfig, TransformerConfig
from ..dit import DiT
from .common import depth, imported, is_latent, need, sides
from .scheduler import about_scheduler, clips_noise, diffusers_schedule, read_scheduler, require

LAYOUT = "diffusers DiTTransformer2DModel"

LABELS = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"

EMBEDDING = {
    "timestep_embedder.linear_1": "time_in",
    "timestep_embedder.linear_2": "time_out",
    "class_embedder.embedding_table": "label",
}


def is_diffusers_dit(tensors: Mapping[str, Tensor]) -> bool:
    return "proj_out_2.weight" in tensors and "transformer_blocks.0.norm1.linear.weight" in tensors


def diffusers_dit(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, path: Path) -> Imported:
    """
    Args:
        config: its config.json; the class's own defaults apply to missing fields.
        path: of the weights, for the configs of the pipeline.
    """
    if config is None:
        raise InvalidFileError(f"{LAYOUT}: there is no config.json with the number of heads next to the weights")
    require_class(config, ("DiTTransformer2DModel", "Transformer2DModel"), LAYOUT)
    scheduler = read_scheduler(path)
    network = network_of(tensors, config)
    network = replace(network, latents=is_latent(path, network.image_channels))
    keys = Keys(tensors)
    move(keys, network)
    outputs = tensors["proj_out_2.weight"].shape[0] // (network.patch_size**2 * network.image_channels)
    diffusion = diffusers_schedule(scheduler, learned=outputs == 2)
    # Its pipeline guides all channels of a latent, where Meta's code guides three.
    diffusion = replace(diffusion, clip=diffusion.clip if scheduler else False, clipped_noise=clips_noise(scheduler))
    return imported(LAYOUT, DiTConfig(network=network, diffusion=diffusion), keys, notes=about_scheduler(scheduler))


def network_of(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> TransformerConfig:
    """The network that the tensors and their config.json describe; InvalidFileError if it is not ours."""
    require(
        config,
        LAYOUT,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        attention_bias=True,
    )
    need(tensors, LAYOUT, "pos_embed.proj.weight", LABELS, "transformer_blocks.0.ff.net.0.proj.weight")
    width, channels, patch, _ = tensors["pos_embed.proj.weight"].shape
    blocks = depth(tensors, "transformer_blocks")
    image_height, image_width = sides(config.get("sample_size", 32))
    return TransformerConfig(
        image_size=image_height,
        image_width=0 if image_width == image_height else image_width,
        image_channels=channels,
        num_classes=config.get("num_embeds_ada_norm", tensors[LABELS].shape[0] - 1),
        null_label=True,
        patch_size=patch,
        width=width,
        depth=blocks,
        heads=config.get("num_attention_heads", 16),
        mlp_ratio=tensors["transformer_blocks.0.ff.net.0.proj.weight"].shape[0] / width,
        mlp_norm_epsilon=config.get("norm_eps", 1e-5),
        frequency_shift=1.0,
        condition_per_block=not _are_copies(tensors, blocks),
    )


def _are_copies(tensors: Mapping[str, Tensor], blocks: int) -> bool:
    """Whether all blocks embed timestep and label like the first one; missing tensors are reported elsewhere."""
    return all(
        torch.equal(tensor, tensors.get(name.replace("transformer_blocks.0.", f"transformer_blocks.{i}."), tensor))
        for name, tensor in tensors.items()
        if name.startswith("transformer_blocks.0.norm1.emb.")
        for i in range(blocks)
    )


def move(keys: Keys, network: TransformerConfig, ours: str = "") -> None:
    """Their layers, from input to output; `ours` is what our names start with."""
    keys.move("pos_embed.proj", f"{ours}patches.proj")
    if "pos_embed.pos_embed" in keys.left:
        keys.move_tensor("pos_embed.pos_embed", f"{ours}positions")
    else:
        keys.put(f"{ours}positions", DiT.positions_of(network))
    for i in range(network.depth):
        source, target = f"transformer_blocks.{i}", f"{ours}blocks.{i}"
        for theirs, layer in EMBEDDING.items():
            parts = ("weight",) if layer == "label" else ("weight", "bias")
            for part in parts:
                name = f"{source}.norm1.emb.{theirs}.{part}"
                if network.condition_per_block or i == 0:
                    keys.move_tensor(name, f"{ours}conditions.{i}.{layer}.{part}")
                else:  # a copy
                    keys.take(name, f"{ours}conditions.0.{layer}.{part}")
        keys.move(f"{source}.norm1.linear", f"{target}.modulation")
        keys.join([f"{source}.attn1.to_{name}" for name in "qkv"], f"{target}.attn.qkv")
        keys.move(f"{source}.attn1.to_out.0", f"{target}.attn.proj")
        keys.move(f"{source}.ff.net.0.proj", f"{target}.mlp.fc1")
        keys.move(f"{source}.ff.net.2", f"{target}.mlp.fc2")
    keys.move("proj_out_1", f"{ours}modulation_out")
    keys.move("proj_out_2", f"{ours}linear_out")
