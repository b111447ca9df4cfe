"""Imports of public codecs: what is recognised, and refusals that name each tensor. test_layouts_parity has numbers."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from zoo_vqgan import plugin
from zoo_vqgan.config import CodecConfig, KLConfig
from zoo_vqgan.model import VQGAN, KLAutoencoder

from zoo.errors import InvalidFileError
from zoo.hookspecs import Imported, ImportRequest

SIZES = {"widths": (32, 64), "blocks": 1, "attention_levels": (1,), "latent_channels": 4, "code_size": 3}
CODEC = CodecConfig(**SIZES, num_codes=8, learn_codebook="loss")
CONFIG = {
    "model": {
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "embed_dim": 3,
            "n_embed": 8,
            "ddconfig": {
                "z_channels": 4,
                "resolution": 32,
                "ch": 32,
                "ch_mult": [1, 2],
                "num_res_blocks": 1,
                "attn_resolutions": [16],
            },
        },
    }
}


def taming(codec: torch.nn.Module) -> dict[str, Tensor]:
    """Our weights under taming's names: a level of the decoder counts from the finest, attention is a convolution."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in codec.state_dict().items():
        name = re.sub(r"decoder\.levels\.(\d)", lambda m: f"decoder.up.{1 - int(m[1])}", name)
        for ours, old in {
            "encoder.levels.": "encoder.down.",
            ".blocks.": ".block.",
            ".attentions.": ".attn.",
            "middle.block": "mid.block",
            "middle.attention": "mid.attn_1",
            "encoder.to_code": "quant_conv",
            "decoder.from_code": "post_quant_conv",
            "quantizer.codebook": "quantize.embedding.weight",
            ".skip.": ".nin_shortcut.",
            "encoder.down.0.resample": "encoder.down.0.downsample",
            "decoder.up.1.resample": "decoder.up.1.upsample",
        }.items():
            name = name.replace(ours, old)
        if ".block" in name:
            for ours, old in (("norm_in", "norm1"), ("conv_in", "conv1"), ("norm_out", "norm2"), ("conv_out", "conv2")):
                name = name.replace(f".{ours}.", f".{old}.")
        if ".qkv." in name:
            for part, chunk in zip("qkv", tensor.chunk(3)):
                theirs[name.replace("qkv", part)] = chunk[..., None, None] if chunk.ndim == 2 else chunk
            continue
        if ".proj." in name:
            name, tensor = name.replace(".proj.", ".proj_out."), tensor[..., None, None] if tensor.ndim == 2 else tensor
        theirs[name] = tensor
    return theirs


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return taming(VQGAN(CODEC))


def importing(tensors: dict[str, Tensor], config: dict | None = CONFIG, family: str = "vqgan") -> Imported | None:
    request = ImportRequest(family=family, path=Path("last.ckpt"), tensors=tensors, config=config)
    return plugin.import_checkpoint(request)


def refused(tensors: dict[str, Tensor], config: dict | None = CONFIG, family: str = "vqgan") -> str:
    with pytest.raises(InvalidFileError) as error:
        importing(tensors, config, family)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_comes_in_with_and_without_its_config(weights):
    torch.manual_seed(0)
    expected = {f"codec.{name}": tensor for name, tensor in VQGAN(CODEC).state_dict().items()}
    extras = {"loss.discriminator.main.0.weight": torch.ones(1), "model_ema.decay": torch.ones(1)}
    for config in (CONFIG, None):
        imported = importing(weights | extras, config)
        assert imported.layout == "CompVis/taming-transformers" and set(imported.unused) == set(extras)
        assert imported.config == plugin.validate_config(plugin.ConfigRequest(family="vqgan", config=imported.config))
        assert imported.state_dict.keys() == expected.keys()
        assert all(torch.equal(imported.state_dict[name], tensor) for name, tensor in expected.items())


def test_the_first_stage_of_a_whole_model_comes_in(weights):
    whole = {f"first_stage_model.{name}": tensor for name, tensor in weights.items()}
    config = {"model": {"params": {"first_stage_config": CONFIG["model"]}}}
    imported = importing(whole | {"model.diffusion_model.out.0.weight": torch.ones(1)}, config)
    assert imported.unused == ("model.diffusion_model.out.0.weight",)
    assert imported.state_dict["codec.quantizer.codebook"].shape == (8, 3)


def test_a_gaussian_codec_is_the_other_family_s(weights):
    torch.manual_seed(0)
    gaussian = taming(KLAutoencoder(KLConfig(**SIZES)))
    assert importing(gaussian, None, "klvae").config["codec"]["code_size"] == 3
    assert "zoo import klvae" in refused(gaussian, None)
    assert "zoo import vqgan" in refused(weights, CONFIG, "klvae")


def test_what_does_not_fit_is_named(weights):
    del weights["encoder.conv_out.bias"]
    weights["decoder.extra"] = torch.ones(2)
    weights["post_quant_conv.bias"] = torch.ones(5)
    said = refused(weights)
    assert "encoder.conv_out.bias [4] is missing" in said and "decoder.extra [2] is unexpected" in said
    assert "post_quant_conv.bias is [5], not [4]" in said


@pytest.mark.parametrize(
    "change, said",
    [
        ({"n_embed": 16}, "its config says num_codes 16, but its tensors 8"),
        ({"ddconfig": {"num_res_blocks": 2}}, "its config says blocks 2, but its tensors 1"),
        ({"ddconfig": {"resolution": 64}}, "its config says attention_levels [], but its tensors [1]"),
        ({"ddconfig": {"attn_type": "linear"}}, "attn_type is linear; only vanilla or none is supported"),
        ({"ddconfig": {"tanh_out": True}}, "tanh_out is True; only False is supported"),
    ],
)
def test_a_config_that_says_otherwise_is_refused(weights, change, said):
    params = CONFIG["model"]["params"]
    merged = params | change | {"ddconfig": params["ddconfig"] | change.get("ddconfig", {})}
    assert said in refused(weights, {"model": {"target": "VQModel", "params": merged}})


def test_other_quantisers_are_refused(weights):
    ibq = {"model": {"target": "src.IBQ.models.ibqgan.IBQ", "params": CONFIG["model"]["params"]}}
    assert "IBQ tokenizer" in refused(weights, ibq)
    gumbel = {name: tensor for name, tensor in weights.items() if not name.startswith("quantize.")}
    assert "quantize.embed.weight" in refused(gumbel | {"quantize.embed.weight": torch.ones(8, 3)})


def test_another_layout_is_none_of_ours():
    assert importing({"time_embed.0.weight": torch.ones(1)}, None) is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"_class_name": "AutoencoderTiny"}, "_class_name is AutoencoderTiny; only VQModel, .*; it is TAESD, a small"),
        (
            {"_class_name": "AsymmetricAutoencoderKL"},
            "it is a KL autoencoder whose decoder also takes the masked image",
        ),
        ({"model": "SiT-XL/2"}, "model is SiT-XL/2; only VQModel, .* it is a DiT trained as a flow"),
        ({"_class_name": "ExoticCodec"}, "_class_name is ExoticCodec; only VQModel, "),
    ],
)
def test_a_class_that_is_no_codec_of_ours_is_refused(weights, said, told):
    assert re.search(told, refused(weights, said))


def test_a_model_named_by_a_script_is_taken(weights):
    assert importing(weights, {"model": "VQ-16"}) is not None


def test_an_asymmetric_decoder_is_refused_without_a_config(weights):
    assert "whose decoder also takes the masked image" in refused(
        weights | {"decoder.condition_encoder.layers.0.weight": torch.zeros(1)}, None
    )
