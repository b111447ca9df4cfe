"""What every installed family must keep, whoever wrote it: the conformance kit, on all of them."""

import pytest

from zoo import plugins

FAMILIES = [family for plugin in plugins.installed() if not plugin.problem for family in plugin.families]


def test_there_are_families():
    assert FAMILIES


@pytest.mark.slow
@pytest.mark.zoo(*FAMILIES)
def test_a_family_keeps_the_contract(zoo_check):
    zoo_check()
