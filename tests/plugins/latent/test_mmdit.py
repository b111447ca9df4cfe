"""MM-DiT against diffusers' SD3Transformer2DModel, with random weights."""

import pytest
import torch
from zoo_latent.denoiser import build_denoiser
from zoo_latent.networks import JOINT
from zoo_latent.source import Source

from zoo.errors import InvalidFileError

from .pipelines import shaken

SCALE = {"mean": torch.zeros(4), "deviation": torch.ones(4), "measured": torch.ones((), dtype=torch.int64)}


def _network(folder, **changes):
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 10,
        "pos_embed_max_size": 9,
    }
    network = shaken(SD3Transformer2DModel(**(sizes | changes)), 0.2)
    network.save_pretrained(folder / "transformer")
    return network


def _read(folder, network, **changes):
    source = Source(folder, {"_class_name": "StableDiffusion3Pipeline"}, {})
    c = JOINT.config(source, "transformer")
    ours = build_denoiser(c)
    state = JOINT.state(network.state_dict(), c, 1, SCALE)
    ours.load_state_dict({name.removeprefix("denoiser."): tensor for name, tensor in state.items()})
    return ours.eval()


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (8, 8)),
        ({"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}, (8, 8)),
        ({"sample_size": [6, 12]}, (6, 12)),
    ],
)
@torch.no_grad()
def test_it_computes_what_diffusers_does(tmp_path, changes, size):
    """Also in an odd size, whose positions are the middle of the largest grid's."""
    network = _network(tmp_path, **{k: v for k, v in changes.items() if k != "sample_size"})
    if "sample_size" in changes:
        network.register_to_config(sample_size=changes["sample_size"])
        network.save_config(tmp_path / "transformer")
    ours = _read(tmp_path, network)
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 4, *size, generator=generator), torch.tensor([3.0, 800.5])
    context, pooled = torch.randn(2, 5, 24, generator=generator), torch.randn(2, 10, generator=generator)
    theirs = network(x, context, pooled, t).sample
    assert theirs.std() > 0.1
    assert (ours(x, t, context, None, pooled) - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption_projection_dim": 24}, "caption_projection_dim is 24; only 16"),
        ({"qk_norm": "layer_norm"}, "qk_norm is layer_norm; only None, rms_norm"),
        ({"sample_size": 32}, "sample_size is 32; with pos_embed_max_size 9 it must be at most 18"),
        ({"out_channels": 8}, "out_channels is 8; only 4, None"),
        ({"num_layers": 4}, r"transformer_blocks.3.norm1.linear.weight \[96, 16\] is missing"),
        ({"num_layers": 2}, r"transformer_blocks.1.norm1_context.linear.weight is \[96, 16\], not \[32, 16\]"),
        ({"num_extra": 3}, "num_extra is 3; that is not supported"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(tmp_path, changes, message):
    import json

    network = _network(tmp_path)
    file = tmp_path / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InvalidFileError, match=message) as caught:
        _read(tmp_path, network)
    assert "\n" not in str(caught.value)
