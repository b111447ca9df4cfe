"""DiT: shapes, time, labels, positions, adaLN-Zero's start, and the parameters of the published sizes."""

import math

import pytest
import torch
from torch import nn
from zoo_diffusion.config import TransformerConfig
from zoo_diffusion.dit import DiT, grid_positions

SMALL = {"image_size": 8, "image_channels": 3, "patch_size": 2, "width": 16, "depth": 2, "heads": 2}


def dit(outputs: int = 1, **over) -> DiT:
    torch.manual_seed(0)
    net = DiT(TransformerConfig(**SMALL | over), outputs=outputs).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)  # it begins at 0
    return net


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (12, 4)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_prediction_has_the_pictures_shape(size, outputs):
    net = dit(outputs, image_size=size[0], image_width=size[1])
    with torch.no_grad():
        assert net(torch.randn(2, 3, *size), torch.tensor([1.0, 2.0])).shape == (2, 3 * outputs, *size)


def test_each_patch_lands_where_it_came_from():
    """Blocks that begin as the identity leave each token to its own patch: only that changes."""
    net = DiT(TransformerConfig(**SMALL, image_width=12)).eval()
    nn.init.normal_(net.linear_out.weight)
    x, t = torch.randn(1, 3, 8, 12), torch.tensor([3.0])
    changed = x.clone()
    changed[:, :, 2:4, 6:8] += 1
    with torch.no_grad():
        difference = (net(changed, t) - net(x, t)).abs().sum(1)[0] > 1e-6
    assert difference[2:4, 6:8].all() and difference.sum() == 4


def test_it_begins_at_zero():
    net = DiT(TransformerConfig(**SMALL))
    assert not net(torch.randn(1, 3, 8, 8), torch.tensor([3.0])).any()
    x, condition = torch.randn(1, 5, 16), torch.randn(1, 16)
    assert torch.equal(net.blocks[0](x, condition), x)


def test_labels_and_none_are_told_apart_and_time_matters():
    net, x = dit(num_classes=3), torch.randn(1, 3, 8, 8).expand(4, -1, -1, -1)
    with torch.no_grad():
        out = net(x, torch.tensor([5.0] * 4), torch.tensor([0, 1, -1, 3]))
        later = net(x, torch.tensor([6.0] * 4), torch.tensor([0, 1, -1, 3]))
    assert not torch.allclose(out[0], out[1]) and not torch.allclose(out[0], out[2])
    torch.testing.assert_close(out[2], out[3])  # the rounding may depend on the place in the batch
    assert not torch.allclose(out, later)


def test_positions_are_sines_of_column_and_row():
    positions = grid_positions(8, 3, 4)[0]
    for row, column in ((0, 0), (2, 1), (1, 3)):
        expected = [f(place * w) for place in (column, row) for f in (math.sin, math.cos) for w in (1.0, 0.01)]
        assert positions[row * 4 + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_condition_in_every_block():
    net = dit(condition_per_block=True)
    assert len(net.conditions) == 2 and len(dit().conditions) == 1


@pytest.mark.parametrize(
    "name, width, depth, heads, millions",
    [("S", 384, 12, 6, 33), ("B", 768, 12, 12, 130), ("L", 1024, 24, 16, 458), ("XL", 1152, 28, 16, 675)],
)
def test_the_published_sizes_have_their_parameters(name, width, depth, heads, millions):
    """Table 1 of Peebles and Xie, patch 2: latents of 32x32x4, 1,000 labels, learned variance."""
    config = TransformerConfig(
        image_size=32, image_channels=4, num_classes=1000, patch_size=2, width=width, depth=depth, heads=heads
    )
    with torch.device("meta"):
        net = DiT(config, outputs=2)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.6)
