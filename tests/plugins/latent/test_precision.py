"""Pipelines whose weights are stored in half precision, and large ones, which have fewer golden cases."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo_latent.plugin import list_tasks

from zoo.build.weights import round_to_half
from zoo.hookspecs import Golden, TasksRequest

from ...cli.commands import zoo
from .models import NETWORK, plain
from .pipelines import PROMPTS, STEPS, assert_same_pixels, built, texts
from .test_pipelines import _made


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path_factory.getbasetemp() / "zoo-home"))


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    """A pipeline that was saved in half precision, and the same in diffusers, which computes in float32."""
    folder = tmp_path_factory.mktemp("half") / "pipeline"
    pipeline = _made(folder).to(torch.float16)
    pipeline.save_pretrained(folder)
    return folder, pipeline.to(torch.float32)


def test_a_pipeline_in_half_precision_draws_what_diffusers_draws(rounded):
    """Its weights, rounded as `--precision fp16` does, which changes none of them: they were saved so."""
    folder, pipeline = rounded
    generate, seeds = built(folder), torch.tensor([1, 2])
    before = {name: tensor.clone() for name, tensor in generate.state_dict().items()}
    assert len(round_to_half(generate)) > 50
    assert all(torch.equal(before[name], tensor) for name, tensor in generate.state_dict().items())
    with torch.no_grad():
        noise = generate.noise(seeds, 0)
        ours = generate(seeds, torch.tensor(STEPS), texts(*PROMPTS), texts("", ""), torch.full((2,), 7.5))
        theirs = pipeline(
            list(PROMPTS), latents=noise, num_inference_steps=STEPS, guidance_scale=7.5, output_type="np"
        ).images
    assert_same_pixels(ours, theirs)


def test_nan_in_half_precision_is_one_line(rounded, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(rounded[0], broken)
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    assert tensors["conv_in.weight"].dtype == torch.float16
    tensors["conv_in.weight"][0, 0, 0, 0] = torch.nan
    save_file(tensors, file)
    outcome = zoo("import", "latent", broken, "--out", tmp_path / "out", "--license", "MIT", "--precision", "fp16")
    assert outcome.code != 0 and outcome.out == ""
    assert outcome.err == f"Error: {file}: the tensor 'conv_in.weight' contains NaN or infinity\n"
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(("side", "cases"), [(126, 0), (128, 1)])
def test_large_pictures_have_one_golden_case_of_two_steps(side, cases):
    """The codec of these configs halves the sides of a picture once; at 256 pixels it is large."""
    config = plain(network={**NETWORK, "num_classes": 3, "image_size": side})
    tasks = list_tasks(TasksRequest(family="latent", config=config, classes=()))
    expected = {"generate": Golden(cases=1, values={"steps": 2}, counts=()), "decode": Golden(cases=1)}
    for name, golden in expected.items():
        assert tasks.golden.get(name, Golden()) == (golden if cases else Golden())
