"""The family's hooks: presets, config errors in one clear line, ports, task modules."""

import re
import subprocess
import sys

import pytest
from zoo_vqvae import plugin
from zoo_vqvae.config import CodecSettings, PriorSettings

from zoo.errors import UsageError
from zoo.hookspecs import BuildRequest, ConfigRequest, DescribeRequest, TaskModuleRequest, TasksRequest
from zoo.settings import read


def validate(**codec):
    return plugin.validate_config(ConfigRequest(family="vqvae", config={"codec": codec}))


@pytest.mark.parametrize("name", plugin.PRESETS)
def test_every_preset_is_a_valid_config_with_valid_settings(name):
    preset = plugin.PRESETS[name]
    config = plugin.validate_config(ConfigRequest(family="vqvae", config=preset.config))
    assert plugin.validate_config(ConfigRequest(family="vqvae", config=config)) == config
    read(PriorSettings if "prior" in config else CodecSettings, preset.training, name)


def test_the_description():
    family = plugin.describe_family(DescribeRequest(family="vqvae"))
    assert family.name == "vqvae" and family.weights == ("codec", "prior") and "1711.00937" in family.paper


def test_defaults_complete_a_config():
    assert plugin.validate_config(ConfigRequest(family="vqvae", config={})) == validate()
    assert validate(num_codes=64)["codec"]["num_codes"] == 64
    assert validate(num_codes=64)["codec"]["commitment_weight"] == 0.25


@pytest.mark.parametrize(
    "codec, line",
    [
        ({"num_codes": 1}, "codec.num_codes is 1; it must be a whole number from 2 to 65536"),
        ({"num_codes": "many"}, "codec.num_codes is 'many'; it must be a whole number from 2 to 65536"),
        ({"image_channels": 4}, "codec.image_channels is 4; it must be 1 or 3"),
        ({"downsampling": 3}, "codec.downsampling is 3; it must be 2 or 4 or 8 or 16"),
        ({"ema_decay": 1.0}, "codec.ema_decay is 1.0; it must be a number from 0 to below 1"),
        ({"learn_codebook": "emma"}, "codec.learn_codebook is 'emma'; it must be ema or loss"),
        ({"commitment_weight": float("nan")}, "codec.commitment_weight is nan; it must be a number from 0 to 10"),
        ({"num_code": 8}, "there is no 'codec.num_code'; did you mean 'num_codes'?"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_one_line_that_names_field_value_and_what_is_allowed(codec, line):
    with pytest.raises(UsageError) as error:
        validate(**codec)
    assert str(error.value) == f"vqvae config: {line}"


@pytest.mark.parametrize(
    "prior, line",
    [
        ({"heads": 3}, "prior.heads is 3; it must divide the width 128"),
        (
            {"heads": 64, "block": "llama"},
            "prior.heads is 64; with prior.block llama, width / heads must be a multiple of 4, and the width is 128",
        ),
        ({"kind": "pixelcnn"}, "prior.kind is 'pixelcnn'; it must be autoregressive or masked"),
        ({"default_temperature": 0}, "prior.default_temperature is 0; it must be a number from 0.1 to 10"),
    ],
)
def test_a_wrong_prior_is_one_line(prior, line):
    with pytest.raises(UsageError) as error:
        plugin.validate_config(ConfigRequest(family="vqvae", config={"prior": prior}))
    assert str(error.value) == f"vqvae config: {line}"


def test_the_stage_prior_completes_a_codecs_config_with_a_prior():
    request = ConfigRequest(family="vqvae", config=validate(), stage="prior")
    config = plugin.validate_config(request)
    assert config["codec"] == validate()["codec"] and config["prior"]["kind"] == "masked"
    assert "prior" not in validate()
    with pytest.raises(UsageError, match="--stage is 'second'; it must be prior, or left out for the codec"):
        plugin.validate_config(ConfigRequest(family="vqvae", config={}, stage="second"))


def test_a_prior_without_pictures_of_no_label_needs_one():
    prior = {"kind": "autoregressive", "num_classes": 3, "null_label": False, "default_top_k": 5000}
    config = plugin.validate_config(ConfigRequest(family="vqvae", config={"prior": prior}))
    inputs = plugin.list_tasks(TasksRequest(family="vqvae", config=config)).tasks["generate"].inputs
    assert [*inputs] == ["seed", "temperature", "top_k", "top_p", "label"]
    assert (inputs["label"].default, inputs["label"].minimum) == (None, 0)
    assert (inputs["top_k"].default, inputs["top_k"].maximum) == (512, 512), "the codec has 512 codes"


@pytest.mark.parametrize("kind, tasks", [("masked", ["generate", "inpaint"]), ("autoregressive", ["generate"])])
def test_a_prior_brings_its_tasks(kind, tasks):
    prior = {"kind": kind, "rows": 2, "columns": 3, "num_classes": 3, "default_steps": 8}
    config = plugin.validate_config(ConfigRequest(family="vqvae", config={"prior": prior}))
    given = plugin.list_tasks(TasksRequest(family="vqvae", config=config, classes=("a", "b", "c"))).tasks
    assert [*given] == ["reconstruct", "encode", "decode", *tasks]
    inputs = given["generate"].inputs
    assert ("steps" in inputs) == (kind == "masked")
    assert inputs["label"].classes == ("a", "b", "c") and given["generate"].outputs["image"].shape == (
        "batch",
        8,
        12,
        3,
    )
    if kind == "masked":
        assert (inputs["steps"].default, inputs["steps"].maximum) == (6, 6)  # no more than there are tokens
    unlabelled = plugin.validate_config(ConfigRequest(family="vqvae", config={"prior": prior | {"num_classes": 0}}))
    inputs = plugin.list_tasks(TasksRequest(family="vqvae", config=unlabelled)).tasks["generate"].inputs
    assert not inputs.keys() & {"label", "guidance"}


def test_a_foreign_field_name_cannot_steer_the_terminal():
    with pytest.raises(UsageError, match=re.escape(r"there is no 'codec.x\x1b[2J'; there are image_channels, ")):
        validate(**{"x\x1b[2J": 8})


def test_ports_follow_the_config():
    config = validate(image_channels=1, num_codes=32, downsampling=8)
    tasks = plugin.list_tasks(TasksRequest(family="vqvae", config=config))
    assert tasks.default == "reconstruct" and set(tasks.tasks) == {"reconstruct", "encode", "decode"}
    encode, decode = tasks.tasks["encode"], tasks.tasks["decode"]
    assert encode.inputs["image"].shape == ("batch", "height", "width", 1)
    assert list(encode.outputs) == list(decode.inputs) == ["tokens", "size"]
    assert (encode.outputs["tokens"].minimum, encode.outputs["tokens"].maximum) == (0, 31)
    assert "8x8" in encode.outputs["tokens"].summary


def test_every_task_has_its_module():
    config = plugin.validate_config(ConfigRequest(family="vqvae", config=plugin.PRESETS["tiny"].config))
    module = plugin.build_module(BuildRequest(family="vqvae", config=config))
    assert {name.split(".")[0] for name in module.state_dict()} == {"codec"}
    for task in plugin.list_tasks(TasksRequest(family="vqvae", config=config)).tasks:
        built = plugin.build_task(TaskModuleRequest(family="vqvae", config=config, task=task, module=module))
        assert type(built).__name__.lower() == task


def test_the_module_of_the_entry_point_imports_no_torch():
    code = "import sys, zoo_vqvae.plugin; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'onnxruntime')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
