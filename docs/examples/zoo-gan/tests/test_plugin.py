import pytest


@pytest.mark.zoo("gan")
def test_it_keeps_the_contract(zoo_check):
    zoo_check()
