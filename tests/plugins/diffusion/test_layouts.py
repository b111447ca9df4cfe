"""Import of public checkpoints: what is read besides the tensors, or one line and no bundle."""

import json

import pytest
import torch
from safetensors.torch import save_file
from zoo_diffusion import plugin

from tests.cli.commands import zoo
from zoo.build import foreign
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import ConfigRequest, ImportRequest, TasksRequest

from . import recorded
from .checkpoints import CASES, importing, refused, unet2d, write_unet2d

# --- What is read besides the tensors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "said", "line"),
    [
        ({}, None, "no scheduler_config.json: assumed Ho et al.'s linear schedule of 1,000 steps, and predicted noise"),
        ({}, {"_class_name": "DDIMScheduler"}, "draws with DPM-Solver++(2M), not with DDIMScheduler's ddim; "
                                               "for that, use zoo build --sampler ddim"),
        ({"num_class_embeds": 3}, None, "has no null label, so no guidance"),
        ({"in_channels": 4, "out_channels": 4}, None, "draws latents with 4 channels; "
                                                          "their decoder is a separate model"),
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


# --- The class that a config names, and what tensors do not say ------------------------------------------------------


def meta_dit(rows: int = 11, width: int = 64, channels: int = 4) -> dict[str, torch.Tensor]:
    """The tensors of facebookresearch/DiT, which SiT has too."""
    torch.manual_seed(0)
    layers = {
        "x_embedder.proj": (width, channels, 2, 2),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (8 * channels, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "blocks.0.attn.qkv": (3 * width, width),
        "blocks.0.attn.proj": (width, width),
        "blocks.0.mlp.fc1": (4 * width, width),
        "blocks.0.mlp.fc2": (width, 4 * width),
        "blocks.0.adaLN_modulation.1": (6 * width, width),
    }
    tensors = {f"{name}.weight": torch.randn(shape) / 20 for name, shape in layers.items()}
    tensors |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in layers.items()}
    return tensors | {
        "pos_embed": torch.randn(1, 16, width),
        "y_embedder.embedding_table.weight": torch.randn(rows, width),
    }


def dit_of(tmp_path, config: dict | None, layout: str = "", **shape: int):
    path = tmp_path / "model.pt"
    torch.save(meta_dit(**shape), path)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    return importing("dit", path, layout=layout)


KNOWN = {"num_heads": 4, "num_classes": 10}


@pytest.mark.parametrize("config", [None, KNOWN])
def test_a_file_that_fits_dit_and_sit_needs_the_layout(tmp_path, config):
    shape = {"width": 384, "rows": 1001} if config is None else {}
    with pytest.raises(InvalidFileError, match="fit|those of DiT and of SiT.*give --layout dit or sit"):
        dit_of(tmp_path, config, **shape)
    assert dit_of(tmp_path, config, "dit", **shape).layout == "facebookresearch/DiT"
    with pytest.raises(InvalidFileError, match="a SiT cannot be imported: .* needs a sampler of flows"):
        dit_of(tmp_path, config, "sit", **shape)
    with pytest.raises(UsageError, match="--layout is 'mdt'; with these tensors it must be dit or sit"):
        dit_of(tmp_path, config, "mdt", **shape)


@pytest.mark.parametrize("name", ["dit", "DiT-XL/2", "DiT_S_8", "models.DiT"])
def test_a_config_that_names_dit_needs_no_layout(tmp_path, name):
    assert dit_of(tmp_path, KNOWN | {"model": name}).config["network"]["num_classes"] == 10


@pytest.mark.parametrize(
    "config",
    [{"model": "SiT-XL/2"}, {"model": "sit"}, {"_class_name": "SiTTransformer2DModel"}, {"model": "MDTv2_S_2"},
     {"_class_name": "LightningDiT"}, {"target": "models.fit.FiT"}, {"path_type": "Linear"}],
)  # fmt: skip
def test_a_class_that_is_not_dit_is_refused(tmp_path, config):
    with pytest.raises(InvalidFileError) as e:
        dit_of(tmp_path, KNOWN | config)
    name = next(iter(config.values()))
    assert (name in str(e.value) and "only DiT can be imported" in str(e.value)) or "a SiT cannot be" in str(e.value)
    assert ("needs a sampler of flows" in str(e.value)) == ("sit" in name.lower() or "path_type" in config)


@pytest.mark.parametrize(
    ("rows", "config", "classes", "null_label"),
    [
        (11, {"num_classes": 10}, 10, True),
        (11, {"num_classes": 11}, 11, False),
        (11, {"class_dropout_prob": 0.1}, 10, True),
        (11, {"class_dropout_prob": 0.0}, 11, False),
        (10, {"num_classes": 9}, 9, True),
        (1001, {}, 1000, True),  # the published ones
    ],
)
def test_the_null_class_is_what_the_config_says(tmp_path, rows, config, classes, null_label):
    network = dit_of(tmp_path, {"num_heads": 4, "model": "dit"} | config, rows=rows).config["network"]
    assert (network["num_classes"], network["null_label"]) == (classes, null_label)


@pytest.mark.parametrize("rows", [10, 11, 21, 20, 1000])
def test_rows_that_do_not_say_whether_there_is_a_null_class_are_asked_about(tmp_path, rows):
    with pytest.raises(InvalidFileError, match=f'{rows} label rows are .* {rows - 1} and "no label".*"num_classes"'):
        dit_of(tmp_path, {"num_heads": 4, "model": "dit"}, rows=rows)
    with pytest.raises(InvalidFileError, match=f"num_classes is 7, but its label table has {rows} rows"):
        dit_of(tmp_path, {"num_heads": 4, "model": "dit", "num_classes": 7}, rows=rows)


def test_a_unets_null_class_is_asked_about_in_a_note(tmp_path):
    config, tensors = unet2d(num_class_embeds=4)
    notes = importing("ddpm", write_unet2d(tmp_path, tensors, config)).notes
    assert any("4 label rows are taken as 4 classes" in note and '{"num_classes": 3}' in note for note in notes)
    imported = importing("ddpm", write_unet2d(tmp_path, tensors, config | {"num_classes": 3}))
    assert (imported.config["network"]["num_classes"], imported.config["network"]["null_label"]) == (3, True)


@pytest.mark.parametrize(
    ("beside", "latents"),
    [
        ({"vqvae": {"_class_name": "VQModel", "latent_channels": 3}}, True),
        ({"vae": {"_class_name": "AutoencoderKL", "latent_channels": 3}}, True),
        ({"vae": {"_class_name": "AutoencoderKL", "latent_channels": 4}}, False),
        ({"index": {"_class_name": "LDMPipeline", "unet": [], "vqvae": []}}, True),
        ({"index": {"_class_name": "DDPMPipeline", "unet": []}}, False),
        ({}, False),
    ],
)
def test_three_channels_beside_a_decoder_are_latents(tmp_path, beside, latents):
    config, tensors = unet2d(in_channels=3, out_channels=3)
    folder = write_unet2d(tmp_path / "unet", tensors, config)
    for name, said in beside.items():
        path = tmp_path / ("model_index.json" if name == "index" else f"{name}/config.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(said))
    imported = importing("ddpm", folder)
    request = TasksRequest(
        family="ddpm", config=plugin.validate_config(ConfigRequest(family="ddpm", config=imported.config))
    )
    tasks = plugin.list_tasks(request).tasks
    assert ("latents" in tasks["generate"].outputs) == latents and ("inpaint" in tasks) == (not latents)
    assert any("draws latents with 3 channels" in note for note in imported.notes) == latents


@pytest.mark.shared
def test_diffusers_dit_guides_all_channels(shared_data):
    """Its pipeline guides every latent channel; Meta's code three."""
    assert importing("dit", shared_data / "parity/diffusers/dit_tiny").config["diffusion"]["guided_channels"] == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "Stable Diffusion's U-Net: it needs the other parts of its pipeline"),
        ({"_class_name": "AutoencoderKL"}, "it is of the family klvae: zoo import klvae …"),
        ({"model": "exotic"}, "model is exotic; only UNet2DModel can be imported"),
        ({"in_channels": 6, "out_channels": 3}, "latent diffusion's super-resolution: its network takes the small"),
    ],
)
def test_what_a_refused_class_needs_is_said(tmp_path, change, told):
    config, tensors = unet2d(**({k: v for k, v in change.items() if "channels" in k}))
    with pytest.raises(InvalidFileError) as e:
        importing("ddpm", write_unet2d(tmp_path, tensors, config | change))
    assert told in str(e.value) and "\n" not in str(e.value)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}, "an upsampler of ADM"),
        ({"middle_block.1.qkv.weight": torch.zeros(96, 32, 1, 1)}, "a consistency model"),
        ({"input_blocks.1.1.transformer_blocks.0.x": torch.zeros(1)}, "it has cross-attention"),
    ],
)
def test_networks_with_adms_names_are_refused(shared_data, change, told):
    read = foreign.read(shared_data / "parity/openai/adm_scale_shift_sigma")
    with pytest.raises(InvalidFileError, match=told):
        importing("ddpm", read.path, tensors={**read.tensors, **change})


# --- One line and no bundle -------------------------------------------------------------------------------------------


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
        "extra.weight [2, 3] is unexpected",
        "conv_out.bias is [7], not [1]",
        "mid_block.attentions.0.to_k.weight is [16, 5], not [16, 16]",
        "down_blocks.1.attentions.0.to_v.bias is [9], not [16]",
    }


@pytest.mark.slow
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
    assert error.endswith("the tensor 'conv_in.weight' contains NaN or infinity")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"block_out_channels": [8, 15]}, "network.widths is [8, 15]; each must be a multiple of norm_groups, 4"),
        ({"block_out_channels": 8}, "its config does not belong to these weights"),
        ({"layers_per_block": "many"}, "its config does not belong to these weights"),
        ({"layers_per_block": 9}, "network.blocks is 9; it must be a whole number from 1 to 8"),
        ({"sample_size": -4}, "network.image_size is -4; it must be a whole number from 4 to 1024"),
        ({"_class_name": "AutoencoderKL"}, "_class_name is AutoencoderKL; only UNet2DModel can be imported"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is fourier; only positional can be imported"),
        (
            {"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]},
            "a block of the kind SkipDownBlock2D is not supported",
        ),
        ({"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "attention on different levels down and up is not supported"),
        ({"down_block_types": None}, "its config does not belong to these weights"),
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
    assert "its config has no 'down_block_types'" in refused(tmp_path, monkeypatch, "ddpm", folder)
    (folder / "config.json").unlink()
    assert "there is no config.json with sizes and heads" in refused(tmp_path, monkeypatch, "ddpm", folder)


def test_a_folder_that_is_not_what_it_says(tmp_path, monkeypatch):
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    assert "contains no weights" in refused(tmp_path, monkeypatch, "ddpm", folder, code=3)
    config, tensors = unet2d()
    for part in ("transformer", "vae"):
        write_unet2d(folder / part, tensors, config)
    said = refused(tmp_path, monkeypatch, "ddpm", folder, code=3)
    assert "its folders transformer, vae contain some: name one" in said
    save_file({"encoder.conv.weight": torch.ones(1)}, folder / "vae/model.safetensors")
    error = refused(tmp_path, monkeypatch, "ddpm", folder / "vae")
    assert "has a layout that the family 'ddpm' does not support; its tensors are encoder.conv.weight" in error
    assert "has a layout that the family 'dit' does not support" in refused(
        tmp_path, monkeypatch, "dit", folder / "transformer"
    )
    (folder / "vae/model.safetensors").write_bytes(b"no tensors")
    assert "model.safetensors" in refused(tmp_path, monkeypatch, "ddpm", folder / "vae")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--sampler", "eular"], "diffusion.sampler is 'eular'; it must be consistency or ddim or ddpm or dpm++2m or"),
        (["--sampler", "ddim", "--set", "diffusion.eta=2"], "diffusion.eta is 2; it must be a number from 0 to 1"),
        (["--set", 'tasks=["generat"]'], "'generat' is not one of "),
    ],
)
def test_what_a_model_cannot_be_built_with_is_one_line(tmp_path, monkeypatch, words, line):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    outcome = zoo("build", "ddpm-fashion", *words, "--out", tmp_path / "out")
    assert outcome.code != 0 and line in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert [p.name for p in tmp_path.iterdir() if p.name != "home"] == []
