"""Import of public checkpoints: the reference's numbers in torch and in the graph, or one line and no bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo_diffusion import plugin
from zoo_diffusion.layouts import scheduler as scheduler_config

import zoo as package
from tests.cli.commands import zoo
from zoo.build import foreign, random
from zoo.build.tracing import export_task
from zoo.build.train import load_weights
from zoo.build.weights import Weights
from zoo.errors import InvalidFileError
from zoo.formats import manifest as manifests
from zoo.hookspecs import BuildRequest, Imported, ImportRequest, Port, Task
from zoo.runtime import open_session

from . import recorded

CASES = {
    "diffusers/unet2d_ddpm": "ddpm",
    "diffusers/unet2d_class_embed": "ddpm",
    "diffusers/unet2d_default_flags": "ddpm",
    "diffusers/unet2d_scale_shift": "ddpm",
    "openai/adm_scale_shift_sigma": "ddpm",
    "openai/improved_class_plain": "ddpm",
    "dit/dit_p2_sigma": "dit",
    "dit/dit_p4_nosigma_nodrop": "dit",
    "diffusers/dit_tiny": "dit",
}


def importing(family: str, path: Path, **over) -> Imported | None:
    read = foreign.read(path)
    said = {"tensors": read.tensors, "config": read.config} | over
    return plugin.import_checkpoint(ImportRequest(family=family, path=read.path, **said))


def rebuilt(family: str, imported: Imported) -> nn.Module:
    module = plugin.build_module(BuildRequest(family=family, config=imported.config))
    load_weights(module, imported.state_dict)
    return module.eval()


def given(folder: Path, number: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """A case's inputs under our names, and its output."""
    io = recorded.io(folder)
    names = {"x": ("x", "sample"), "t": ("t", "timestep"), "label": ("y", "class_labels")}
    inputs = {ours: io[name][:number] for ours, known in names.items() for name in known if name in io}
    return inputs | {"t": inputs["t"].float()}, io["out"][:number]


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """1e-4 relative, to each value or, near 0, to the largest of the output."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


# --- Parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_torch_gives_the_references_numbers(shared_data, case):
    folder, family = shared_data / "parity" / case, CASES[case]
    imported = importing(family, folder)
    inputs, out = given(folder)
    with torch.no_grad():
        assert_same(rebuilt(family, imported)(*inputs.values()), out)
    assert imported.unused == ()


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_the_graph_of_the_network_gives_the_references_numbers(shared_data, tmp_path, case):
    folder, family = shared_data / "parity" / case, CASES[case]
    module = rebuilt(family, importing(family, folder))
    inputs, out = given(folder)
    x = Port(kind="tensor", dtype="float32", shape=("batch", *inputs["x"].shape[1:]))
    ports = {"x": x, "t": Port(kind="tensor", dtype="float32", shape=("batch",), minimum=0.0, maximum=999.0)}
    if "label" in inputs:
        ports["label"] = Port(kind="label", dtype="int64", shape=("batch",), minimum=0, maximum=9)
    outputs = {"out": Port(kind="tensor", dtype="float32", shape=("batch", *out.shape[1:]))}
    task = Task(summary="The network alone", inputs=ports, outputs=outputs)
    export_task(module, "network", task, Weights(module, ("model",), tmp_path), tmp_path / "network.onnx")
    got = open_session(tmp_path / "network.onnx", "cpu").run({name: v.numpy() for name, v in inputs.items()})["out"]
    assert_same(torch.from_numpy(got), out)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["dit_p2_sigma", "dit_p4_nosigma_nodrop"])
def test_guidance_is_dits_own(shared_data, case):
    """forward_with_cfg guides the first three channels only, and so do we; of the learned variance nothing."""
    from zoo_diffusion import sampling

    folder = shared_data / "parity/dit" / case
    io, config = recorded.io(folder), importing("dit", folder).config
    assert config["diffusion"]["guided_channels"] == 3 and not config["diffusion"]["clip"]
    module, half = rebuilt("dit", importing("dit", folder)), len(io["x_cfg"]) // 2
    x, t, labels = io["x_cfg"][:half], io["t"].float()[:half], (io["y"][:half], io["y"][half:])
    channels = config["network"]["image_channels"]
    with torch.no_grad():
        conditional, other = (module(x, t, label)[:, :channels] for label in labels)
    guided = sampling.guided(other, conditional, torch.tensor([3.0]), config["diffusion"]["guided_channels"])
    theirs = io["out_cfg3"][:half, :channels]
    assert_same(guided, theirs)


def imported(tmp_path: Path, monkeypatch, family: str, source: Path) -> tuple[Path, str]:
    """The bundle that `zoo import` makes of a checkpoint, and what it says."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    out = tmp_path / "bundle"
    outcome = zoo("import", family, source, "--out", out)
    assert outcome.code == 0, outcome.err
    return out, outcome.err


def step_of(bundle: Path, inputs: dict[str, Tensor], i: int) -> np.ndarray:
    """What the exported step says of picture i, as x0: its row takes the network's output for the picture."""
    from zoo_diffusion.sampling import Row

    x = inputs["x"][i : i + 1].numpy()
    row = np.zeros(len(Row._fields), np.float32)
    row[Row._fields.index("t")], row[Row._fields.index("from_output")] = float(inputs["t"][i]), 1.0
    feed = {"x": x, "previous_x0": np.zeros_like(x), "row": row}
    if "label" in inputs:
        feed["label"] = inputs["label"][i : i + 1].numpy()
    session = open_session(bundle / "generate_step.onnx", "cpu")
    if "guidance" in session.inputs:
        feed["guidance"] = np.ones(1, np.float32)
    return session.run(feed)["x0"]


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


# --- What is read besides the tensors ---------------------------------------------------------------------------------


def unet2d(**over) -> tuple[dict, dict[str, Tensor]]:
    """A small checkpoint of diffusers' UNet2DModel, config and tensors."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4,
    } | over
    model = UNet2DModel(**config)
    return config, model.state_dict()


def write_unet2d(folder: Path, tensors: dict[str, Tensor], config: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def whole(bundle: Path, tasks: set[str], *words: object) -> None:
    """The bundle has these tasks, its golden cases come out again, and it draws a picture."""
    assert {name for name, task in manifests.read(bundle).tasks.items() if not task.part_of} == tasks
    outcome = zoo("verify", bundle, "--replay")
    assert outcome.code == 0 and "differs" not in outcome.out, outcome.out
    picture = bundle.with_suffix(".png")
    assert zoo("run", bundle, "generate", "--seed", 1, "--steps", 5, *words, "--out", picture).code == 0
    pixels = np.asarray(Image.open(picture))
    port = manifests.read(bundle).tasks["generate"].outputs["image"]
    assert pixels.reshape(1, *port.shape[1:]).std() > 5  # of a shape that fits, and not of one colour


PICTURES = {"generate", "inpaint", "upscale2", "upscale4", "denoise", "variations"}


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_diffusers_pipeline(tmp_path, monkeypatch, channels):
    """model_index.json, unet/ and scheduler/, as diffusers writes them; the bundle gives its model's numbers."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    small = {"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    config, tensors = unet2d(in_channels=channels, out_channels=channels, add_attention=False, **small)
    model = UNet2DModel(**config).eval()
    model.load_state_dict(tensors)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=500)
    DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(tmp_path / "pipeline")
    out, told = imported(tmp_path, monkeypatch, "ddpm", tmp_path / "pipeline")
    assert f"diffusers UNet2DModel: took {len(tensors)} of {len(tensors)} tensors\n" in told
    assert "draws with DPM-Solver++(2M) and not with DDPMScheduler's ddpm: zoo build" in told
    diffusion = manifests.read(out).config["diffusion"]
    assert (diffusion["schedule"], diffusion["num_timesteps"], diffusion["sampler"]) == ("cosine", 500, "dpm++2m")
    inputs = {"x": torch.randn(2, channels, 8, 8), "t": torch.tensor([3.0, 480.0])}
    with torch.no_grad():
        expected = model(inputs["x"], inputs["t"]).sample.clamp(-1, 1)  # as the step does with the picture
    for i in range(2):
        assert_same(torch.from_numpy(step_of(out, inputs, i)), expected[i : i + 1])
    whole(out, PICTURES | ({"colorize"} if channels == 3 else set()))


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
    said = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500}
    diffusers.DDPMPipeline(model, diffusers.DDPMScheduler(**said)).save_pretrained(tmp_path / "pipeline")
    bundle, _ = imported(tmp_path, monkeypatch, "ddpm", tmp_path / "pipeline")
    before, digest = manifests.read(bundle), manifests.describe_file(bundle / "model.yaml").sha256
    seeds, steps = np.arange(3), 6
    drawn = [package.load(str(bundle), device="cpu").generate(seed=seeds, steps=steps)["latents"]]
    for sampler, scheduler in (("ddim", "DDIMScheduler"), ("ddpm", "DDPMScheduler")):
        out = tmp_path / sampler
        outcome = zoo("build", bundle, "--sampler", sampler, "--out", out)
        assert outcome.code == 0 and outcome.out == f"{out}\n", outcome.err
        manifest = manifests.read(out)
        assert manifest.config["diffusion"] == before.config["diffusion"] | {"sampler": sampler}
        assert manifest.files["model.safetensors"] == before.files["model.safetensors"]
        assert manifest.training.parent == f"bundle:1@sha256:{digest}"
        assert zoo("verify", out, "--replay").code == 0
        drawn.append(package.load(str(out), device="cpu").generate(seed=seeds, steps=steps)["latents"])

        theirs = getattr(diffusers, scheduler)(**said, timestep_spacing=before.config["diffusion"]["spacing"])
        theirs.set_timesteps(steps)
        x, *fresh = (random.normal(torch.from_numpy(seeds), (4, 8, 8), stream) for stream in range(steps + 1))
        fresh = iter(fresh)
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, fresh=fresh, **__: next(fresh)
        )
        options = {"use_clipped_model_output": True} if sampler == "ddim" else {}
        for t in theirs.timesteps:
            with torch.no_grad():
                x = theirs.step(model(x, t).sample, t, x, **options).prev_sample
        torch.testing.assert_close(torch.from_numpy(drawn[-1]), x, rtol=1e-3, atol=1e-3)
    assert len({latents.tobytes() for latents in drawn}) == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--sampler", "euler"], "diffusion.sampler is 'euler'; it must be ddim or ddpm or dpm++2m"),
        (["--sampler", "ddim", "--set", "diffusion.eta=2"], "diffusion.eta is 2; it must be a number from 0 to 1"),
        (["--set", 'tasks=["generat"]'], "'generat' is none of "),
    ],
)
def test_what_a_model_cannot_be_built_with_is_one_line(tmp_path, monkeypatch, words, line):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    outcome = zoo("build", "ddpm-fashion", *words, "--out", tmp_path / "out")
    assert outcome.code != 0 and line in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert [p.name for p in tmp_path.iterdir() if p.name != "home"] == []


@pytest.mark.slow
@pytest.mark.shared
def test_a_whole_guided_diffusion_checkpoint(shared_data, tmp_path, monkeypatch):
    out, told = imported(tmp_path, monkeypatch, "ddpm", shared_data / "parity/openai/adm_scale_shift_sigma")
    assert "openai guided-diffusion: took 128 of 128 tensors\n" in told
    assert manifests.read(out).config["diffusion"]["variance"] == "learned"
    whole(out, PICTURES | {"colorize"})


@pytest.mark.parametrize(
    ("network", "said", "line"),
    [
        ({}, None, "no scheduler_config.json: took Ho et al.'s linear schedule of 1,000 steps, and predicted noise"),
        ({}, {"_class_name": "DDIMScheduler"}, "draws with DPM-Solver++(2M) and not with DDIMScheduler's ddim: "
                                               "zoo build --sampler ddim gives that"),
        ({"num_class_embeds": 3}, None, "has no null label, so no guidance"),
        ({"in_channels": 4, "out_channels": 4}, None, "draws latents of 4 channels; their decoder is another model"),
    ],
)  # fmt: skip
def test_what_is_assumed_and_what_lacks_is_said(tmp_path, network, said, line):
    config, tensors = unet2d(**network)
    folder = write_unet2d(tmp_path, tensors, config)
    if said:
        (folder / "scheduler_config.json").write_text(json.dumps(said))
    assert line in importing("ddpm", folder).notes


def test_names_of_2022_are_taken(tmp_path):
    config, tensors = unet2d()
    present = importing("ddpm", write_unet2d(tmp_path / "now", tensors, config))
    renames = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for name, tensor in tensors.items():
        for new, before in renames.items():
            name = name.replace(new, before)
        old[name] = tensor
    past = importing("ddpm", write_unet2d(tmp_path / "then", old, config))
    assert past.config == present.config and past.state_dict.keys() == present.state_dict.keys()
    assert all(torch.equal(past.state_dict[name], tensor) for name, tensor in present.state_dict.items())


@pytest.mark.parametrize(
    "said, field, value",
    [
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085}, "beta_start", 0.00085),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "zero_terminal_snr", True),
        ({"prediction_type": "sample"}, "prediction", "x0"),
        ({"variance_type": "fixed_large"}, "variance", "large"),
        ({"clip_sample": False}, "clip", False),
        ({"clip_sample": False, "clip_sample_range": 2.0}, "clip", False),
        ({"_class_name": "DPMSolverMultistepScheduler", "clip_sample": True}, "clip", False),  # it knows no clipping
        ({"variance_type": "fixed_small_log"}, "variance", "small"),
        ({"beta_schedule": "sigmoid"}, "schedule", "sigmoid"),
        ({"timestep_spacing": "trailing", "steps_offset": 1}, "spacing", "trailing"),
        ({"_class_name": "DDIMScheduler"}, "spacing", "leading"),
        ({"_class_name": "DPMSolverMultistepScheduler"}, "spacing", "linspace"),
        ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": float("-inf")}, "spacing", "linspace"),
        ({}, "schedule", "linear"),
        ({}, "spacing", "trailing"),
    ],
)
def test_the_schedule_beside_the_weights_is_read(tmp_path, said, field, value):
    config, tensors = unet2d()
    folder = write_unet2d(tmp_path, tensors, config)
    (folder / "scheduler_config.json").write_text(json.dumps(said))
    assert importing("ddpm", folder).config["diffusion"][field] == value


@pytest.mark.shared
@pytest.mark.parametrize(
    "flags, field, value",
    [
        ({}, "timestep_scale", 1.0),
        ({"diffusion_steps": 4000, "rescale_timesteps": True}, "timestep_scale", 0.25),
        ({"noise_schedule": "cosine"}, "schedule", "cosine"),
        ({"diffusion_steps": 500}, "beta_end", 0.04),
        ({"predict_xstart": True}, "prediction", "x0"),
        ({}, "variance", "learned"),
    ],
)
def test_openais_flags_are_read(shared_data, flags, field, value):
    folder = shared_data / "parity/openai/adm_scale_shift_sigma"
    config = recorded.config(folder)
    config["flags"] |= flags
    assert importing("ddpm", folder, config=config).config["diffusion"][field] == value


@pytest.mark.shared
def test_improved_diffusions_own_defaults(shared_data):
    """Its flags leave out what its defaults say: t is fed as if there were 1,000 steps; guided-diffusion's is not."""
    folder = shared_data / "parity/openai/adm_scale_shift_sigma"
    flags = recorded.config(folder)["flags"] | {"diffusion_steps": 4000}
    del flags["rescale_timesteps"]
    assert importing("ddpm", folder, config=flags).config["diffusion"]["timestep_scale"] == 1.0
    improved = {k: v for k, v in flags.items() if k not in ("resblock_updown", "use_new_attention_order")}
    improved = {k: v for k, v in improved.items() if k != "num_head_channels"} | {"num_heads": 2}
    assert importing("ddpm", folder, config=improved).config["diffusion"]["timestep_scale"] == 0.25


# --- One line and no bundle -------------------------------------------------------------------------------------------


def refused(tmp_path: Path, monkeypatch, family: str, path: Path, code: int = 4) -> str:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    before = {p.name for p in tmp_path.iterdir()} | {"home"}
    outcome = zoo("import", family, path, "--out", tmp_path / "out")
    assert outcome.code == code and outcome.out == "", outcome.err
    error = outcome.err.splitlines()[-1]
    assert error.startswith("Error: ") and {p.name for p in tmp_path.iterdir()} <= before
    return error


def test_every_wrong_tensor_is_named_with_both_shapes(tmp_path, monkeypatch):
    config, tensors = unet2d()
    tensors["extra.weight"] = torch.zeros(2, 3)
    tensors["conv_out.bias"] = torch.zeros(7)
    tensors["mid_block.attentions.0.to_k.weight"] = torch.zeros(16, 5)
    tensors["down_blocks.1.attentions.0.to_v.bias"] = torch.zeros(9)
    del tensors["down_blocks.0.resnets.0.conv1.bias"], tensors["mid_block.attentions.0.to_q.bias"]
    error = refused(tmp_path, monkeypatch, "ddpm", write_unet2d(tmp_path / "unet", tensors, config))
    assert "the checkpoint does not fit its config: " in error
    assert set(error.split("does not fit its config: ")[1].split("; ")) == {
        "down_blocks.0.resnets.0.conv1.bias [8] is missing",
        "mid_block.attentions.0.to_q.bias [16] is missing",
        "extra.weight [2, 3] has no place",
        "conv_out.bias is [7] where [1] belongs",
        "mid_block.attentions.0.to_k.weight is [16, 5] where [16, 16] belongs",
        "down_blocks.1.attentions.0.to_v.bias is [9] where [16] belongs",
    }


def test_any_missing_tensor_of_a_unet_is_named(tmp_path):
    config, tensors = unet2d(num_class_embeds=3)
    known = {"time_embedding.linear_1.weight", "conv_norm_out.weight"}  # without them it is another layout
    for name in tensors.keys() - known:
        left = {n: tensor for n, tensor in tensors.items() if n != name}
        request = ImportRequest(family="ddpm", path=tmp_path / "a.pt", tensors=left, config=config)
        with pytest.raises(InvalidFileError) as e:
            plugin.import_checkpoint(request)
        assert name in str(e.value) and "missing" in str(e.value)


@pytest.mark.shared
@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("diffusers/unet2d")])
def test_any_missing_tensor_of_the_others_is_named_or_makes_it_another_layout(shared_data, case):
    read = foreign.read(shared_data / "parity" / case)
    unknown = 0
    for name in list(read.tensors)[::3]:
        left = {n: tensor for n, tensor in read.tensors.items() if n != name}
        request = ImportRequest(family=CASES[case], path=read.path, tensors=left, config=read.config)
        try:
            assert plugin.import_checkpoint(request) is None
            unknown += 1
        except InvalidFileError as e:
            assert name in str(e) and "missing" in str(e)
    assert unknown <= 3  # of the tensors that a layout is known by


def test_nan_in_the_weights(tmp_path, monkeypatch):
    config, tensors = unet2d()
    tensors["conv_in.weight"][0, 0, 1, 1] = float("nan")
    error = refused(tmp_path, monkeypatch, "ddpm", write_unet2d(tmp_path / "unet", tensors, config))
    assert error.endswith("the tensor 'conv_in.weight' holds NaN or infinity")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"block_out_channels": [8, 15]}, "network.widths is [8, 15]; each must be a multiple of norm_groups, 4"),
        ({"block_out_channels": 8}, "the config beside it can't be that of these weights"),
        ({"layers_per_block": "many"}, "the config beside it can't be that of these weights"),
        ({"layers_per_block": 9}, "network.blocks is 9; it must be a whole number from 1 to 8"),
        ({"sample_size": -4}, "network.image_size is -4; it must be a whole number from 4 to 1024"),
        ({"_class_name": "AutoencoderKL"}, "_class_name is AutoencoderKL; only UNet2DModel can be imported"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is fourier; only positional can be imported"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "a block of the kind SkipDownBlock2D can't"),
        ({"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "attention on other levels down than up can't"),
        ({"down_block_types": None}, "the config beside it can't be that of these weights"),
        ({"attention_head_dim": 5}, "network.head_size is 5; it must divide the width 16"),
    ],
)
def test_a_config_that_cannot_be(tmp_path, monkeypatch, change, told):
    config, tensors = unet2d()
    error = refused(tmp_path, monkeypatch, "ddpm", write_unet2d(tmp_path / "unet", tensors, config | change))
    assert told in error


def test_a_config_without_its_fields_or_no_config(tmp_path, monkeypatch):
    config, tensors = unet2d()
    folder = write_unet2d(tmp_path / "unet", tensors, {k: v for k, v in config.items() if k != "down_block_types"})
    assert "the config beside it has no 'down_block_types'" in refused(tmp_path, monkeypatch, "ddpm", folder)
    (folder / "config.json").unlink()
    assert "there is no config.json beside the weights" in refused(tmp_path, monkeypatch, "ddpm", folder)


@pytest.mark.parametrize("said", ["[1, 2]", "{", "[" * 5000])
def test_a_scheduler_that_cannot_be_read(tmp_path, monkeypatch, said):
    config, tensors = unet2d()
    folder = write_unet2d(tmp_path / "unet", tensors, config)
    (folder / "scheduler_config.json").write_text(said)
    assert "scheduler_config.json is no scheduler's config: " in refused(tmp_path, monkeypatch, "ddpm", folder)


DPM = {"_class_name": "DPMSolverMultistepScheduler"}


@pytest.mark.parametrize(
    "said, told",
    [
        ({"beta_schedule": "laplace"}, "beta_schedule is laplace; only linear, scaled_linear, squaredcos_cap_v2, "),
        ({"prediction_type": "flow_prediction"}, "prediction_type is flow_prediction; only epsilon, sample, "),
        ({"thresholding": True}, "thresholding is True; that can't be imported"),
        ({"clip_sample_range": 2.0}, "clip_sample_range is 2.0; only 1 can be imported"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas is [0.1, 0.2]; that can't be imported"),
        ({"variance_type": "fixed_large_log"}, "variance_type is fixed_large_log; only fixed_small, "),
        ({"variance_type": "learned_range"}, "variance_type is learned_range; only fixed_small, "),
        ({"steps_offset": 1}, "steps_offset is 1; only 0 can be imported"),
        ({"timestep_spacing": "linspace"}, "timestep_spacing is linspace; only leading, trailing can be imported"),
        ({"timestep_spacing": "karras"}, "timestep_spacing is karras; only leading, trailing can be imported"),
        ({"_class_name": "DDIMScheduler", "set_alpha_to_one": False}, "set_alpha_to_one is False; only True can be"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "_class_name is ScoreSdeVeScheduler; only DDPMScheduler, DDIM"),
        (DPM | {"timestep_spacing": "leading"}, "timestep_spacing is leading; only linspace, trailing can be imported"),
        (DPM | {"solver_order": 3}, "solver_order is 3; only 2 can be imported"),
        (DPM | {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type is sde-dpmsolver++; only dpmsolver++ can be"),
        (DPM | {"use_karras_sigmas": True}, "use_karras_sigmas is True; that can't be imported"),
        (DPM | {"final_sigmas_type": "sigma_min"}, "final_sigmas_type is sigma_min; only zero can be imported"),
        ({"exotic": "yes"}, "exotic is yes; that can't be imported"),
        ({"num_train_timesteps": -1}, "diffusion.num_timesteps is -1; it must be a whole number from 2 to 4000"),
        ({"clip_sample": "yes"}, "diffusion.clip is 'yes'; it must be true or false"),
        (
            {"rescale_betas_zero_snr": True},
            "diffusion.prediction is epsilon; with zero_terminal_snr it must be v or x0",
        ),
    ],
)
def test_a_scheduler_that_asks_for_what_we_do_not(tmp_path, said, told):
    config, tensors = unet2d()
    folder = write_unet2d(tmp_path / "unet", tensors, config)
    (folder / "scheduler_config.json").write_text(json.dumps(said))
    with pytest.raises(InvalidFileError) as e:
        importing("ddpm", folder)
    assert told in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_the_steps_of_an_imported_scheduler_are_diffusers_own(tmp_path, kind, spacing):
    """Where a spacing is taken, our steps are at its timesteps, and the schedule is its schedule."""
    import diffusers
    from zoo_diffusion import sampling

    theirs = getattr(diffusers, kind)(timestep_spacing=spacing, beta_schedule="squaredcos_cap_v2")
    theirs.save_config(tmp_path)  # writes scheduler_config.json with all of the class's fields
    said = json.loads((tmp_path / "scheduler_config.json").read_text())
    if spacing not in scheduler_config.SCHEDULERS[kind][1]:
        with pytest.raises(InvalidFileError, match=f"timestep_spacing is {spacing}"):
            scheduler_config.diffusers_schedule(said, learned=False)
        return
    ours = scheduler_config.diffusers_schedule(said, learned=False)
    torch.testing.assert_close(sampling.betas(ours).float(), theirs.betas, rtol=1e-5, atol=1e-6)
    for steps in (1, 2, 7, 20, 50):
        theirs.set_timesteps(steps)
        t = sampling.timesteps(ours.spacing, torch.arange(steps), torch.tensor(steps), 1000)
        assert t.tolist() == theirs.timesteps.tolist(), steps


def test_a_folder_that_is_not_what_it_says(tmp_path, monkeypatch):
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    assert "holds no weights" in refused(tmp_path, monkeypatch, "ddpm", folder, code=3)
    config, tensors = unet2d()
    for part in ("transformer", "vae"):
        write_unet2d(folder / part, tensors, config)
    assert "its folders transformer, vae do: name one" in refused(tmp_path, monkeypatch, "ddpm", folder, code=3)
    save_file({"encoder.conv.weight": torch.ones(1)}, folder / "vae/model.safetensors")
    error = refused(tmp_path, monkeypatch, "ddpm", folder / "vae")
    assert "has a layout that the family 'ddpm' does not know; its tensors are encoder.conv.weight" in error
    assert "does not know" in refused(tmp_path, monkeypatch, "dit", folder / "transformer")
    (folder / "vae/model.safetensors").write_bytes(b"no tensors")
    assert "model.safetensors" in refused(tmp_path, monkeypatch, "ddpm", folder / "vae")
