"""The tensors of diffusers' and transformers' parts of a pipeline, in our names."""

from zoo_diffusion.layouts.common import residual
from zoo_diffusion.layouts.unet2d import RESIDUAL

from zoo.build.keys import Keys

from .config import DenoiserConfig


def text_weights(
    keys: Keys,
    depth: int,
    part: str = "text_encoder",
    target: str = "text",
    *,
    norm: bool = True,
    project: bool = False,
) -> None:
    """transformers' CLIPTextModel, under `text_encoder.`: the first `depth` blocks, final norm and projection."""
    # Since version 5 of transformers, the model has no `text_model.` around its parts.
    old = keys.has(f"{part}.text_model.final_layer_norm")
    source = f"{part}.text_model" if old else part
    keys.move_tensor(f"{source}.embeddings.token_embedding.weight", f"{target}.token.weight")
    keys.move_tensor(f"{source}.embeddings.position_embedding.weight", f"{target}.place.weight")
    for i in range(depth):
        theirs, ours = f"{source}.encoder.layers.{i}", f"{target}.blocks.{i}"
        keys.move(f"{theirs}.layer_norm1", f"{ours}.norm_attention")
        keys.join([f"{theirs}.self_attn.{name}_proj" for name in "qkv"], f"{ours}.qkv")
        keys.move(f"{theirs}.self_attn.out_proj", f"{ours}.proj")
        keys.move(f"{theirs}.layer_norm2", f"{ours}.norm_mlp")
        keys.move(f"{theirs}.mlp.fc1", f"{ours}.mlp_in")
        keys.move(f"{theirs}.mlp.fc2", f"{ours}.mlp_out")
    if norm:
        keys.move(f"{source}.final_layer_norm", f"{target}.norm")
    if project:
        keys.move(f"{part}.text_projection", f"{target}.project", bias=False)


def denoiser_weights(keys: Keys, c: DenoiserConfig) -> None:
    """diffusers' UNet2DConditionModel, from input to output."""

    def attention(source: str, target: str, at: int) -> None:
        for name in ("norm", "proj_in", "proj_out"):
            keys.move(f"{source}.{name}", f"{target}.{name}")
        for i in range(c.depth_at(at)):
            theirs, ours = f"{source}.transformer_blocks.{i}", f"{target}.blocks.{i}"
            for number, what in (("1", "self"), ("2", "text")):
                keys.move(f"{theirs}.norm{number}", f"{ours}.norm_{what}")
                for part in "qkv":
                    keys.move(f"{theirs}.attn{number}.to_{part}", f"{ours}.attend_{what}.{part}", bias=False)
                keys.move(f"{theirs}.attn{number}.to_out.0", f"{ours}.attend_{what}.proj")
            keys.move(f"{theirs}.norm3", f"{ours}.norm_feed")
            for part in ("weight", "bias"):  # value and gate are one layer there
                both = keys.take(f"{theirs}.ff.net.0.proj.{part}", f"{ours}.feed.value.{part}", 1)
                keys.asked.pop(f"{theirs}.ff.net.0.proj.{part}")
                if both is not None:
                    value, gate = both.chunk(2)
                    keys.put(f"{ours}.feed.value.{part}", value)
                    keys.put(f"{ours}.feed.gate.{part}", gate)
            keys.move(f"{theirs}.ff.net.2", f"{ours}.feed.proj")

    def level(source: str, target: str, number: int, blocks: int, resample: str) -> None:
        for j in range(blocks):
            residual(keys, f"{source}.resnets.{j}", f"{target}.blocks.{j}", RESIDUAL)
            if number in c.attention_levels:
                attention(f"{source}.attentions.{j}", f"{target}.attentions.{j}", number)
        if resample:
            keys.move(f"{source}.{resample}.0.conv", f"{target}.resample.conv")

    keys.move("time_embedding.linear_1", "denoiser.time_in")
    keys.move("time_embedding.linear_2", "denoiser.time_out")
    keys.move("conv_in", "denoiser.conv_in")
    last = len(c.widths) - 1
    for i in range(last + 1):
        level(f"down_blocks.{i}", f"denoiser.down.{i}", i, c.blocks, "downsamplers" if i < last else "")
        upsample = "upsamplers" if i < last else ""
        level(f"up_blocks.{i}", f"denoiser.up.{i}", last - i, c.blocks + 1, upsample)
    for j in range(2):
        residual(keys, f"mid_block.resnets.{j}", f"denoiser.middle.blocks.{j}", RESIDUAL)
    attention("mid_block.attentions.0", "denoiser.middle.attentions.0", last)
    if c.sizes:
        keys.move("add_embedding.linear_1", "denoiser.pooled")
        keys.move("add_embedding.linear_2", "denoiser.pooled_out")
    keys.move("conv_norm_out", "denoiser.norm_out")
    keys.move("conv_out", "denoiser.conv_out")
