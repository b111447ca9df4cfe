"""Folders of Stable Diffusion, made by diffusers with random weights: our pixels are theirs."""

import inspect
import itertools
import json
import shutil

import pytest
import torch
from zoo_latent.schedulers import KINDS, read_flow, read_schedule

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


def _made(folder, *, scheduler=scheduler, vae=vae, **unet):
    """A small pipeline, saved; returns it."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    }
    pipeline = StableDiffusionPipeline(
        text_encoder=text_encoder(),
        vae=vae(),
        tokenizer=tokenizer(folder / "tokenizer"),
        unet=UNet2DConditionModel(**(sizes | unet)),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return saved(pipeline, folder)


def _same_pixels(folder, pipeline, guidance, monkeypatch=None):
    """With `monkeypatch`, for schedulers that add noise: theirs add ours."""
    generate, seeds = built(folder), torch.tensor([1, 2])
    negative = texts("", "")
    pipeline.scheduler.set_timesteps(STEPS)
    passes = torch.tensor(len(pipeline.scheduler.timesteps))
    with torch.no_grad():
        noise = generate.noise(seeds, 0)
        if monkeypatch:
            module, streams = inspect.getmodule(type(pipeline.scheduler)), itertools.count(1)
            monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: generate.noise(seeds, next(streams)))
        ours = generate(seeds, passes, texts(*PROMPTS), negative, torch.full((2,), guidance))
        theirs = pipeline(
            list(PROMPTS), latents=noise, num_inference_steps=STEPS, guidance_scale=guidance, output_type="np"
        ).images
    assert_same_pixels(ours, theirs)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "first"
    return folder, _made(folder)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_same_pixels_as_stable_diffusion_1(first, guidance):
    _same_pixels(*first, guidance)


def test_same_pixels_as_stable_diffusion_2(tmp_path):
    """Linear projections, a number of heads per level, v, a trailing schedule that ends in pure noise."""

    def trailing():
        return scheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
        )

    folder = tmp_path / "second"
    pipeline = _made(folder, scheduler=trailing, use_linear_projection=True, attention_head_dim=[2, 4])
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
    "heun": ("HeunDiscreteScheduler", {}),
    "heun karras": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc karras": ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
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
        ("PNDMScheduler", "skip_prk_steps", False),
        ("PNDMScheduler", "timestep_spacing", "trailing"),
        ("UniPCMultistepScheduler", "solver_order", 3),
        ("UniPCMultistepScheduler", "solver_type", "bh1"),
        ("UniPCMultistepScheduler", "sigma_min", 0.1),
        ("UniPCMultistepScheduler", "sigma_max", 20.0),
        ("DDIMScheduler", "timestep_spacing", "linspace"),
    ],
)
def test_a_scheduler_that_asks_for_what_is_not_computed(tmp_path, kind, field, value):
    (tmp_path / "scheduler").mkdir()
    said = {"_class_name": kind, "clip_sample": False, "skip_prk_steps": True, field: value}
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(said))
    with pytest.raises(InvalidFileError, match=f"{field} is {value}"):
        read_schedule(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_another_scheduler_left_in_the_file_has_no_effect(tmp_path, kind):
    """As in Stable Diffusion's files, whose first scheduler was PNDM's; diffusers looks at its class's fields only."""
    (tmp_path / "scheduler").mkdir()

    def read(**more):
        said = SCHEDULE | {"_class_name": kind, "clip_sample": False, "steps_offset": 1} | more
        (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(said))
        return read_schedule(tmp_path)

    own = {"skip_prk_steps": True} if kind == "PNDMScheduler" else {}
    plain = read(**own)
    assert read(skip_prk_steps=True) == plain
    if kind not in ("DDIMScheduler", "PNDMScheduler"):
        assert read(skip_prk_steps=True, set_alpha_to_one=False) == plain


def test_the_scheduler_of_stable_diffusion_3_is_read():
    import diffusers

    said = dict(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    said |= {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    c = read_flow(said)
    assert (c.prediction, c.sampler, c.spacing, c.shift, c.clip) == ("flow", "euler", "linspace", 3.0, False)
    with pytest.raises(InvalidFileError, match="use_dynamic_shifting is True; only False"):
        read_flow(said | {"use_dynamic_shifting": True})


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "_class_name is FluxPipeline; only StableDiffusionPipe"),
        ("model_index.json", {"unet": ["diffusers", "UNet3DConditionModel"]}, "unet is UNet3DConditionModel; only"),
        ("model_index.json", {"text_encoder": [None, None]}, "text_encoder is missing"),
        ("scheduler/scheduler_config.json", {"_class_name": "KDPM2DiscreteScheduler"}, "is KDPM2DiscreteScheduler; o"),
        ("unet/config.json", {"cross_attention_dim": 48}, "cross_attention_dim is 48; the text encoder's hidden_size"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type is timestep; that is not supported"),
        ("unet/config.json", {"attention_head_dim": [2, 8]}, r"attention_head_dim is \[2, 8\]; all levels must have"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is relu; only quick_gelu, gelu"),
        (
            "tokenizer/tokenizer_config.json",
            {"model_max_length": 12},
            "model_max_length is 12; .*_embeddings is 16, which",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(first, tmp_path, file, changes, message):
    with pytest.raises(InvalidFileError, match=message) as caught:
        imported(changed(first[0], tmp_path, file, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer/merges.txt", "tokenizer/merges.txt is missing, and so is tokenizer/tokenizer.json"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json is missing"),
        ("unet/config.json", "unet/config.json is missing"),
        ("vae/diffusion_pytorch_model.safetensors", "vae is missing: its folder contains no weights"),
    ],
)
def test_a_missing_file_is_named(first, tmp_path, missing, message):
    other = tmp_path / "other"
    shutil.copytree(first[0], other)
    (other / "tokenizer" / "tokenizer.json").unlink()
    (other / missing).unlink()
    with pytest.raises(InvalidFileError, match=message):
        imported(other)


def test_a_tokenizer_in_one_file_is_the_same(first, tmp_path):
    """As transformers writes it since version 5, without vocab.json and merges.txt."""
    other = tmp_path / "other"
    shutil.copytree(first[0], other)
    for name in ("vocab.json", "merges.txt"):
        (other / "tokenizer" / name).unlink()
    expected, found = imported(first[0]).state_dict, imported(other).state_dict
    tables = [name for name in expected if name.startswith("text.tokenize.")]
    assert tables and all(torch.equal(expected[name], found[name]) for name in tables)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {"vocab": {}}}', '{"model": {"vocab": {}, "merges": [3]}}'])
def test_a_tokenizer_without_merges_is_refused(first, tmp_path, text):
    other = tmp_path / "other"
    shutil.copytree(first[0], other)
    (other / "tokenizer" / "merges.txt").unlink()
    (other / "tokenizer" / "tokenizer.json").write_text(text)
    with pytest.raises(InvalidFileError, match=r"tokenizer/tokenizer.json has no vocab with merges: ") as caught:
        imported(other)
    assert "\n" not in str(caught.value)
