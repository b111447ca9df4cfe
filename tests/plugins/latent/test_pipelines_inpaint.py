"""Folders of StableDiffusionInpaintPipeline, whose network sees a mask and a picture: our pixels are theirs."""

import json

import numpy as np
import pytest
import torch
from zoo_diffusion.pixels import to_float
from zoo_latent.config import read_config
from zoo_latent.plugin import list_tasks
from zoo_latent.tasks import InpaintSeen

from zoo.errors import InvalidFileError
from zoo.hookspecs import TasksRequest

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


def _made(folder):
    from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    pipeline = StableDiffusionInpaintPipeline(
        text_encoder=text_encoder(),
        vae=vae(),
        tokenizer=tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    saved(pipeline, folder)
    file = folder / "unet" / "config.json"  # the pipeline itself draws any size, but only has one number for it
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": [8, 12]}))
    return pipeline


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "inpaint"
    return folder, _made(folder)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_same_pixels_as_stable_diffusion_inpainting(first, guidance):
    """Given the mean of the masked picture's latents, which diffusers draws; and where the mask redraws."""
    folder, pipeline = first
    inpaint, seeds = built(folder, InpaintSeen), torch.tensor([1, 2])
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 16, 24, 3), generator=generator, dtype=torch.uint8)
    mask = torch.zeros(2, 16, 24, 1, dtype=torch.uint8)
    mask[0, 3:11, 5:20] = 255
    mask[1, :9, 11:] = 128
    redrawn = (mask >= 128).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        ours = inpaint(
            image, mask, seeds, torch.tensor(STEPS), texts(*PROMPTS), texts("", ""), torch.full((2,), guidance)
        )
        masked = pipeline.vae.encode(to_float(image) * (1 - redrawn)).latent_dist.mean
        theirs = pipeline(
            list(PROMPTS),
            image=image.permute(0, 3, 1, 2) / 255,
            mask_image=redrawn,
            masked_image_latents=masked * pipeline.vae.config.scaling_factor,
            height=16,
            width=24,
            latents=inpaint.noise(seeds, 0),
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="np",
        ).images
    kept = (mask < 128).expand_as(image)
    assert (ours[kept] == image[kept]).all()
    assert_same_pixels(ours, np.where(kept.numpy(), image.numpy() / 255, theirs))


def test_it_only_inpaints(first):
    c, _ = read_config(config := imported(first[0]).config)
    assert c.network.inpaints and c.network.size == (8, 12)
    tasks = list_tasks(TasksRequest(family="latent", config=config))
    assert list(tasks.tasks) == ["inpaint", "encode", "decode"] and tasks.default == "inpaint"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "unet/config.json",
            {"in_channels": 4},
            "in_channels is 4; with 4 out_channels in a StableDiffusionInp.* be 9",
        ),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "in_channels is 9; .* it must be 4"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(first, tmp_path, file, changes, message):
    with pytest.raises(InvalidFileError, match=message) as caught:
        imported(changed(first[0], tmp_path, file, **changes))
    assert "\n" not in str(caught.value)
