"""Cases of the reference implementations (`../shared/parity`), and the toy networks that they were made with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def io(folder: Path) -> dict[str, Tensor]:
    with np.load(folder / "io.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def toy(x: Tensor, t: Tensor) -> Tensor:
    """The network of the cases of diffusers' schedulers, as their configs give its formula; t is [N]."""
    t = t.reshape(-1, 1, 1, 1)
    tau = t / 1000
    return (1 - torch.exp(-0.1 * tau.abs() - 10 * tau**2)).sqrt() * x + 0.1 * torch.tanh(2 * x) * torch.cos(t / 130)


def openai_toy(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The network of `openai/gaussian_diffusion_toy`: its noise and, for learned variances, its second half."""
    t = t.reshape(-1, 1, 1, 1)
    return torch.tanh(0.7 * x + 0.3 * torch.cos(t / 130)), torch.tanh(0.5 * x - 0.2)
