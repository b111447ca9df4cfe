"""Folders of LDMPipeline, made by diffusers with random weights: our pixels are theirs."""

import pytest
import torch

from zoo.errors import InvalidFileError

from .pipelines import STEPS, assert_same_pixels, built, changed, imported, saved, scheduler, shaken

pytestmark = pytest.mark.slow  # makes a pipeline of diffusers first


def _made(folder, **unet):
    from diffusers import LDMPipeline, UNet2DModel, VQModel

    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    vqvae = VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=50,
        scaling_factor=0.5,
    )
    shaken(vqvae.quantize, 1.0)
    pipeline = LDMPipeline(
        vqvae=vqvae, unet=UNet2DModel(**(sizes | unet)), scheduler=scheduler(steps_offset=0, set_alpha_to_one=True)
    )
    return saved(pipeline, folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "ldm"
    return folder, _made(folder)


def test_same_pixels_as_latent_diffusion(first, monkeypatch):
    """Without a text, and with a codec whose decoder looks for the nearest code of every latent."""
    folder, pipeline = first
    generate, seeds = built(folder), torch.tensor([1, 2])
    noise = generate.noise(seeds, 0)
    monkeypatch.setattr(f"{type(pipeline).__module__}.randn_tensor", lambda *_, **__: noise)
    with torch.no_grad():
        ours = generate(seeds, torch.tensor(STEPS))
        theirs = pipeline(batch_size=2, num_inference_steps=STEPS, output_type="np").images
    assert_same_pixels(ours, theirs)


def test_a_codec_without_a_factor_has_the_one_that_diffusers_uses(first, tmp_path):
    folder = changed(first[0], tmp_path, "vqvae/config.json", scaling_factor=...)
    found = imported(folder)
    assert found.state_dict["denoiser.deviation"].tolist() == pytest.approx([1 / 0.18215] * 3)
    assert any("no scaling_factor" in note for note in found.notes)
    assert not any("no scaling_factor" in note for note in imported(first[0]).notes)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "model_index.json",
            {"_class_name": "LDMTextToImagePipeline"},
            "LDMTextToImagePipeline; only .*it is .*WordPi",
        ),
        ("model_index.json", {"vqvae": ["diffusers", "AutoencoderKL"]}, "vqvae is AutoencoderKL; only VQModel"),
        ("unet/config.json", {"num_class_embeds": 10}, "num_class_embeds is 10; only None"),
        ("unet/config.json", {"out_channels": 6}, "out_channels is 6; only 3"),
        ("unet/config.json", {"in_channels": 4, "out_channels": 4}, "image_channels is 4; the codec's latents have 3"),
        ("vqvae/config.json", {"num_vq_embeddings": 60}, "its config says num_codes 60, but its tensors 50"),
        ("vqvae/config.json", {"norm_type": "spatial"}, "norm_type is spatial; only group is supported"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(first, tmp_path, file, changes, message):
    with pytest.raises(InvalidFileError, match=message) as caught:
        imported(changed(first[0], tmp_path, file, **changes))
    assert "\n" not in str(caught.value)
