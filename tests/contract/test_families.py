"""What every family of ours must keep: the conformance kit, on all of them."""

import pytest

from zoo import plugins
from zoo.plugins.finding import OWN_DISTRIBUTIONS

FAMILIES = [
    family
    for plugin in plugins.installed()
    if plugin.distribution in OWN_DISTRIBUTIONS and not plugin.problem
    for family in plugin.families
]


def test_there_are_families():
    assert FAMILIES


@pytest.mark.slow
@pytest.mark.zoo(*FAMILIES)
def test_a_family_keeps_the_contract(zoo_check):
    zoo_check()
