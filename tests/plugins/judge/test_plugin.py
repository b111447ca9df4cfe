"""The judge's hooks: presets, config errors in one clear line, ports."""

import subprocess
import sys

import pytest
from zoo_judge import plugin
from zoo_judge.config import JudgeSettings

from zoo.errors import UsageError
from zoo.hookspecs import BuildRequest, ConfigRequest, DescribeRequest, TaskModuleRequest, TasksRequest
from zoo.settings import read


def validate(**config):
    return plugin.validate_config(ConfigRequest(family="judge", config=config))


@pytest.mark.parametrize("name", plugin.PRESETS)
def test_every_preset_is_a_valid_config_with_valid_settings(name):
    preset = plugin.PRESETS[name]
    config = validate(**preset.config)
    assert validate(**config) == config
    read(JudgeSettings, preset.training, name)


def test_the_description():
    family = plugin.describe_family(DescribeRequest(family="judge"))
    assert family.name == "judge" and family.weights == ("model",) and family.paper.startswith("https://")


@pytest.mark.parametrize(
    "config, line",
    [
        ({"widths": []}, "widths is []; it must be a list of 1 to 6 values"),
        ({"widths": [8, 12]}, "widths.1 is 12; it must be a whole number from 8 to 1024, a multiple of 8"),
        ({"num_classes": 1}, "num_classes is 1; it must be a whole number from 2 to 10000"),
        ({"width": [8]}, "there is no 'width'; did you mean 'widths'?"),
    ],
)
def test_a_wrong_config_is_one_line_that_names_field_value_and_what_is_allowed(config, line):
    with pytest.raises(UsageError) as error:
        validate(**config)
    assert str(error.value) == f"judge config: {line}"


def test_ports_follow_the_config_and_the_classes():
    config = validate(num_classes=3, widths=[8, 24], image_channels=3)
    tasks = plugin.list_tasks(TasksRequest(family="judge", config=config, classes=("a", "b", "c")))
    assert tasks.default == "classify"
    classify, features = tasks.tasks["classify"], tasks.tasks["features"]
    assert classify.inputs["image"].shape[-1] == 3
    assert classify.outputs["label"].classes == ("a", "b", "c") and classify.outputs["label"].maximum == 2
    assert classify.outputs["probabilities"].shape == ("batch", 3)
    assert features.outputs["features"].shape == ("batch", 24)


def test_every_task_has_its_module():
    config = validate(**plugin.PRESETS["tiny"].config)
    module = plugin.build_module(BuildRequest(family="judge", config=config))
    for task in ("classify", "features"):
        built = plugin.build_task(TaskModuleRequest(family="judge", config=config, task=task, module=module))
        assert type(built).__name__.lower() == task


def test_the_module_of_the_entry_point_imports_no_torch():
    code = "import sys, zoo_judge.plugin; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'onnxruntime')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
