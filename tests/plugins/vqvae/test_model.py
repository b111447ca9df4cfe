"""The networks: shapes, what the config sets, where gradients go."""

import pytest
import torch
from zoo_vqvae.config import CodecConfig
from zoo_vqvae.model import VQVAE, Decoder, Encoder, ResidualBlock

SMALL = {"hidden_channels": 16, "residual_channels": 8, "residual_layers": 1, "num_codes": 8, "code_size": 4}


@pytest.mark.parametrize("downsampling", [2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_down_and_up(downsampling, channels):
    config = CodecConfig(**SMALL, image_channels=channels, downsampling=downsampling)
    x = torch.randn(2, channels, 2 * downsampling, 3 * downsampling)
    z_e = Encoder(config)(x)
    assert z_e.shape == (2, 4, 2, 3)
    assert Decoder(config)(z_e).shape == x.shape


@pytest.mark.parametrize("hidden_channels", [8, 9, 100])
def test_odd_widths_work_at_every_factor(hidden_channels):
    config = CodecConfig(**SMALL | {"hidden_channels": hidden_channels, "downsampling": 16})
    reconstruction, quantized = VQVAE(config)(torch.randn(1, 3, 16, 32))
    assert reconstruction.shape == (1, 3, 16, 32) and quantized.indices.shape == (1, 1, 2)


@pytest.mark.parametrize("layers", [0, 3])
def test_the_config_sets_the_depth(layers):
    model = VQVAE(CodecConfig(**SMALL | {"residual_layers": layers}))
    assert len(model.encoder.blocks) == len(model.decoder.blocks) == layers


def test_a_residual_block_carries_its_input_past_the_relu():
    block = ResidualBlock(4, 2)
    torch.nn.init.zeros_(block.conv_out.weight), torch.nn.init.zeros_(block.conv_out.bias)
    x = torch.randn(1, 4, 3, 3)  # zalando's in-place ReLU would give relu(x)
    assert torch.equal(block(x.clone()), x)


def test_reconstruction_reaches_the_encoder_through_the_codes_and_leaves_the_codebook():
    torch.manual_seed(0)
    model = VQVAE(CodecConfig(**SMALL, learn_codebook="loss"))
    x = torch.randn(2, 3, 8, 8)
    reconstruction, _ = model(x)
    (reconstruction - x).square().mean().backward()
    moved = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert moved == {"encoder", "decoder"}


def test_commitment_reaches_the_encoder_alone_and_the_codebook_loss_the_codebook_alone():
    model = VQVAE(CodecConfig(**SMALL, learn_codebook="loss"))
    for term, part in (("commitment", "encoder"), ("codebook", "quantizer")):
        model.zero_grad()
        _, quantized = model(torch.randn(2, 3, 8, 8))
        quantized.losses[term].backward()
        assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {part}


def test_the_papers_network_has_its_parameters():
    # Section 4.1: two strided 4x4 convolutions, 256 wide, and two residual blocks each way.
    model = VQVAE(CodecConfig(hidden_channels=256, residual_channels=256, residual_layers=2))
    shapes = [tuple(down.weight.shape) for down in model.encoder.down]
    assert shapes == [(128, 3, 4, 4), (256, 128, 4, 4)]
    assert [tuple(up.weight.shape) for up in model.decoder.up] == [(256, 128, 4, 4), (128, 3, 4, 4)]
    assert tuple(model.encoder.blocks[0].conv_in.weight.shape) == (256, 256, 3, 3)
