"""Folders of StableDiffusionXLPipeline, made by diffusers with random weights: our pixels are theirs."""

import json

import pytest
import torch

from zoo.errors import InvalidFileError

from .pipelines import (
    PROMPTS,
    STEPS,
    assert_same_pixels,
    built,
    changed,
    imported,
    saved,
    scheduler,
    text_encoder,
    texts,
    tokenizer,
    vae,
)

pytestmark = pytest.mark.slow  # makes a pipeline of diffusers first


def _made(folder, *, vae=vae, **unet):
    """Two text encoders of different depth, padded with different tokens; attention of several depths, and sizes."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32 + 48,
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 40,
    }
    pipeline = StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=text_encoder(num_hidden_layers=3),
        text_encoder_2=text_encoder(hidden_size=48, projection=40, hidden_act="gelu", std=0.2),
        tokenizer=tokenizer(folder / "tokenizer"),
        tokenizer_2=tokenizer(folder / "tokenizer_2", pad="!"),
        unet=UNet2DConditionModel(**(sizes | unet)),
        scheduler=scheduler(),
        add_watermarker=False,
    )
    return saved(pipeline, folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "xl"
    return folder, _made(folder)


def _same_pixels(folder, pipeline, guidance, negative=None, size=(16, 16)):
    generate, seeds = built(folder), torch.tensor([1, 2])
    ours_negative = texts(*(negative or ("", "")))
    with torch.no_grad():
        ours = generate(seeds, torch.tensor(STEPS), texts(*PROMPTS), ours_negative, torch.full((2,), guidance))
        theirs = pipeline(
            list(PROMPTS),
            negative_prompt=negative,
            height=size[0],
            width=size[1],
            latents=generate.noise(seeds, 0),
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="np",
        ).images
    assert_same_pixels(ours, theirs)


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, None), (7.5, None), (7.5, ["a dog", "rain"])])
def test_same_pixels_as_sdxl(first, guidance, negative):
    """Without a negative text, guidance leads away from zeros."""
    _same_pixels(*first, guidance, negative)


def test_same_pixels_with_euler(first, tmp_path, monkeypatch):
    """The scheduler of SDXL's base, which starts at noise of another deviation."""
    from diffusers import EulerDiscreteScheduler

    folder, pipeline = first
    euler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="leading", steps_offset=1
    )
    other = changed(folder, tmp_path, "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    euler.save_config(other / "scheduler")
    monkeypatch.setattr(pipeline, "scheduler", euler)
    _same_pixels(other, pipeline, 7.5)


def test_same_pixels_at_another_size_and_with_measured_latents(tmp_path):
    def measured():
        return vae(latents_mean=[0.1, 0.2, -0.1, 0.0], latents_std=[1.0, 1.2, 0.8, 1.5])

    pipeline = _made(tmp_path / "xl", vae=measured)
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    for file, fields in (
        ("unet/config.json", {"sample_size": [8, 12]}),  # the pipeline draws any size, but only has one number for it
        ("model_index.json", {"force_zeros_for_empty_prompt": False}),
    ):
        path = tmp_path / "xl" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    _same_pixels(tmp_path / "xl", pipeline, 7.5, size=(16, 24))


def test_what_nothing_looks_at_is_left_out(first):
    found = imported(first[0])
    assert found.unused and all(".layers.2." in name or "final_layer_norm" in name for name in found.unused)
    assert list(found.config["network"]["sizes"]) == [16, 16, 0, 0, 16, 16]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "model_index.json",
            {"text_encoder_2": [None, None]},
            "text_encoder_2 is missing; it must be a folder with a C",
        ),
        ("model_index.json", {"_class_name": "StableDiffusionXLImg2ImgPipeline"}, "XLImg2ImgPipeline; .* the refiner"),
        ("unet/config.json", {"projection_class_embeddings_input_dim": 40}, "must be over 6 times .* a refiner"),
        (
            "unet/config.json",
            {"projection_class_embeddings_input_dim": 80},
            "expects 32 numbers .* projection_dim is 40",
        ),
        ("unet/config.json", {"cross_attention_dim": 64}, r"cross_attention_dim is 64; .* hidden_size is \[32, 48\]"),
        ("unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type is image; it must be text_time"),
        ("unet/config.json", {"transformer_layers_per_block": [1]}, "must have one number for each of 2 levels"),
        (
            "text_encoder_2/config.json",
            {"max_position_embeddings": 20},
            "model_max_length is 16; .* is 20, which it must be",
        ),
        ("text_encoder_2/config.json", {"eos_token_id": 5}, "eos_token_id is 5; the tokenizer's end token is"),
        ("tokenizer_2/tokenizer_config.json", {"pad_token": "<none>"}, "vocab.json has no token '<none>'"),
        ("vae/config.json", {"latents_mean": [1.0], "latents_std": [1.0]}, "latents_mean must have 4 numbers"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(first, tmp_path, file, changes, message):
    with pytest.raises(InvalidFileError, match=message) as caught:
        imported(changed(first[0], tmp_path, file, **changes))
    assert "\n" not in str(caught.value)


def test_two_vocabularies_are_refused(first, tmp_path):
    other = changed(first[0], tmp_path, "model_index.json")
    with (other / "tokenizer_2" / "merges.txt").open("a") as f:
        f.write("a b\n")
    with pytest.raises(InvalidFileError, match=r"tokenizer_2/merges.txt is not tokenizer/merges.txt; both encoders"):
        imported(other)
