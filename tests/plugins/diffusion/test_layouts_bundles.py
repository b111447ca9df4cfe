"""Whole bundles that `zoo import` makes of checkpoints: they give the reference's numbers, replay, and draw."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from zoo_diffusion.plugin import list_tasks
from zoo_diffusion.ports import PLAN_COLUMNS

import zoo as package
from tests.cli.commands import zoo
from zoo.build import random
from zoo.formats import manifest as manifests
from zoo.hookspecs import TasksRequest
from zoo.runtime import open_session

from .checkpoints import assert_same, given, imported, unet2d


def step_of(bundle: Path, inputs: dict[str, Tensor], i: int) -> np.ndarray:
    """What the exported step says of picture i, as x0: its row takes the network's output for the picture."""
    from zoo_diffusion.sampling import Row

    x = inputs["x"][i : i + 1].numpy()
    row = np.zeros(PLAN_COLUMNS, np.float32)
    row[Row._fields.index("t")], row[Row._fields.index("from_output")] = float(inputs["t"][i]), 1.0
    feed = {"x": x, "previous_x0": np.zeros_like(x), "row": row}
    if "label" in inputs:
        feed["label"] = inputs["label"][i : i + 1].numpy()
    session = open_session(bundle / "generate_step.onnx", "cpu")
    if "guidance" in session.inputs:
        feed["guidance"] = np.ones(1, np.float32)
    return session.run(feed)["x0"]


def whole(bundle: Path, tasks: set[str], *, exported: set[str] | None = None) -> None:
    """The bundle has these tasks, its golden cases come out again, and it draws a picture.

    Args:
        exported: those that were chosen of them; all unless given.
    """
    manifest = manifests.read(bundle)
    fit = list_tasks(TasksRequest(family=manifest.family, config=manifest.config | {"tasks": []})).tasks
    for found, expected in ((fit, tasks), (manifest.tasks, exported or tasks)):
        assert {name for name, task in found.items() if not task.part_of} == expected
    outcome = zoo("verify", bundle, "--replay")
    assert outcome.code == 0 and "differs" not in outcome.out, outcome.out
    picture = bundle.with_suffix(".png")
    assert zoo("run", bundle, "generate", "--seed", 1, "--steps", 5, "--out", picture).code == 0
    pixels = np.asarray(Image.open(picture))
    port = manifests.read(bundle).tasks["generate"].outputs["image"]
    assert pixels.reshape(1, *port.shape[1:]).std() > 5  # of a shape that fits, and not of one colour


PICTURES = {"generate", "inpaint", "upscale2", "upscale4", "denoise", "variations"}


@pytest.mark.slow
@pytest.mark.shared
def test_a_bundle_gives_the_references_numbers(shared_data, tmp_path, monkeypatch):
    """`zoo import` from file to bundle. Latents of four channels, so that there are few tasks to export."""
    folder = shared_data / "parity/dit/dit_p2_sigma"
    out, _ = imported(tmp_path, monkeypatch, "dit", folder)
    inputs, expected = given(folder)
    for i in range(len(expected)):
        got = torch.from_numpy(step_of(out, inputs, i))
        assert_same(got, expected[i : i + 1, : inputs["x"].shape[1]])


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_diffusers_pipeline(tmp_path, monkeypatch, channels):
    """model_index.json, unet/ and scheduler/, as diffusers writes them; the bundle gives its model's numbers.

    Only the one in colour exports all its tasks: tests/contract/ has all of a grey model.
    """
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    small = {"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    config, tensors = unet2d(in_channels=channels, out_channels=channels, add_attention=False, **small)
    model = UNet2DModel(**config).eval()
    model.load_state_dict(tensors)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=500)
    DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(tmp_path / "pipeline")
    chosen = [] if channels == 3 else ["--tasks", "generate"]
    out, told = imported(tmp_path, monkeypatch, "ddpm", tmp_path / "pipeline", *chosen)
    assert f"diffusers UNet2DModel: used {len(tensors)} of {len(tensors)} tensors\n" in told
    assert "draws with DPM-Solver++(2M), not with DDPMScheduler's ddpm; for that, use zoo build" in told
    diffusion = manifests.read(out).config["diffusion"]
    assert (diffusion["schedule"], diffusion["num_timesteps"], diffusion["sampler"]) == ("cosine", 500, "dpm++2m")
    inputs = {"x": torch.randn(2, channels, 8, 8), "t": torch.tensor([3.0, 480.0])}
    with torch.no_grad():
        expected = model(inputs["x"], inputs["t"]).sample.clamp(-1, 1)  # as the step does with the picture
    for i in range(2):
        assert_same(torch.from_numpy(step_of(out, inputs, i)), expected[i : i + 1])
    if channels == 3:
        whole(out, PICTURES | {"colorize"})
    else:
        whole(out, PICTURES, exported={"generate"})


@pytest.mark.slow
def test_an_imported_model_with_another_sampler_draws_as_diffusers_does(tmp_path, monkeypatch):
    """`zoo build MODEL --sampler`: the weights' bytes stay, and of the same noise comes what the pipeline makes of it.

    Of four channels, so that there are few tasks to export.
    """
    import diffusers

    small = {"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    config, tensors = unet2d(in_channels=4, out_channels=4, add_attention=False, **small)
    model = diffusers.UNet2DModel(**config).eval()
    model.load_state_dict(tensors)
    # Latents are not clipped. Clipped while the noise is not, as diffusers does, what an untrained network draws is so
    # sensitive that rounding grows to 3e-4 in 50 steps.
    said = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500, "clip_sample": False}
    diffusers.DDPMPipeline(model, diffusers.DDPMScheduler(**said)).save_pretrained(tmp_path / "pipeline")
    bundle, _ = imported(tmp_path, monkeypatch, "ddpm", tmp_path / "pipeline")
    before, digest = manifests.read(bundle), manifests.describe_file(bundle / "model.yaml").sha256
    seeds, steps = np.arange(3), 10
    drawn = [package.load(str(bundle), device="cpu").generate(seed=seeds, steps=steps)["latents"]]
    for sampler, scheduler in (("ddim", "DDIMScheduler"), ("ddpm", "DDPMScheduler")):
        out = tmp_path / sampler
        outcome = zoo("build", bundle, "--sampler", sampler, "--out", out)
        assert outcome.code == 0 and outcome.out == f"{out}\n", outcome.err
        manifest = manifests.read(out)
        assert manifest.config["diffusion"] == before.config["diffusion"] | {"sampler": sampler}
        assert manifest.files["model.safetensors"] == before.files["model.safetensors"]
        assert manifest.training.parent == f"bundle:1@sha256:{digest}"
        assert ("seed" in manifest.tasks["generate_step"].inputs) == (sampler == "ddpm")  # it adds noise
        assert zoo("verify", out, "--replay").code == 0
        drawn.append(package.load(str(out), device="cpu").generate(seed=seeds, steps=steps)["latents"])

        theirs = getattr(diffusers, scheduler)(**said, timestep_spacing=before.config["diffusion"]["spacing"])
        theirs.set_timesteps(steps)
        x, *fresh = (random.normal(torch.from_numpy(seeds), (4, 8, 8), stream) for stream in range(steps + 1))
        fresh = iter(fresh)
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, fresh=fresh, **__: next(fresh)
        )
        for t in theirs.timesteps:
            with torch.no_grad():
                x = theirs.step(model(x, t).sample, t, x).prev_sample
        torch.testing.assert_close(torch.from_numpy(drawn[-1]), x, rtol=1e-3, atol=1e-3)
    assert len({latents.tobytes() for latents in drawn}) == 3


@pytest.mark.slow
@pytest.mark.shared
def test_a_whole_guided_diffusion_checkpoint(shared_data, tmp_path, monkeypatch):
    folder = shared_data / "parity/openai/adm_scale_shift_sigma"  # 64x64: an export of all its tasks takes two minutes
    out, told = imported(tmp_path, monkeypatch, "ddpm", folder, "--tasks", "generate")
    assert "openai guided-diffusion: used 128 of 128 tensors\n" in told
    assert manifests.read(out).config["diffusion"]["variance"] == "learned"
    whole(out, PICTURES | {"colorize"}, exported={"generate"})
