"""Learning rates and weight averages against their formulas."""

import math

import pytest
import torch
from torch import nn

from zoo.build.optim import WeightAverage, cosine_rate


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    rates = [cosine_rate(step, 100, 2.0, 20) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[19] == rates[20] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[40] == pytest.approx(1 + math.cos(math.pi / 4))
    assert rates[100] == pytest.approx(0) and cosine_rate(150, 100, 2.0, 20) == pytest.approx(0)
    assert rates[20:] == sorted(rates[20:], reverse=True)


@pytest.mark.parametrize("steps, warmup", [(20, 200), (5, 5), (1, 0)])
def test_short_trainings_have_a_rate_too(steps, warmup):
    assert all(0 <= cosine_rate(step, steps, 1.0, warmup) <= 1 for step in range(steps))


def test_the_average_follows_the_weights_and_copies_the_buffers():
    module = nn.BatchNorm1d(1, affine=True)
    average = WeightAverage(module, decay=0.5)
    expected = module.weight.item()
    for step in range(12):
        module.weight.data.fill_(float(step))
        module.running_mean.fill_(float(step))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        average.update(step)
        assert average.module.weight.item() == pytest.approx(expected)
        assert average.module.running_mean.item() == step
    assert module.training and not average.module.training
    assert module.weight.requires_grad and not average.module.weight.requires_grad
    assert torch.equal(average.module.num_batches_tracked, module.num_batches_tracked)
