"""The task modules: pixel ranges, padding, cropping, and that the three tasks agree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_vqvae.config import CodecConfig
from zoo_vqvae.model import VQVAE
from zoo_vqvae.tasks import Decode, Encode, Reconstruct, crop, pad_to_multiple, to_float, to_uint8

SMALL = {"hidden_channels": 8, "residual_channels": 4, "residual_layers": 1, "num_codes": 8, "code_size": 3}


def codec(**options) -> torch.nn.Module:
    torch.manual_seed(1)
    model = VQVAE(CodecConfig(**SMALL | options)).eval()
    for weight in model.parameters():  # larger than they start, so that different pictures get different tokens
        weight.data.mul_(3)
    return model


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_every_level_survives_the_way_to_float_and_back():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    x = to_float(levels)
    assert x.shape == (1, 1, 16, 16) and x.min() == -1 and x.max() == 1
    assert torch.equal(to_uint8(x), levels)


def test_values_outside_are_clamped_and_others_go_to_the_nearest_level():
    x = torch.tensor([-9.0, 9.0, 7.4 / 127.5 - 1, 7.6 / 127.5 - 1]).reshape(1, 1, 2, 2)
    assert to_uint8(x).flatten().tolist() == [0, 255, 7, 8]


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 4, 8, 16]))
def test_padding_repeats_the_edge_up_to_the_next_multiple(height, width, factor):
    x = torch.arange(float(height * width)).reshape(1, 1, height, width)
    padded = pad_to_multiple(x, factor)
    rows, columns = padded.shape[2:]
    assert rows % factor == columns % factor == 0 and 0 <= rows - height < factor and 0 <= columns - width < factor
    assert torch.equal(padded[:, :, :height, :width], x)
    assert torch.equal(padded[:, :, height:, :width], x[:, :, -1:].expand(-1, -1, rows - height, -1))
    assert torch.equal(padded[:, :, :, width:], padded[:, :, :, width - 1 : width].expand(-1, -1, -1, columns - width))


def test_cropping_keeps_the_upper_left_and_never_more_than_there_is():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert crop(x, torch.tensor([2, 3])).tolist() == [[[[0, 1, 2], [4, 5, 6]]]]
    assert torch.equal(crop(x, torch.tensor([9, 9])), x)


@pytest.mark.parametrize("height, width", [(8, 8), (13, 57), pytest.param(481, 321, id="photo")])
@pytest.mark.parametrize("channels, factor", [(1, 4), (3, 8)])
def test_any_size_comes_back_as_it_went_in(height, width, channels, factor):
    model = codec(image_channels=channels, downsampling=factor)
    image = pictures(2, height, width, channels)
    with torch.no_grad():
        tokens, size = Encode(model)(image)
        decoded = Decode(model)(tokens, size)
        reconstruction = Reconstruct(model)(image)
    assert tokens.shape == (2, -(-height // factor), -(-width // factor)) and tokens.dtype == torch.int64
    assert size.tolist() == [height, width] and size.dtype == torch.int64
    assert decoded.shape == image.shape and decoded.dtype == torch.uint8
    assert torch.equal(decoded, reconstruction)
    assert tokens.min() >= 0 and tokens.max() < 8


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 3))
def test_a_picture_is_the_same_alone_and_in_a_batch(height, width, batch):
    model = codec(image_channels=1)
    image = pictures(batch, height, width, 1, seed=height * width)
    with torch.no_grad():
        together = Reconstruct(model)(image)
        alone = torch.cat([Reconstruct(model)(one[None]) for one in image])
    assert (together.int() - alone.int()).abs().max() <= 1


def test_margins_are_the_gap_between_the_two_nearest_codes():
    model = codec(image_channels=1)
    image = pictures(2, 16, 20, 1)
    with torch.no_grad():
        latents = Encode(model).latents(image)
        distances = (latents.unsqueeze(-2) - model.quantizer.codebook).square().sum(-1)  # [N, h, w, codes]
        nearest = distances.sort(dim=-1)
        margins = Encode(model).margins(image)
        tokens, _ = Encode(model)(image)
    torch.testing.assert_close(margins, nearest.values[..., 1] - nearest.values[..., 0], rtol=1e-3, atol=1e-3)
    assert torch.equal(tokens, nearest.indices[..., 0])
    assert torch.equal(Reconstruct(model).margins(image), margins)


def test_tasks_hold_the_models_own_tensors():
    model = codec()
    own = {t.data_ptr() for t in model.state_dict().values()}
    for task in (Encode(model), Decode(model), Reconstruct(model)):
        assert {t.data_ptr() for t in task.state_dict().values()} <= own
