"""What every family of ours must keep: the conformance kit, on all of them."""

import tomllib
from pathlib import Path

import onnx
import pytest

from tests.graph.test_plain import unusual
from zoo import plugins
from zoo.plugins.finding import reserved_names

PROJECTS = [tomllib.loads(path.read_text()) for path in Path(__file__).parents[2].glob("plugins/*/pyproject.toml")]
FAMILIES = [
    family
    for plugin in plugins.installed()
    if plugin.module.split(".")[0] in reserved_names().values() and not plugin.problem
    for family in plugin.families
]


def test_every_name_of_our_plugins_is_reserved():
    brought = {
        name: module.split(".")[0]
        for project in PROJECTS
        for group in ("zoo", "zoo.target")
        for name, module in project["project"].get("entry-points", {}).get(group, {}).items()
    }
    assert FAMILIES and reserved_names() == brought


@pytest.mark.slow
@pytest.mark.zoo(*FAMILIES)
def test_a_family_keeps_the_contract(zoo_check):
    zoo_check()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graphs_of_a_family_are_plain(family, _zoo_examination):
    """What other stacks, and tools that rewrite graphs, read wrongly or not at all: `zoo.graph.plain`."""
    bundle = _zoo_examination(family).subject.bundle
    found = {path.name: unusual(onnx.load(path, load_external_data=False)) for path in bundle.glob("*.onnx")}
    assert found and not any(found.values()), found
