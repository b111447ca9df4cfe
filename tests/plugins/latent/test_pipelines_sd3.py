"""Folders of StableDiffusion3Pipeline without T5, made by diffusers with random weights: our pixels are theirs."""

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
    shaken,
    text_encoder,
    texts,
    tokenizer,
    vae,
)

pytestmark = pytest.mark.slow  # makes a pipeline of diffusers first


def _made(folder, **transformer):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": 96,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 24 + 40,
        "pos_embed_max_size": 9,
    }
    pipeline = StableDiffusion3Pipeline(
        transformer=shaken(SD3Transformer2DModel(**(sizes | transformer)), 0.1),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.3),
        text_encoder=text_encoder(projection=24),
        text_encoder_2=text_encoder(hidden_size=48, projection=40, hidden_act="gelu", std=0.2),
        text_encoder_3=None,
        tokenizer=tokenizer(folder / "tokenizer"),
        tokenizer_2=tokenizer(folder / "tokenizer_2", pad="!"),
        tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return saved(pipeline, folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "sd3"
    return folder, _made(folder)


def _same_pixels(folder, pipeline, guidance):
    generate, seeds = built(folder), torch.tensor([1, 2])
    with torch.no_grad():
        ours = generate(seeds, torch.tensor(STEPS), texts(*PROMPTS), texts("", ""), torch.full((2,), guidance))
        theirs = pipeline(
            list(PROMPTS),
            height=16,
            width=16,
            latents=generate.noise(seeds, 0),
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="np",
        ).images
    assert_same_pixels(ours, theirs)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_same_pixels_as_stable_diffusion_3(first, guidance):
    """A rectified flow with a shift; with another shift of the latents, and zeros in the place of T5's tokens."""
    _same_pixels(*first, guidance)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "use_dynamic_shifting is True; only False"),
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": True}, "use_karras_sigmas is True; only False"),
        ("scheduler/scheduler_config.json", {"shift": 0}, "that this family does not support: .*shift"),
        (
            "model_index.json",
            {"scheduler": ["diffusers", "DDIMScheduler"]},
            "is DDIMScheduler; only FlowMatchEulerDiscr",
        ),
        (
            "model_index.json",
            {"text_encoder_3": ["transformers", "T5EncoderModel"]},
            "text_encoder_3 is T5EncoderModel, ",
        ),
        (
            "model_index.json",
            {"text_encoder": ["transformers", "CLIPTextModel"]},
            "text_encoder is CLIPTextModel; only C",
        ),
        (
            "transformer/config.json",
            {"joint_attention_dim": 64},
            "text.context is 64; the encoders' contexts have 80 to",
        ),
        ("transformer/config.json", {"pooled_projection_dim": 60}, "expects 60 numbers .* projection_dim is 64"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(first, tmp_path, file, changes, message):
    with pytest.raises(InvalidFileError, match=message) as caught:
        imported(changed(first[0], tmp_path, file, **changes))
    assert "\n" not in str(caught.value)
