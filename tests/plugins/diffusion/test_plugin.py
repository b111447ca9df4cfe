"""The families' hooks: presets, config errors in one clear line, ports, task modules."""

import subprocess
import sys

import pytest
from zoo_diffusion import plugin
from zoo_diffusion.config import DiffusionSettings, DistilSettings

from zoo.errors import UsageError
from zoo.hookspecs import BuildRequest, ConfigRequest, DescribeRequest, TaskModuleRequest, TasksRequest, Tolerance
from zoo.settings import read

PRESETS = {"ddpm": plugin.DDPM_PRESETS, "dit": plugin.DIT_PRESETS}


def validate(family: str, **config):
    return plugin.validate_config(ConfigRequest(family=family, config=config))


def tasks_of(family: str, classes=(), **config):
    return plugin.list_tasks(TasksRequest(family=family, config=validate(family, **config), classes=classes))


@pytest.mark.parametrize("family, name", [(family, name) for family, presets in PRESETS.items() for name in presets])
def test_every_preset_is_a_valid_config_with_valid_settings(family, name):
    preset = PRESETS[family][name]
    config = validate(family, **preset.config)
    assert validate(family, **config) == config
    read(DistilSettings if name.endswith("-distil") else DiffusionSettings, preset.training, name)


@pytest.mark.parametrize("family, paper", [("ddpm", "2006.11239"), ("dit", "2212.09748")])
def test_the_description(family, paper):
    said = plugin.describe_family(DescribeRequest(family=family))
    assert said.name == family and said.weights == ("model",) and paper in said.paper


@pytest.mark.parametrize(
    "family, config, line",
    [
        ("ddpm", {"diffusion": {"schedule": "linar"}},
         "ddpm config: diffusion.schedule is 'linar'; it must be cosine or linear or scaled_linear or sigmoid"),
        ("ddpm", {"diffusion": {"sampler": "eular"}},
         "ddpm config: diffusion.sampler is 'eular'; it must be consistency or ddim or ddpm or dpm++2m or dpm++2m_sde "
         "or euler or euler_ancestral or heun or lcm or plms or unipc"),
        ("ddpm", {"diffusion": {"num_timesteps": 1}},
         "ddpm config: diffusion.num_timesteps is 1; it must be a whole number from 2 to 4000"),
        ("ddpm", {"diffusion": {"beta_start": 0}},
         "ddpm config: diffusion.beta_start is 0; it must be a number above 0 to below 1"),
        ("ddpm", {"diffusion": {"eta": 1.5}}, "ddpm config: diffusion.eta is 1.5; it must be a number from 0 to 1"),
        ("dit", {"diffusion": {"samplr": "ddim"}},
         "dit config: there is no 'diffusion.samplr'; did you mean 'sampler'?"),
        ("dit", {"network": {"width": 30, "heads": 2}},
         "config: network.width is 30; it must be a multiple of 4 and of heads, 2"),
        ("dit", {"network": {"image_size": 30, "patch_size": 4}},
         "config: network.image_size is 30; it must be a multiple of patch_size, 4"),
        ("ddpm", {"network": {"image_size": 30}},
         "config: network.image_size is 30; it must be a multiple of 8, since each level halves it"),
        ("ddpm", {"network": {"widths": [32, 40]}},
         "config: network.widths is [32, 40]; each must be a multiple of norm_groups, 32"),
        ("ddpm", {"network": {"attention_levels": [4]}},
         "config: network.attention_levels is [4]; there are 4 levels, from 0"),
        ("ddpm", {"network": {"head_size": 48}}, "config: network.head_size is 48; it must divide the width 256"),
        ("ddpm", {"network": {"heads": 3}}, "config: network.heads is 3; it must divide the width 256"),
        ("ddpm", {"network": {"time_channels": 9}},
         "config: network.time_channels is 9; it must be even, half sines and half cosines, and at least 4"),
        ("ddpm", {"diffusion": {"zero_terminal_snr": True}},
         "ddpm config: diffusion.prediction is epsilon; with zero_terminal_snr it must be v or x0: for pure "
         "noise, the predicted noise contains no information"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_one_line_that_names_field_value_and_what_is_allowed(family, config, line):
    with pytest.raises(UsageError) as error:
        validate(family, **config)
    assert str(error.value) == line


def test_a_task_that_does_not_exist():
    with pytest.raises(UsageError, match="config: tasks: 'inpiant' is not one of generate, .*; did you mean 'inpaint'"):
        tasks_of("ddpm", tasks=["inpiant"])


def test_tasks_follow_the_picture():
    grey = tasks_of("ddpm", network={"image_channels": 1, "image_size": 28, "widths": [32, 32]})
    assert grey.default == "generate" and "colorize" not in grey.tasks and "upscale4" in grey.tasks
    assert "colorize" in tasks_of("ddpm").tasks
    latents = tasks_of("dit", network={"image_channels": 4})
    assert set(latents.tasks) == {"generate", "generate_begin", "generate_step"}
    chosen = tasks_of("ddpm", tasks=["inpaint"])
    assert list(chosen.tasks) == ["inpaint"] and chosen.default == "inpaint"


def test_only_unbounded_latents_have_another_tolerance():
    bounded = {"clip": True}, {"clip": False, "prediction": "v"}
    assert all(tasks_of("dit", network={"image_channels": 4}, diffusion=d).tolerance == Tolerance() for d in bounded)
    assert tasks_of("dit", network={"image_channels": 3}, diffusion={"clip": False}).tolerance == Tolerance()
    assert tasks_of("dit", network={"image_channels": 4}, diffusion={"clip": False}).tolerance.absolute == 0.05


def test_labels_follow_the_classes():
    network = {"num_classes": 3}
    label = tasks_of("dit", ("a", "b", "c"), network=network).tasks["generate"].inputs["label"]
    assert (label.minimum, label.maximum, label.default, label.classes) == (-1, 2, -1, ("a", "b", "c"))
    ports = tasks_of("dit", network=network | {"null_label": False}).tasks["generate"].inputs
    assert "guidance" not in ports and (ports["label"].minimum, ports["label"].default) == (0, None)
    assert "label" not in tasks_of("dit").tasks["generate"].inputs


def test_steps_reach_to_the_schedules_end():
    steps = tasks_of("ddpm", diffusion={"num_timesteps": 500}).tasks["generate"].inputs["steps"]
    assert (steps.minimum, steps.maximum, steps.default) == (1, 500, 20)


@pytest.mark.parametrize("family", PRESETS)
def test_every_task_has_its_module(family):
    config = validate(family, **(PRESETS[family]["tiny"].config | {"tasks": []}))
    module = plugin.build_module(BuildRequest(family=family, config=config))
    for task in plugin.list_tasks(TasksRequest(family=family, config=config)).tasks:
        request = TaskModuleRequest(family=family, config=config, task=task, module=module)
        assert callable(plugin.build_task(request))


def test_the_module_of_the_entry_point_imports_no_torch():
    modules = "('torch', 'numpy', 'onnxruntime')"
    code = f"import sys, zoo_diffusion.plugin; sys.exit(any(m in sys.modules for m in {modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
