"""diffusers' scheduler_config.json beside the weights: read, or refused in one line."""

import json

import pytest
import torch
from zoo_diffusion.layouts import scheduler as scheduler_config

from zoo.errors import InvalidFileError

from .checkpoints import importing, refused, unet2d, write_unet2d


@pytest.mark.parametrize(
    "said, field, value",
    [
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085}, "beta_start", 0.00085),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "zero_terminal_snr", True),
        ({"prediction_type": "sample"}, "prediction", "x0"),
        ({"variance_type": "fixed_large"}, "variance", "large"),
        ({"clip_sample": False}, "clip", False),
        ({"clip_sample": False, "clip_sample_range": 2.0}, "clip", False),
        ({"_class_name": "DPMSolverMultistepScheduler", "clip_sample": True}, "clip", False),  # it knows no clipping
        ({"variance_type": "fixed_small_log"}, "variance", "small"),
        ({"beta_schedule": "sigmoid"}, "schedule", "sigmoid"),
        ({"timestep_spacing": "trailing", "steps_offset": 1}, "spacing", "trailing"),
        ({"_class_name": "DDIMScheduler"}, "spacing", "leading"),
        ({"_class_name": "DPMSolverMultistepScheduler"}, "spacing", "linspace"),
        ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": float("-inf")}, "spacing", "linspace"),
        ({"predict_epsilon": True}, "prediction", "epsilon"),
        ({"predict_epsilon": False}, "prediction", "x0"),
        ({"_class_name": "DDIMScheduler"}, "clipped_noise", False),
        ({"_class_name": "DDIMScheduler", "use_clipped_model_output": True}, "clipped_noise", True),
        ({}, "schedule", "linear"),
        ({}, "spacing", "trailing"),
    ],
)
def test_the_schedule_beside_the_weights_is_read(tmp_path, said, field, value):
    config, tensors = unet2d()
    folder = write_unet2d(tmp_path, tensors, config)
    (folder / "scheduler_config.json").write_text(json.dumps(said))
    assert importing("ddpm", folder).config["diffusion"][field] == value


@pytest.mark.parametrize("said", ["[1, 2]", "{", "[" * 5000])
def test_a_scheduler_that_cannot_be_read(tmp_path, monkeypatch, said):
    config, tensors = unet2d()
    folder = write_unet2d(tmp_path / "unet", tensors, config)
    (folder / "scheduler_config.json").write_text(said)
    assert "scheduler_config.json is not a scheduler's config: " in refused(tmp_path, monkeypatch, "ddpm", folder)


DPM = {"_class_name": "DPMSolverMultistepScheduler"}


@pytest.mark.parametrize(
    "said, told",
    [
        ({"beta_schedule": "laplace"}, "beta_schedule is laplace; only linear, scaled_linear, squaredcos_cap_v2, "),
        ({"prediction_type": "flow_prediction"}, "prediction_type is flow_prediction; only epsilon, sample, "),
        ({"thresholding": True}, "thresholding is True; that is not supported"),
        ({"clip_sample_range": 2.0}, "clip_sample_range is 2.0; only 1 can be imported"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas is [0.1, 0.2]; that is not supported"),
        ({"variance_type": "fixed_large_log"}, "variance_type is fixed_large_log; only fixed_small, "),
        ({"variance_type": "learned_range"}, "variance_type is learned_range; only fixed_small, "),
        ({"steps_offset": 1}, "steps_offset is 1; only 0 can be imported"),
        ({"timestep_spacing": "linspace"}, "timestep_spacing is linspace; only leading, trailing can be imported"),
        ({"timestep_spacing": "karras"}, "timestep_spacing is karras; only leading, trailing can be imported"),
        ({"_class_name": "DDIMScheduler", "set_alpha_to_one": False}, "set_alpha_to_one is False; only True can be"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "_class_name is ScoreSdeVeScheduler; only DDPMScheduler, DDIM"),
        (DPM | {"timestep_spacing": "leading"}, "timestep_spacing is leading; only linspace, trailing can be imported"),
        (DPM | {"solver_order": 3}, "solver_order is 3; only 2 can be imported"),
        (DPM | {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type is sde-dpmsolver++; only dpmsolver++ can be"),
        (DPM | {"use_karras_sigmas": True}, "use_karras_sigmas is True; that is not supported"),
        (DPM | {"final_sigmas_type": "sigma_min"}, "final_sigmas_type is sigma_min; only zero can be imported"),
        ({"predict_epsilon": "yes"}, "predict_epsilon is yes; only True, False"),
        ({"exotic": "yes"}, "exotic is yes; that is not supported"),
        ({"num_train_timesteps": -1}, "diffusion.num_timesteps is -1; it must be a whole number from 2 to 4000"),
        ({"clip_sample": "yes"}, "diffusion.clip is 'yes'; it must be true or false"),
        (
            {"rescale_betas_zero_snr": True},
            "diffusion.prediction is epsilon; with zero_terminal_snr it must be v or x0",
        ),
    ],
)
def test_a_scheduler_that_asks_for_what_we_do_not(tmp_path, said, told):
    config, tensors = unet2d()
    folder = write_unet2d(tmp_path / "unet", tensors, config)
    (folder / "scheduler_config.json").write_text(json.dumps(said))
    with pytest.raises(InvalidFileError) as e:
        importing("ddpm", folder)
    assert told in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_the_steps_of_an_imported_scheduler_are_diffusers_own(tmp_path, kind, spacing):
    """Where a spacing is taken, our steps are at its timesteps, and the schedule is its schedule."""
    import diffusers
    from zoo_diffusion import sampling

    theirs = getattr(diffusers, kind)(timestep_spacing=spacing, beta_schedule="squaredcos_cap_v2")
    theirs.save_config(tmp_path)  # writes scheduler_config.json with all of the class's fields
    said = json.loads((tmp_path / "scheduler_config.json").read_text())
    if spacing not in scheduler_config.SCHEDULERS[kind][1]:
        with pytest.raises(InvalidFileError, match=f"timestep_spacing is {spacing}"):
            scheduler_config.diffusers_schedule(said, learned=False)
        return
    ours = scheduler_config.diffusers_schedule(said, learned=False)
    torch.testing.assert_close(sampling.betas(ours).float(), theirs.betas, rtol=1e-5, atol=1e-6)
    for steps in (1, 2, 7, 20, 50):
        theirs.set_timesteps(steps)
        t = sampling.timesteps(ours.spacing, torch.arange(steps), torch.tensor(steps), 1000)
        assert t.tolist() == theirs.timesteps.tolist(), steps
