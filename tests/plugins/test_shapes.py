"""The shapes in the plugins' signatures are checked in tests: a wrong one fails in the call that is given it."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, zeros
from zoo_diffusion.config import TransformerConfig, UNetConfig
from zoo_diffusion.dit import DiT, modulate
from zoo_diffusion.sampling import guided, zero_terminal_snr
from zoo_diffusion.unet import UNet
from zoo_judge.config import JudgeConfig
from zoo_judge.model import Judge
from zoo_vqgan.losses import pixel_loss
from zoo_vqvae.config import CodecConfig
from zoo_vqvae.model import VQVAE
from zoo_vqvae.quantize import nearest_code

from . import MODULES

SMALL = {"image_size": 8, "image_channels": 3}


def unet() -> UNet:
    return UNet(UNetConfig(**SMALL, widths=(8,), blocks=1, attention_levels=(), norm_groups=4))


def dit() -> DiT:
    return DiT(TransformerConfig(**SMALL, patch_size=4, width=16, depth=1, heads=2))


WRONG: dict[str, Callable[[], Tensor]] = {
    "modulate: one shift for two images": lambda: modulate(zeros(2, 5, 16), zeros(1, 16), zeros(2, 16)),
    "guided: batches of two sizes": lambda: guided(zeros(1, 3, 4, 4), zeros(2, 3, 4, 4), zeros(1)),
    "a schedule in float32": lambda: zero_terminal_snr(torch.full((10,), 0.1)),
    "a U-Net's timestep for each of three images, of two": lambda: unet()(zeros(2, 3, 8, 8), zeros(3)),
    "a DiT's whole timesteps": lambda: dit()(zeros(2, 3, 8, 8), zeros(2, dtype=torch.int64)),
    "codes of another size than the latents": lambda: nearest_code(zeros(2, 3, 4), zeros(7, 5)),
    "a VQ-VAE's image without a batch": lambda: VQVAE(CodecConfig(hidden_channels=8))(zeros(3, 8, 8)),
    "a loss that would broadcast": lambda: pixel_loss(zeros(2, 3, 8, 8), zeros(2, 1, 8, 8)),
    "a judge's image without a batch": lambda: Judge(JudgeConfig(widths=(8,)))(zeros(1, 8, 8)),
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_shape_or_dtype_is_refused(call):
    with pytest.raises(TypeCheckError, match="Type-check error whilst checking the parameters of zoo_"):
        WRONG[call]()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_with_shapes_is_checked(module):
    """jaxtyping's hook marks what it has rewritten by its loader."""
    assert type(import_module(module).__spec__.loader).__module__ == "jaxtyping._import_hook"


@pytest.mark.slow
def test_outside_of_tests_nothing_is_checked():
    code = (
        "import sys, torch; from zoo_diffusion.dit import modulate;"
        "x = modulate(torch.zeros(2, 5, 16), torch.zeros(1, 16), torch.zeros(2, 16));"
        "sys.exit('beartype' in sys.modules or x.shape != (2, 5, 16))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
