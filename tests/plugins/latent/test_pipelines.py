"""Folders of Stable Diffusion, made by diffusers with random weights: our pixels are theirs."""

import inspect
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from zoo_latent.pipelines import import_checkpoint
from zoo_latent.plugin import build_module
from zoo_latent.schedulers import read_flow, read_schedule
from zoo_latent.tasks import Generate

from zoo.build import foreign
from zoo.errors import InvalidFileError
from zoo.hookspecs import BuildRequest, ImportRequest

from .clip_files import ASSETS, VOCABULARY

PROMPTS = ("a red cat in the rain", "the blue dog")
STEPS = 5


def _made(folder, *, scheduler=None, **unet):
    """A small pipeline, saved; returns it."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    folder.mkdir()
    files = folder / "files"
    files.mkdir()
    for name, data in ASSETS.items():
        (files / name).write_bytes(data)
    numbers = json.loads(ASSETS[VOCABULARY])
    tokenizer = CLIPTokenizer.from_pretrained(files, model_max_length=16, pad_token="<|endoftext|>")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(numbers),
            max_position_embeddings=16,
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=numbers["<|startoftext|>"],
            eos_token_id=numbers["<|endoftext|>"],
            pad_token_id=numbers["<|endoftext|>"],
        )
    )
    for parameter in text.parameters():  # so that the words matter
        torch.nn.init.normal_(parameter, std=0.3)
    sizes = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    }
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.5,
    )
    scheduler = scheduler or DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**(sizes | unet)),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    for name, data in ASSETS.items():
        (folder / "tokenizer" / name).write_bytes(data)
    shutil.rmtree(files)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _imported(folder):
    found = foreign.read(folder)
    return import_checkpoint(
        ImportRequest(family="latent", path=found.path, tensors=found.tensors, config=found.config)
    )


def _same_pixels(folder, pipeline, guidance, monkeypatch=None):
    """With `monkeypatch`, for schedulers that add noise: theirs add ours."""
    imported = _imported(folder)
    module = build_module(BuildRequest(family="latent", config=imported.config, assets=imported.assets))
    module.load_state_dict(imported.state_dict)
    from zoo_latent.config import read_config

    generate = Generate(module.eval(), read_config(imported.config)[0])
    seeds = torch.tensor([1, 2])
    rows = [list(text.encode()) for text in PROMPTS]
    texts = torch.tensor([row + [0] * (32 - len(row)) for row in rows], dtype=torch.uint8)
    with torch.no_grad():
        noise = generate.noise(seeds, 0)
        if monkeypatch:
            module, streams = inspect.getmodule(type(pipeline.scheduler)), itertools.count(1)
            monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: generate.noise(seeds, next(streams)))
        ours = generate(seeds, torch.tensor(STEPS), texts, torch.zeros_like(texts), torch.full((2,), guidance)).numpy()
        theirs = pipeline(
            list(PROMPTS), latents=noise, num_inference_steps=STEPS, guidance_scale=guidance, output_type="np"
        ).images
    theirs = np.round(theirs * 255).astype(int)
    assert theirs.std() > 5, "a picture of one colour would hide differences"
    assert np.abs(theirs[0] - theirs[1]).max() > 5
    assert (np.abs(ours.astype(int) - theirs) <= 1).mean() >= 0.999


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "first"
    return folder, _made(folder)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_same_pixels_as_stable_diffusion_1(first, guidance):
    _same_pixels(*first, guidance)


def test_same_pixels_as_stable_diffusion_2(tmp_path):
    """Linear projections, a number of heads per level, v, a trailing schedule that ends in pure noise."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # without effect
    )
    folder = tmp_path / "second"
    pipeline = _made(folder, scheduler=scheduler, use_linear_projection=True, attention_head_dim=[2, 4])
    _same_pixels(folder, pipeline, 7.5)


SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
V = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
OTHERS = {
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "euler linspace": ("EulerDiscreteScheduler", {}),
    "euler karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler to the first timestep": ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}),
    "euler v": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"} | V),
    "ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "dpm": ("DPMSolverMultistepScheduler", {}),
    "dpm karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm sde karras": (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
    ),
    "lcm": ("LCMScheduler", {}),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_same_pixels_with_each_scheduler(first, tmp_path, case, guidance, monkeypatch):
    import diffusers

    folder, pipeline = first
    kind, said = OTHERS[case]
    scheduler = getattr(diffusers, kind)(**SCHEDULE, **said)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    scheduler.save_config(other / "scheduler")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", kind]}))
    monkeypatch.setattr(pipeline, "scheduler", scheduler)
    noisy = any(word in case for word in ("ancestral", "sde", "lcm"))
    _same_pixels(other, pipeline, guidance, monkeypatch if noisy else None)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("EulerDiscreteScheduler", "interpolation_type", "log_linear"),
        ("EulerDiscreteScheduler", "use_beta_sigmas", True),
        ("DPMSolverMultistepScheduler", "solver_order", 3),
        ("DPMSolverMultistepScheduler", "algorithm_type", "dpmsolver"),
        ("DPMSolverMultistepScheduler", "rescale_betas_zero_snr", True),
        ("DPMSolverMultistepScheduler", "timestep_spacing", "leading"),
        ("LCMScheduler", "original_inference_steps", 100),
        ("DDIMScheduler", "timestep_spacing", "linspace"),
    ],
)
def test_a_scheduler_that_asks_for_what_is_not_computed(tmp_path, kind, field, value):
    (tmp_path / "scheduler").mkdir()
    said = {"_class_name": kind, "clip_sample": False, field: value}
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(said))
    with pytest.raises(InvalidFileError, match=f"{field} is {value}"):
        read_schedule(tmp_path)


def test_the_scheduler_of_stable_diffusion_3_is_read():
    import diffusers

    said = dict(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    said |= {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    c = read_flow(said)
    assert (c.prediction, c.sampler, c.spacing, c.shift, c.clip) == ("flow", "euler", "linspace", 3.0, False)
    with pytest.raises(InvalidFileError, match="use_dynamic_shifting is True; only False"):
        read_flow(said | {"use_dynamic_shifting": True})


def _changed(folder, tmp_path, file, **changes):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / file).read_text())
    (other / file).write_text(json.dumps(config | changes))
    return other


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "_class_name is FluxPipeline; only StableDiffusionPipe"),
        ("model_index.json", {"unet": ["diffusers", "UNet3DConditionModel"]}, "unet is UNet3DConditionModel; only"),
        ("model_index.json", {"text_encoder": [None, None]}, "text_encoder is missing"),
        ("scheduler/scheduler_config.json", {"_class_name": "HeunDiscreteScheduler"}, "is HeunDiscreteScheduler; on"),
        ("unet/config.json", {"cross_attention_dim": 48}, "cross_attention_dim is 48; the text encoder's hidden_size"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type is timestep; that is not supported"),
        ("unet/config.json", {"attention_head_dim": [2, 8]}, r"attention_head_dim is \[2, 8\]; all levels must have"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is relu; only quick_gelu, gelu"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(first, tmp_path, file, changes, message):
    with pytest.raises(InvalidFileError, match=message) as caught:
        _imported(_changed(first[0], tmp_path, file, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer/merges.txt", "tokenizer/merges.txt is missing"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json is missing"),
        ("unet/config.json", "unet/config.json is missing"),
        ("vae/diffusion_pytorch_model.safetensors", "vae is missing: its folder contains no weights"),
    ],
)
def test_a_missing_file_is_named(first, tmp_path, missing, message):
    other = tmp_path / "other"
    shutil.copytree(first[0], other)
    (other / missing).unlink()
    with pytest.raises(InvalidFileError, match=message):
        _imported(other)
