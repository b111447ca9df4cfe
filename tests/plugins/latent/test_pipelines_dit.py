"""Folders of DiTPipeline, made by diffusers with random weights: our pixels are theirs."""

import pytest
import torch

from zoo.errors import InvalidFileError

from .pipelines import STEPS, assert_same_pixels, built, changed, imported, saved, scheduler, shaken, vae

pytestmark = pytest.mark.slow  # makes a pipeline of diffusers first

NAMES = {number: f"number {number}, the thing {number}" for number in range(1000)} | {5: "crane", 7: "crane, bird"}


def _made(folder, *, scheduler=scheduler, **transformer):
    from diffusers import DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "num_layers": 2,
        "patch_size": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "in_channels": 4,
        "out_channels": 8,
        "attention_bias": True,
        "norm_elementwise_affine": False,
        "num_embeds_ada_norm": 1000,
    }
    network = shaken(DiTTransformer2DModel(**(sizes | transformer)), 0.07)
    return saved(DiTPipeline(transformer=network, vae=vae(), scheduler=scheduler()), folder)


def _same_pixels(folder, pipeline, guidance, monkeypatch):
    generate, seeds = built(folder), torch.tensor([1, 2])
    noise = generate.noise(seeds, 0)
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda **_: noise)
    with torch.no_grad():
        ours = generate(seeds, torch.tensor(STEPS), torch.tensor([3, 999]), torch.full((2,), guidance))
        theirs = pipeline([3, 999], num_inference_steps=STEPS, guidance_scale=guidance, output_type="np").images
    assert_same_pixels(ours, theirs)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "dit"
    return folder, _made(folder)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_same_pixels_as_dit(first, guidance, monkeypatch):
    """With a learned variance, which its pipeline leaves out, and guidance on all channels of the noise."""
    _same_pixels(*first, guidance, monkeypatch)


def test_same_pixels_without_a_learned_variance(tmp_path, monkeypatch):
    def linear():
        return scheduler(beta_schedule="linear", steps_offset=0, set_alpha_to_one=True)

    pipeline = _made(tmp_path / "dit", scheduler=linear, out_channels=4)
    _same_pixels(tmp_path / "dit", pipeline, 4.0, monkeypatch)


def test_labels_have_the_names_of_the_pipeline(first, tmp_path):
    """Which are in its index, as on the hub; diffusers itself only reads them."""
    names = imported(changed(first[0], tmp_path, "model_index.json", id2label=NAMES)).config["labels"]["classes"]
    assert len(names) == 1000
    assert names[3] == "number 3"
    assert (names[5], names[7]) == ("crane", "bird")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"id2label": {"0": "one"}}, "id2label has no name for 1, one of 1000 classes"),
        ("model_index.json", {"transformer": ["diffusers", "SiT"]}, "transformer is SiT; only DiTTransformer2DModel"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "vae is AutoencoderTiny; only AutoencoderKL"),
        (
            "transformer/config.json",
            {"norm_type": "ada_norm_single"},
            "norm_type is ada_norm_single; only ada_norm_zer",
        ),
        ("transformer/config.json", {"num_embeds_ada_norm": 2000}, "num_embeds_ada_norm is 2000; the pipeline's null"),
        ("transformer/config.json", {"num_embeds_ada_norm": 900}, r"embedding_table.weight is \[1001, 16\], not \[901"),
        ("transformer/config.json", {"num_attention_heads": 3}, "network.width is 16; it must be a multiple of 4 and"),
        ("model_index.json", {"scheduler": ["diffusers", "EulerDiscreteScheduler"]}, "is EulerDiscreteScheduler; only"),
        ("scheduler/scheduler_config.json", {"clip_sample": True}, "diffusion.clip is True; latents are not limited"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(first, tmp_path, file, changes, message):
    with pytest.raises(InvalidFileError, match=message) as caught:
        imported(changed(first[0], tmp_path, file, **changes))
    assert "\n" not in str(caught.value)
