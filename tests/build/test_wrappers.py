"""What trainers call the weights that they save, next to what else they save."""

import pytest

from zoo.build.wrappers import EMA, PLAIN, choose, without_prefixes


@pytest.mark.parametrize("average", EMA)
def test_averaged_weights_are_preferred_whatever_they_are_called(average):
    saved = {"step": 3, "optimizer": {"state": 0}, "model": {"a.b": 1}, average: {"a.b": 2}}
    assert choose(saved, lambda value: isinstance(value, dict)) == [average, "model"]
    assert without_prefixes({f"{average}.module.a.b": 2, "model.module.a.b": 1}, []) == {"a.b": 2}


@pytest.mark.parametrize("plain", PLAIN)
def test_trained_weights_are_found_whatever_they_are_called(plain):
    saved = {"step": 3, "optimizer": {"state": 0}, plain: {"a.b": 1}}
    assert choose(saved, lambda value: isinstance(value, dict)) == [plain]
