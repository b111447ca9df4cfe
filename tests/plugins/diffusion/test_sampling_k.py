"""Samplers of k-diffusion, of flows and of consistency models against diffusers, step by step on the same noise.

The bound is diffusers' own error: that of its float32 walk against its float64 walk, which runs through a torch and a
NumPy whose float32 is float64, since its schedulers name float32.
"""

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor
from zoo_diffusion.config import DiffusionConfig

from . import recorded
from .walks import SHAPE, Given, Network, planned, walk

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
OURS = {"schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip": False}
EPS = torch.finfo(torch.float32).eps


class Double:
    """A module whose float32 is float64."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, "float64" if name == "float32" else name)


def noises(steps: int) -> list[Tensor]:
    return [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(steps)]


def theirs(kind: str, said: dict, steps: int, monkeypatch, dtype) -> tuple[list[Tensor], list[float]]:
    """x as the network sees it, before the first step and after each, and the timesteps."""
    import diffusers

    module = importlib.import_module(getattr(diffusers, kind).__module__)
    given = iter(noises(steps))
    with monkeypatch.context() as patch:
        if dtype == torch.float64:
            patch.setattr(module, "torch", Double(torch))
            patch.setattr(module, "np", Double(np))
        if hasattr(module, "randn_tensor"):
            patch.setattr(module, "randn_tensor", lambda *a, **k: next(given).to(dtype))
        scheduler = getattr(module, kind)(**said)
        scheduler.set_timesteps(steps)
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000)).to(dtype)
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)  # a flow's scheduler has none
        seen = []
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            seen.append(scaled)
            x = scheduler.step(recorded.toy(scaled, t.to(dtype).reshape(1)), t, x).prev_sample
            assert x.dtype == dtype
    return [*seen, x], scheduler.timesteps.tolist()


def check(kind: str, said: dict, c: DiffusionConfig, steps: int, monkeypatch) -> None:
    exact, timesteps = theirs(kind, said, steps, monkeypatch, torch.float64)
    single, _ = theirs(kind, said, steps, monkeypatch, torch.float32)
    sampler = Given(Network(recorded.toy), c, noises(steps))
    plan = planned(sampler, len(timesteps))  # a pass of the network each
    np.testing.assert_allclose(plan[:, 0], timesteps, rtol=1e-5, atol=1e-3)
    ours = walk(sampler, plan, exact[0].float())
    # Over the whole run: at one step, or after a few, the rounding of a single run may be near 0 by luck.
    largest = max(
        float((one - two).abs().max() / two.abs().max()) for one, two in zip(single[1:], exact[1:], strict=True)
    )
    for mine, two in zip(ours, exact[1:], strict=True):
        error = float((mine - two).abs().max()) / float(two.abs().max())
        assert error <= 4 * max(largest, EPS), (error, largest)


STEPS = pytest.mark.parametrize("steps", [2, 7, 20, 50])
SPACINGS = pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "v"])
THEIRS = {"epsilon": "epsilon", "v": "v_prediction"}


@STEPS
@SPACINGS
@PREDICTIONS
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_euler_is_diffusers(steps, spacing, prediction, sampler, monkeypatch):
    kind = {"euler": "EulerDiscreteScheduler", "euler_ancestral": "EulerAncestralDiscreteScheduler"}[sampler]
    said = LATENT | {"timestep_spacing": spacing, "prediction_type": THEIRS[prediction], "steps_offset": 1}
    c = DiffusionConfig(**OURS, sampler=sampler, spacing=spacing, prediction=prediction, steps_offset=1)
    check(kind, said, c, steps, monkeypatch)


@STEPS
@SPACINGS
def test_euler_with_karras_levels_is_diffusers(steps, spacing, monkeypatch):
    said = LATENT | {"timestep_spacing": spacing, "use_karras_sigmas": True}
    c = DiffusionConfig(**OURS, sampler="euler", spacing=spacing, karras=True)
    check("EulerDiscreteScheduler", said, c, steps, monkeypatch)


@STEPS
@SPACINGS
@PREDICTIONS
@pytest.mark.parametrize("karras", [False, True])
def test_heun_is_diffusers(steps, spacing, prediction, karras, monkeypatch):
    said = LATENT | {"timestep_spacing": spacing, "prediction_type": THEIRS[prediction], "use_karras_sigmas": karras}
    c = DiffusionConfig(**OURS, sampler="heun", spacing=spacing, prediction=prediction, karras=karras)
    check("HeunDiscreteScheduler", said, c, steps, monkeypatch)


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 20, 50])
@pytest.mark.parametrize("offset", [0, 1])
@PREDICTIONS
def test_plms_is_diffusers(steps, offset, prediction, monkeypatch):
    said = LATENT | {"skip_prk_steps": True, "steps_offset": offset, "prediction_type": THEIRS[prediction]}
    c = DiffusionConfig(
        **OURS, sampler="plms", spacing="leading", prediction=prediction, steps_offset=offset, clean_end=False
    )
    check("PNDMScheduler", said, c, steps, monkeypatch)


@STEPS
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("karras", [False, True])
@PREDICTIONS
def test_unipc_is_diffusers(steps, spacing, karras, prediction, monkeypatch):
    said = LATENT | {"timestep_spacing": spacing, "prediction_type": THEIRS[prediction], "use_karras_sigmas": karras}
    c = DiffusionConfig(**OURS, sampler="unipc", spacing=spacing, prediction=prediction, karras=karras)
    check("UniPCMultistepScheduler", said, c, steps, monkeypatch)


@STEPS
@SPACINGS
def test_euler_from_pure_noise_is_diffusers(steps, spacing, monkeypatch):
    said = LATENT | {"timestep_spacing": spacing, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    c = DiffusionConfig(**OURS, sampler="euler", spacing=spacing, prediction="v", zero_terminal_snr=True)
    check("EulerDiscreteScheduler", said, c, steps, monkeypatch)


@STEPS
@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("sampler", ["dpm++2m", "dpm++2m_sde"])
@PREDICTIONS
def test_dpm_solver_with_karras_levels_and_noise_is_diffusers(steps, karras, sampler, prediction, monkeypatch):
    algorithm = {"dpm++2m": "dpmsolver++", "dpm++2m_sde": "sde-dpmsolver++"}[sampler]
    said = LATENT | {"use_karras_sigmas": karras, "algorithm_type": algorithm, "prediction_type": THEIRS[prediction]}
    c = DiffusionConfig(**OURS, sampler=sampler, spacing="linspace", prediction=prediction, karras=karras)
    check("DPMSolverMultistepScheduler", said, c, steps, monkeypatch)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
@PREDICTIONS
def test_lcm_is_diffusers(steps, prediction, monkeypatch):
    c = DiffusionConfig(**OURS, sampler="lcm", prediction=prediction)
    check("LCMScheduler", LATENT | {"prediction_type": THEIRS[prediction]}, c, steps, monkeypatch)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_diffusers(steps, shift, monkeypatch):
    c = DiffusionConfig(prediction="flow", shift=shift, sampler="euler", spacing="linspace", clip=False)
    check("FlowMatchEulerDiscreteScheduler", {"shift": shift}, c, steps, monkeypatch)


@SPACINGS
@pytest.mark.parametrize("karras", [False, True])
def test_the_start_is_diffusers_own(spacing, karras, monkeypatch):
    """k-diffusion starts at sigma eps, where the first place is not pure noise."""
    said = LATENT | {"timestep_spacing": spacing, "use_karras_sigmas": karras}
    exact, _ = theirs("EulerDiscreteScheduler", said, 7, monkeypatch, torch.float64)
    sampler = Given(
        Network(recorded.toy),
        DiffusionConfig(**OURS, sampler="euler", spacing=spacing, karras=karras),
    )
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000))
    monkeypatch.setattr(sampler, "noise", lambda seed, stream: noise)
    torch.testing.assert_close(sampler.start(torch.zeros(2, dtype=torch.int64), torch.tensor(7)), exact[0].float())
