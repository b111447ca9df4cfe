"""What a trainer's losses may be."""

import numpy as np
import pytest
import torch

from zoo.build.losses import named_losses
from zoo.errors import PluginError


@pytest.mark.parametrize("loss", [1, 0.5, np.float32(1), np.float64(1), np.int64(2), np.array(0.5), torch.ones(1)])
def test_any_single_number_is_a_loss(loss):
    assert named_losses({"loss": loss}, "step") == {"loss": loss}


@pytest.mark.parametrize("loss", [None, True, np.True_, "1", b"1", [1.0], np.ones(2), torch.ones(2), {}])
def test_anything_else_is_refused_in_one_line(loss):
    with pytest.raises(PluginError, match="the loss 'loss' of the trainer's step") as error:
        named_losses({"loss": loss}, "step")
    assert "\n" not in str(error.value)
