"""The tensors of diffusers' and transformers' parts of a pipeline, in our names."""

from zoo.build.keys import Keys


def text_weights(keys: Keys, depth: int) -> None:
    """transformers' CLIPTextModel, under `text_encoder.`: the first `depth` blocks and the final norm."""
    # Since version 5 of transformers, the model has no `text_model.` around its parts.
    old = keys.has("text_encoder.text_model.final_layer_norm")
    source, target = "text_encoder.text_model" if old else "text_encoder", "text"
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
    keys.move(f"{source}.final_layer_norm", f"{target}.norm")
