"""A codec of one's own in place of the pipeline's."""

import pytest
import torch
from safetensors.torch import save_file
from zoo_latent.plugin import import_checkpoint

from zoo.build import foreign
from zoo.errors import InvalidFileError
from zoo.hookspecs import Extra, ImportRequest

from .test_pipelines import _made

pytestmark = pytest.mark.slow  # makes a pipeline of diffusers first


def _extra(path):
    found = foreign.read(path)
    return Extra(path=found.path, tensors=found.tensors, config=found.config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "pipeline"
    _made(folder)
    return folder


def _import(folder, **extras):
    found = foreign.read(folder)
    request = {"family": "latent", "path": found.path, "tensors": found.tensors, "config": found.config}
    return import_checkpoint(ImportRequest(**request, extras=extras))


def _vae(folder, **changes):
    from diffusers import AutoencoderKL

    sizes = {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "scaling_factor": 0.25,
    }
    vae = AutoencoderKL(**(sizes | changes))
    vae.save_pretrained(folder)
    return vae


def test_codec_config_and_scale_are_those_of_the_given_one(folder, tmp_path):
    vae = _vae(tmp_path / "vae")
    plain, other = _import(folder), _import(folder, vae=(_extra(tmp_path / "vae"),))
    assert list(plain.config["codec"]["widths"]) == [32, 32]
    assert list(other.config["codec"]["widths"]) == [32, 64]
    assert other.state_dict["denoiser.deviation"].tolist() == [4.0] * 4
    weights = {tuple(t.shape): t for name, t in other.state_dict.items() if name.endswith("decoder.conv_in.weight")}
    theirs = vae.decoder.conv_in.weight
    torch.testing.assert_close(weights[tuple(theirs.shape)], theirs.detach())
    unet = {name for name in plain.state_dict if name.startswith("denoiser.") and "deviation" not in name}
    assert all(torch.equal(plain.state_dict[name], other.state_dict[name]) for name in unet)


def test_one_that_does_not_fit_is_one_line(folder, tmp_path):
    _vae(tmp_path / "vae", latent_channels=8)
    with pytest.raises(InvalidFileError, match=r"its latents have 8 channels; the pipeline's have 4\Z"):
        _import(folder, vae=(_extra(tmp_path / "vae"),))
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidFileError, match=r"a.safetensors: it is not an AutoencoderKL\Z"):
        _import(folder, vae=(_extra(tmp_path / "a.safetensors"),))
