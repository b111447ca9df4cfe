"""Batches of a data set's examples, as tensors."""

from typing import Any

import numpy as np
import torch

from ..hookspecs import Batch
from .data import Dataset


def batch_of(data: Dataset, indices: Any, device: torch.device) -> Batch:
    """The batch of some examples, with their arrays, on a device; its tensors are copies."""

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array[indices])).to(device)

    arrays = {name: tensor(array) for name, array in data.arrays.items()}
    return Batch(images=tensor(data.images), labels=tensor(data.labels), arrays=arrays)
