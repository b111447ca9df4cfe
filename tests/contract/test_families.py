"""What every installed family must keep, whoever wrote it: its presets build, its tasks export, its graphs are right.

The model that is exported is the family's preset `tiny`, or its first.
"""

from functools import cache

import msgspec
import pytest

from zoo import manifest as manifests
from zoo import plugins
from zoo.hookspecs import BuildRequest, ConfigRequest, DescribeRequest, Family, TaskModuleRequest, Tasks, TasksRequest
from zoo.manifest import Training

FAMILIES = [family for plugin in plugins.installed() if not plugin.problem for family in plugin.families]


@cache
def described(family: str) -> Family:
    return plugins.load(family).call("describe_family", DescribeRequest(family=family))


def validated(family: str, config: dict) -> dict:
    return plugins.load(family).call("validate_config", ConfigRequest(family=family, config=config))


def complete(family: str, preset: str) -> dict:
    return validated(family, described(family).presets[preset].config)


def tasks_of(family: str, config: dict) -> Tasks:
    return plugins.load(family).call("list_tasks", TasksRequest(family=family, config=config))


def build(family: str, config: dict):
    import torch

    torch.manual_seed(0)
    return plugins.load(family).call("build_module", BuildRequest(family=family, config=config)).eval()


def smallest(family: str) -> str:
    presets = described(family).presets
    return "tiny" if "tiny" in presets else next(iter(presets))


def test_there_are_families():
    assert FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_who_it_is(family):
    said = described(family)
    assert said.name == family and said.summary and said.paper.startswith("https://") and said.presets


@pytest.mark.parametrize("family", FAMILIES)
def test_a_preset_is_a_valid_config(family):
    for preset in described(family).presets:
        config = complete(family, preset)
        assert validated(family, config) == config, f"{preset}: validating a complete config must change nothing"
        plain = msgspec.json.decode(msgspec.json.encode(config))
        assert validated(family, plain) == config, f"{preset}: a config is plain data"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_presets_tasks_fit_the_manifest(family):
    for preset in described(family).presets:
        tasks = tasks_of(family, complete(family, preset))
        assert tasks.default in tasks.tasks
        for name, task in tasks.tasks.items():
            assert not task.inputs.keys() & task.outputs.keys(), f"{preset} {name}: a graph has one value of a name"
            assert msgspec.convert(msgspec.to_builtins(task), type(task)) == task


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_preset_builds_and_its_tasks_hold_its_own_tensors(family):
    for preset in described(family).presets:
        config = complete(family, preset)
        module = build(family, config)
        own = {tensor.data_ptr() for tensor in module.state_dict().values()}
        for name in tasks_of(family, config).tasks:
            request = TaskModuleRequest(family=family, config=config, task=name, module=module)
            task = plugins.load(family).call("build_task", request)
            copies = [n for n, tensor in task.named_parameters() if tensor.data_ptr() not in own]
            assert not copies, f"{preset} {name}: {copies[0]} is a copy; a graph could not point into the safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_smallest_preset_exports_and_comes_back(family, tmp_path):
    """Every task gives torch's numbers at sizes and batches that were not traced; export raises otherwise."""
    import torch

    from zoo.build.bundling import read_weights
    from zoo.build.export import export_bundle
    from zoo.graph.check import check

    config = complete(family, smallest(family))

    def export(folder, module):
        return export_bundle(
            out=folder,
            name=family,
            version=1,
            family=family,
            loaded=plugins.load(family),
            config=config,
            module=module,
            summary="A model for tests",
            license="Apache-2.0",
            training=Training(),
        )

    module = build(family, config)
    export(tmp_path / "first", module)
    manifest = manifests.read(tmp_path / "first")
    assert check(tmp_path / "first", manifest) == []
    weights = read_weights(tmp_path / "first", manifest)
    state = module.state_dict()
    assert weights.keys() == state.keys() and all(torch.equal(weights[name], state[name]) for name in state)

    # Save, load, save: the same bytes, graphs and golden cases included.
    torch.manual_seed(1)
    again = plugins.load(family).call("build_module", BuildRequest(family=family, config=manifest.config))
    again.load_state_dict(weights)
    export(tmp_path / "second", again)
    for path in (tmp_path / "first").iterdir():
        assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes(), path.name
