"""Random configs of the networks of pipelines: what is taken computes what diffusers' computes, the rest is refused."""

import random

import pytest
import torch
from zoo_latent.config import LatentConfig, read_config
from zoo_latent.denoiser import build_denoiser
from zoo_latent.networks import DIT, JOINT, PLAIN_UNET, UNET
from zoo_latent.source import Source

from zoo.errors import InvalidFileError, UsageError

from .pipelines import shaken

CHANNELS = 4


def _drawn(rng: random.Random, usual: dict, odd: dict) -> dict:
    """A config: every field with one of its usual values, and at most one with an odd one."""
    config = {name: rng.choice(values) for name, values in usual.items()}
    for name in rng.sample(sorted(odd), rng.randint(0, 1)):
        config[name] = rng.choice(odd[name])
    return config


def _unet(rng):
    from diffusers import UNet2DConditionModel

    levels = rng.randint(1, 3)
    attends = [rng.random() < 0.6 for _ in range(levels)]
    usual = {
        "sample_size": [8, (8, 12)],
        "layers_per_block": [1, 2],
        "attention_head_dim": [1, 2, 4, tuple(rng.choice([2, 4]) for _ in range(levels))],
        "norm_num_groups": [4, 8],
        "norm_eps": [1e-5, 1e-3],
        "cross_attention_dim": [12, 24],
        "transformer_layers_per_block": [1, 2, tuple(rng.randint(1, 2) for _ in range(levels))],
        "use_linear_projection": [True, False],
        "act_fn": ["silu", "swish"],
        "downsample_padding": [0, 1],
        "flip_sin_to_cos": [True, False],
        "freq_shift": [0, 1],
        "upcast_attention": [True, False],
        "resnet_time_scale_shift": ["default", "scale_shift"],
        "dropout": [0.0, 0.1],
    }
    odd = {
        "act_fn": ["gelu", "mish"],
        "layers_per_block": [(1,) * levels],
        "class_embed_type": ["timestep"],
        "num_class_embeds": [5],
        "only_cross_attention": [True],
        "dual_cross_attention": [True],
        "mid_block_type": [None, "UNetMidBlock2DSimpleCrossAttn"],
        "mid_block_scale_factor": [2],
        "conv_in_kernel": [5],
        "conv_out_kernel": [1],
        "resnet_out_scale_factor": [2.0],
        "resnet_skip_time_act": [True],
        "center_input_sample": [True],
        "time_embedding_type": ["fourier"],
        "time_embedding_dim": [64],
        "timestep_post_act": ["silu"],
        "attention_type": ["gated"],
        "addition_embed_type": ["text"],
        "norm_num_groups": [None],
        "num_attention_heads": [2],
    }
    config = _drawn(rng, usual, odd)
    down = tuple("CrossAttnDownBlock2D" if there else "DownBlock2D" for there in attends)
    up = tuple("CrossAttnUpBlock2D" if there else "UpBlock2D" for there in reversed(attends))
    if rng.random() < 0.1:
        up = tuple(reversed(up))
    widths = tuple(rng.choice([16, 24, 32]) for _ in range(levels))
    network = UNet2DConditionModel(
        in_channels=CHANNELS, out_channels=CHANNELS, block_out_channels=widths,
        down_block_types=down, up_block_types=up, **config,
    )  # fmt: skip
    context = torch.randn(2, 5, network.config.cross_attention_dim)
    x = torch.randn(2, CHANNELS, 8, 12 if isinstance(config["sample_size"], tuple) else 8)
    t = torch.tensor([3, 700])
    return UNET, network, (x, t.float(), context), lambda: network(x, t, context).sample


def _plain_unet(rng):
    from diffusers import UNet2DModel

    levels = rng.randint(1, 3)
    attends = [rng.random() < 0.5 for _ in range(levels)]
    usual = {
        "sample_size": [8, (8, 12)],
        "layers_per_block": [1, 2],
        "attention_head_dim": [4, 8, None],
        "norm_num_groups": [4, 8],
        "norm_eps": [1e-5, 1e-3],
        "act_fn": ["silu"],
        "downsample_padding": [0, 1],
        "flip_sin_to_cos": [True, False],
        "freq_shift": [0, 1],
        "add_attention": [True, False],
        "resnet_time_scale_shift": ["default", "scale_shift"],
    }
    odd = {
        "act_fn": ["gelu"],
        "class_embed_type": ["timestep"],
        "num_class_embeds": [5],
        "mid_block_scale_factor": [2],
        "center_input_sample": [True],
        "time_embedding_type": ["fourier"],
        "attn_norm_num_groups": [4],
        "downsample_type": ["resnet"],
        "upsample_type": ["resnet"],
    }
    config = _drawn(rng, usual, odd)
    network = UNet2DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=tuple(rng.choice([16, 24, 32]) for _ in range(levels)),
        down_block_types=tuple("AttnDownBlock2D" if there else "DownBlock2D" for there in attends),
        up_block_types=tuple("AttnUpBlock2D" if there else "UpBlock2D" for there in reversed(attends)),
        **config,
    )
    x = torch.randn(2, CHANNELS, 8, 12 if isinstance(config["sample_size"], tuple) else 8)
    t = torch.tensor([3, 700])
    return PLAIN_UNET, network, (x, t.float()), lambda: network(x, t).sample


def _dit(rng):
    from diffusers import DiTTransformer2DModel

    usual = {
        "sample_size": [8, 12],
        "num_layers": [1, 3],
        "patch_size": [1, 2, 4],
        "attention_head_dim": [8, 12],
        "num_attention_heads": [1, 2, 3],
        "num_embeds_ada_norm": [10, 1000],
        "attention_bias": [True],
        "norm_eps": [1e-5, 1e-3],
        "dropout": [0.0, 0.1],
    }
    odd = {"attention_bias": [False], "upcast_attention": [True], "attention_head_dim": [6], "activation_fn": ["geglu"]}
    config = _drawn(rng, usual, odd)
    network = DiTTransformer2DModel(in_channels=CHANNELS, out_channels=CHANNELS, **config)
    x = torch.randn(2, CHANNELS, config["sample_size"], config["sample_size"])
    t, label = torch.tensor([3, 700]), torch.tensor([2, 7])
    return DIT, network, (x, t.float(), None, None, None, label), lambda: network(x, t, label).sample


def _joint(rng):
    from diffusers import SD3Transformer2DModel

    depth = rng.randint(1, 3)
    usual = {
        "sample_size": [8, 12],
        "num_layers": [depth],
        "patch_size": [1, 2],
        "attention_head_dim": [8, 12],
        "num_attention_heads": [1, 2, 3],
        "joint_attention_dim": [12, 24],
        "pooled_projection_dim": [6, 10],
        "pos_embed_max_size": [12, 15],
        "qk_norm": [None, "rms_norm"],
        "dual_attention_layers": [(), tuple(range(rng.randint(0, depth)))],
    }
    odd = {"pos_embed_max_size": [3], "qk_norm": ["layer_norm"], "out_channels": [8]}
    config = _drawn(rng, usual, odd)
    width = config["attention_head_dim"] * config["num_attention_heads"]
    network = SD3Transformer2DModel(**({"in_channels": CHANNELS, "out_channels": CHANNELS} | config | {"caption_projection_dim": width}))  # fmt: skip # noqa: E501
    x = torch.randn(2, CHANNELS, config["sample_size"], config["sample_size"])
    context, pooled = torch.randn(2, 5, config["joint_attention_dim"]), torch.randn(2, config["pooled_projection_dim"])
    t = torch.tensor([3.0, 700.5])
    return JOINT, network, (x, t, context, None, pooled), lambda: network(x, context, pooled, t).sample


KINDS = {"unet": _unet, "plain": _plain_unet, "dit": _dit, "joint": _joint}


def _checked(config):
    """A network's config, after the checks of a whole model's."""
    from msgspec import to_builtins

    text = None
    if config.context_width:
        encoder = {"width": config.context_width - 4, "heads": 1, "length": 5, "projection": config.pooled_width}
        other = {"width": 4, "heads": 1, "length": 5}
        text = {"kind": "clips", "encoders": [encoder, other]}
    codec = {"widths": [8], "norm_groups": 4, "latent_channels": CHANNELS, "code_size": CHANNELS}
    whole, _ = read_config({"codec": codec, "text": text, "network": to_builtins(config), "diffusion": {"clip": False}})
    assert isinstance(whole, LatentConfig)
    return config


@torch.no_grad()
def _outcome(kind: str, seed: int, folder) -> str:
    """`same`, `refused` or `unmakeable`: diffusers itself does not build or compute it."""
    torch.manual_seed(seed)
    try:
        reader, network, given, theirs = KINDS[kind](random.Random(seed))
        shaken(network, 0.1).eval()
        expected = theirs()
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError, IndexError, ZeroDivisionError):
        return "unmakeable"
    network.save_config(folder / reader.part)
    tensors = network.state_dict()
    every = {f"{reader.part}.{name}": tensor for name, tensor in tensors.items()}
    scale = {"mean": torch.zeros(CHANNELS), "deviation": torch.ones(CHANNELS), "measured": torch.tensor(1)}
    try:
        c = _checked(reader.config(Source(folder, {"_class_name": "APipeline"}, every), reader.part))
        ours = build_denoiser(c)
        state = reader.state(tensors, c, 1, scale)
    except (InvalidFileError, UsageError) as e:
        assert "\n" not in str(e) and any(word in str(e) for word in (" is ", " must ", " not ")), e
        return "refused"
    ours.load_state_dict({name.removeprefix("denoiser."): tensor for name, tensor in state.items()})
    error = (ours.eval()(*given) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4, f"{kind} {seed}: {network.config}"
    return "same"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taken_computes_the_same(tmp_path, kind):
    outcomes = [_outcome(kind, seed, tmp_path / str(seed)) for seed in range(12)]
    assert "same" in outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taken_of_many_computes_the_same(tmp_path, kind):
    outcomes = [_outcome(kind, seed, tmp_path / str(seed)) for seed in range(100, 250)]
    assert outcomes.count("same") > 50 and outcomes.count("refused") > 5
