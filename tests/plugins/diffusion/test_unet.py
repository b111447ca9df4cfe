"""The U-Net: shapes, time, labels, where attention stands, and the parameters of published ones."""

import math

import pytest
import torch
from zoo_diffusion.config import UNetConfig
from zoo_diffusion.unet import Attention, UNet, sinusoids

SMALL = {"image_size": 16, "widths": (8, 16), "blocks": 1, "norm_groups": 4, "image_channels": 3}


def unet(outputs: int = 1, **over) -> UNet:
    torch.manual_seed(0)
    net = UNet(UNetConfig(**SMALL | over), outputs=outputs).eval()
    torch.nn.init.normal_(net.conv_out.weight, std=0.1)  # it begins at 0
    return net


def ask(net: UNet, size: tuple[int, int] = (16, 16), label: list[int] | None = None, t: float = 5.0) -> torch.Tensor:
    number = len(label) if label else 2
    x = torch.randn(1, net.config.image_channels, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return net(x.expand(number, -1, -1, -1), torch.full((number,), t), torch.tensor(label) if label else None)


@pytest.mark.parametrize("resampling", ["conv", "conv_asymmetric", "plain", "residual"])
@pytest.mark.parametrize("patch_size, size", [(1, (16, 16)), (2, (16, 8)), (4, (16, 24))])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_prediction_has_the_pictures_shape(resampling, patch_size, size, outputs):
    out = ask(unet(outputs, resampling=resampling, patch_size=patch_size), size)
    assert out.shape == (2, 3 * outputs, *size)


def test_the_first_prediction_is_nothing():
    net = UNet(UNetConfig(**SMALL))
    assert not net(torch.randn(1, 3, 16, 16), torch.tensor([3.0])).any()


def test_labels_and_none_are_told_apart():
    out = ask(unet(num_classes=3), label=[0, 2, -1, -7, 3])
    assert not torch.allclose(out[0], out[1]) and not torch.allclose(out[0], out[2])
    # Up to rounding, which depends on the place in the batch where a processor's vectors do not end with a picture.
    torch.testing.assert_close(out[2], out[3])  # any negative label is none,
    torch.testing.assert_close(out[2], out[4])  # whose embedding is the last row
    assert unet(num_classes=3).label.num_embeddings == 4
    assert unet(num_classes=3, null_label=False).label.num_embeddings == 3


@pytest.mark.parametrize("scale_shift", [False, True])
def test_time_matters(scale_shift):
    net = unet(scale_shift=scale_shift)
    assert not torch.allclose(ask(net, t=5.0), ask(net, t=6.0))


def test_a_picture_depends_on_itself_alone():
    net = unet(num_classes=3, attention_levels=(0, 1))
    x, t, label = torch.randn(3, 3, 16, 16), torch.tensor([1.0, 50.0, 900.0]), torch.tensor([0, 1, -1])
    with torch.no_grad():
        together = net(x, t, label)
        for i in range(3):
            torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1], label[i : i + 1]), together[i : i + 1])


def test_attention_stands_where_the_config_says():
    net = unet(widths=(8, 16, 16), attention_levels=(1,), blocks=2, middle_attention=False)
    assert [len(level.attentions) for level in net.down] == [0, 2, 0]
    assert [len(level.attentions) for level in net.up] == [0, 3, 0]  # from the coarsest
    assert len(net.middle.attentions) == 0
    assert len(unet().middle.attentions) == 1


def test_attention_is_the_formula():
    """softmax(q k' / sqrt(d)) v for each head, added to its input."""
    torch.manual_seed(0)
    layer = Attention(UNetConfig(**SMALL, head_size=4), 8)
    x = torch.randn(2, 8, 3, 5)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in layer.qkv(tokens).split(8, dim=2))
    mixed = (torch.softmax(q @ k.transpose(2, 3) / math.sqrt(4), dim=3) @ v).transpose(1, 2).flatten(2)
    expected = x + layer.proj(mixed).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_sinusoids_are_the_papers(shift):
    waves = sinusoids(torch.tensor([0.0, 7.5]), 6, frequency_shift=shift)
    angles = [7.5 * 10_000 ** (-i / (3 - shift)) for i in range(3)]
    assert waves[0].tolist() == [1, 1, 1, 0, 0, 0]
    assert waves[1].tolist() == pytest.approx([*map(math.cos, angles), *map(math.sin, angles)], abs=1e-5)
    other = sinusoids(torch.tensor([7.5]), 6, cosine_first=False, frequency_shift=shift)
    torch.testing.assert_close(other[0], waves[1].roll(3))


def parameters(config: UNetConfig, outputs: int = 1) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in UNet(config, outputs=outputs).parameters())


def test_ho_et_als_cifar_network_has_its_parameters():
    """35.7 M (appendix B); to the last one those of google/ddpm-cifar10-32."""
    config = UNetConfig(widths=(128, 256, 256, 256), attention_levels=(1,), resampling="conv_asymmetric", dropout=0.1)
    assert parameters(config) == 35_746_307


def test_guided_diffusions_imagenet_64_network_has_its_parameters():
    """295.9 M: 296 M in table 4 of Dhariwal and Nichol."""
    config = UNetConfig(
        image_size=64, num_classes=1000, null_label=False, widths=(192, 384, 576, 768), blocks=3, dropout=0.1,
        attention_levels=(1, 2, 3), head_size=64, scale_shift=True, resampling="residual",
    )  # fmt: skip
    assert parameters(config, outputs=2) / 1e6 == pytest.approx(296, abs=0.5)
