"""The shipped samplers against diffusers, step by step on the same noise, and against what others recorded."""

import inspect

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor
from zoo_diffusion.config import DiffusionConfig
from zoo_diffusion.layouts.scheduler import diffusers_schedule
from zoo_diffusion.sampling import Point, alphas_bar, betas

from . import recorded
from .walks import SHAPE, Given, Network, assert_close, place, planned, rows_along, spaced, walk

# --- Parity with diffusers, step by step on the same noise ------------------------------------------------------------

LINEAR = {"beta_schedule": "linear", "clip_sample": True}
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
SCHEDULES = pytest.mark.parametrize("schedule_", [LINEAR, LATENT, COSINE], ids=lambda s: s["beta_schedule"])


# Two float32 computations of one step are compared, each of about eight roundings: of the weights, which both make in
# float64, of the products and of their sums. Measured on three instruction sets: at most 3.4 together.
ROUNDINGS = 16 * torch.finfo(torch.float32).eps / 2


def explained(prediction: str, here: Point, there: Point, x: Tensor, output: Tensor, noise: Tensor) -> Tensor:
    """How far two float32 computations of a step may lie apart: roundings of its terms, each without its sign.

    Not of their sum: near pure noise x and the network's noise, both about 1, nearly cancel, and x0 is what is left,
    divided by alpha, which may be 5e-5.
    """
    x0 = {
        "epsilon": (x.abs() + here.sigma * output.abs()) / here.alpha,
        "sample": output.abs(),
        "v_prediction": here.alpha * x.abs() + here.sigma * output.abs(),
    }[prediction]
    # x0 twice: as such, and in the noise that it implies or as that of the step before. No sampler adds more noise.
    return ROUNDINGS * (x.abs() + 2 * there.alpha * x0 + here.sigma * noise.abs())


def compare(kind: str, scheduler: str, said: dict, *, last: bool = True, **options) -> None:
    """x after every step of the walk that bundles hold and of theirs, each step from where theirs started it.

    From one x, so that no step's rounding is magnified by the next ones: what is left follows from the step alone.

    Args:
        kind: our sampler.
        scheduler: diffusers' class.
        said: what it is told; our config is what the importer reads in that.
        last: the last step is compared too.
        options: of its `step`; `eta` is also ours.
    """
    import diffusers

    kinds = inspect.signature(getattr(diffusers, scheduler)).parameters
    learned = said.get("variance_type") == "learned_range"
    c = diffusers_schedule(said | {"_class_name": scheduler}, learned=learned)
    clipped = options.get("use_clipped_model_output", True)
    c = replace(c, sampler=kind, eta=options.get("eta", 0.0), clipped_noise=clipped)

    def function(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat((recorded.toy(x, t), torch.tanh(0.5 * x - 0.2)), dim=1) if learned else recorded.toy(x, t)

    for steps in (1, 2, 10, 50):
        theirs = getattr(diffusers, scheduler)(**{name: value for name, value in said.items() if name in kinds})
        # Their tables are float32: near pure noise x is then off by up to 1.6e-5 of it (1e-4 with eta 1 and cosine).
        theirs.alphas_cumprod = alpha_bar = alphas_bar(betas(c))
        theirs.set_timesteps(steps)
        if hasattr(theirs, "sigmas"):
            theirs.sigmas = torch.cat(((1 / alpha_bar[theirs.timesteps] - 1).sqrt(), torch.zeros(1)))
        assert theirs.timesteps.tolist() == spaced(c.spacing, steps, c.num_timesteps)
        alpha, sigma = place(alpha_bar, [*theirs.timesteps.tolist(), -1])
        points = [Point(*numbers) for numbers in zip(alpha, sigma)]
        noises = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(steps)]
        places, bounds = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000))], []
        for i, t in enumerate(theirs.timesteps):
            x, output = places[i], function(places[i], t.reshape(1).float())
            generator = torch.Generator().manual_seed(i)
            places.append(theirs.step(output, t, x, generator=generator, **options).prev_sample.float())
            prediction = said.get("prediction_type", "epsilon")
            bounds.append(explained(prediction, points[i], points[i + 1], x, output[:, : SHAPE[1]], noises[i]))
        sampler = Given(Network(function), c, noises)
        mine = walk(sampler, planned(sampler, steps), places[0], starts=places)
        for i in range(steps if last else steps - 1):
            ratio = float(((mine[i] - places[i + 1]).abs() / bounds[i]).max())
            assert ratio <= 1, f"step {i} of {steps} differs {ratio:.3g} times as much as rounding explains"


@SCHEDULES
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_ddpm_is_diffusers(schedule_, spacing, variance):
    said = schedule_ | {"timestep_spacing": spacing, "variance_type": variance}
    # Where the last step starts above t = 0, theirs leaves the larger variance's noise in the picture.
    compare("ddpm", "DDPMScheduler", said, last=spacing == "leading" or variance == "fixed_small")


@SCHEDULES
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clipped", [True, False])
def test_ddim_is_diffusers(schedule_, spacing, eta, prediction, clipped):
    """Where an image is clipped, its noise is that of the clipped image or the network's own: their
    `use_clipped_model_output`."""
    said = schedule_ | {"timestep_spacing": spacing, "prediction_type": prediction}
    compare("ddim", "DDIMScheduler", said, eta=eta, use_clipped_model_output=clipped)


@SCHEDULES
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_dpm_solver_is_diffusers(schedule_, spacing, prediction):
    said = schedule_ | {"timestep_spacing": spacing, "prediction_type": prediction, "clip_sample": False}
    compare("dpm++2m", "DPMSolverMultistepScheduler", said)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_ddim_step_is_diffusers_also_in_its_own_linspace(eta):
    """Its steps lead T // steps timesteps down, whatever the next timestep is (huggingface/diffusers#11347): between
    the points that it really takes, ours is the same step. Our linspace takes the next timestep."""
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    theirs.set_timesteps(7)
    alpha_bar = theirs.alphas_cumprod.double()
    x, z = torch.randn(2, *SHAPE)
    for t in theirs.timesteps.tolist():
        c = DiffusionConfig(sampler="ddim", eta=eta, clip=False)
        sampler = Given(Network(recorded.toy), c, [z])
        # A second step, to the end: the last step adds no noise.
        path = place(alpha_bar, [t, t - 1000 // 7, -1])
        rows = rows_along(sampler, torch.tensor([t, max(t - 1000 // 7, 0)]), path)
        output = recorded.toy(x, torch.tensor([float(t)]))
        assert_close(walk(sampler, rows, x)[0], theirs.step(output, t, x, eta=eta, variance_noise=z).prev_sample)


# --- Parity with what was recorded ------------------------------------------------------------------------------------

# Cases of ../shared/parity/schedulers that the sampler of the bundles reproduces from its config alone.
WHOLE_WALKS = {
    "ddpm_linear": "ddpm",
    "ddpm_sigmoid": "ddpm",
    "ddpm_squaredcos_cap_v2": "ddpm",
    "ddpm_v_prediction_trailing": "ddpm",
    "repaint_like_ddpm_1000_subset": "ddpm",  # all 1,000 steps are planned; the first 12 were recorded
    "ddim_leading": "ddim",
    "ddim_trailing": "ddim",
    "ddim_eta05_clipped_output": "ddim",
    "dpmpp_2m": "dpm++2m",
}

# Cases whose steps are ours, between points that no config of ours chooses.
SINGLE_STEPS = {
    "ddpm_custom_timesteps": "ddpm",  # a list of timesteps
    "ddim_eta1": "ddim",  # clipped images with the network's own noise
    "ddim_sd_offset1_alpha_to_one_false": "ddim",  # timesteps shifted by one; ends at abar_0 instead of 1
    "dpmpp_1m": "ddim",  # first order only, which is DDIM
    "dpmpp_2m_karras": "dpm++2m",  # sigmas of Karras et al.
    "dpmpp_2m_lu_lambdas": "dpm++2m",  # even in lambda
}

# Cases that are out of scope, and why.
OUT_OF_SCOPE = {
    "another sampler": "cm_multistep cm_onestep ddim_inverse deis_2m dpm2_noise_3s dpmpp_2s dpmpp_3m dpmpp_3m_25steps "
    "dpmpp_3s dpmpp_sde_2m dpmsolver_2m_noise euler euler_ancestral euler_karras euler_trailing_v heun heun_karras "
    "kdpm2 kdpm2_ancestral lms pndm pndm_prk tcd unipc_bh1_order3 unipc_karras unipc_noise_pred",
    "another form of the second order": "dpmpp_2m_heun_type",
    "dynamic thresholding, for pixels with guidance far above ours": "ddpm_sample_pred_thresholding "
    "dpmpp_2m_thresholding",
    "another process: EDM's or flow matching": "edm_dpmpp_2m edm_dpmpp_2m_exponential edm_euler flow_dpmpp_2m "
    "flow_euler flow_heun flow_unipc_shift3",
    "no sampler; see test_sampling_process.py": "forward_process",
}


@pytest.mark.shared
def test_every_recorded_case_has_its_place(shared_data):
    cases = {folder.name for folder in (shared_data / "parity/schedulers").iterdir()}
    placed = [*WHOLE_WALKS, *SINGLE_STEPS, *(name for names in OUT_OF_SCOPE.values() for name in names.split())]
    assert cases == set(placed) and len(placed) == len(cases)


@pytest.mark.shared
@pytest.mark.parametrize("case", WHOLE_WALKS)
def test_the_walk_is_the_recorded_one(shared_data, case):
    folder = shared_data / "parity/schedulers" / case
    io, said = recorded.io(folder), recorded.config(folder)
    options = said["_call"].get("step", {})
    c = diffusers_schedule({"clip_sample": False} | said, learned=False)
    c = replace(c, sampler=WHOLE_WALKS[case], eta=options.get("eta", 0.0))
    steps = said["_steps"]
    assert spaced(c.spacing, steps, c.num_timesteps) == io["timesteps"].tolist()
    sampler = Given(Network(recorded.toy), c, io.get("noises", ()))
    with torch.no_grad():
        mine = walk(sampler, planned(sampler, steps)[: len(io["trajectory"])], io["x_start"])
    for ours, theirs in zip(mine, io["trajectory"], strict=True):
        assert_close(ours, theirs)


@pytest.mark.shared
@pytest.mark.parametrize("case", SINGLE_STEPS)
def test_each_step_is_the_recorded_one(shared_data, case):
    folder = shared_data / "parity/schedulers" / case
    io, said = recorded.io(folder), recorded.config(folder)
    timesteps, eta = io["timesteps"].long(), said["_call"].get("step", {}).get("eta", 0.0)
    ours = said | {"steps_offset": 0, "set_alpha_to_one": True}  # an import refuses what is else
    if "sigmas" in io:  # sigma / alpha
        path = Point.of(1 / (1 + io["sigmas"].double().square()))
        c = DiffusionConfig(clip=False)
    else:
        c = diffusers_schedule(ours, learned=False)
        end = -1 if said.get("set_alpha_to_one", True) else 0
        path = place(alphas_bar(betas(c)), [*timesteps.tolist(), end])
    c = replace(c, sampler=SINGLE_STEPS[case], eta=eta, clipped_noise=False)
    sampler = Given(Network(recorded.toy), c, io.get("noises", ()))
    rows = rows_along(sampler, timesteps, path)
    starts = [io["x_start"], *io["trajectory"][:-1]]
    for mine, theirs in zip(walk(sampler, rows, starts[0], starts), io["trajectory"], strict=True):
        assert_close(mine, theirs)


OPENAI = (
    *(f"{name}_{kind}_{kept}" for name in ("linear", "cosine") for kind in ("fixed", "ls")
      for kept in ("full", "50", "ddim20", "10-5-3")),
    "rescaled_4000_to_50", "predict_xstart_ddim10", "rescaled_learned_sigmas_kl",
)  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("case", OPENAI)
def test_openais_samplers(shared_data, case):
    """p_sample_loop, and ddim_sample_loop with eta 0 and 0.5, between the timesteps that OpenAI's code takes."""
    folder = shared_data / "parity/openai/gaussian_diffusion_toy"
    io, told = recorded.io(folder), recorded.config(folder)["cases"][case]
    T, learned = told["steps"], told.get("learn_sigma", False)
    c = DiffusionConfig(
        schedule=told["noise_schedule"],
        num_timesteps=T,
        beta_start=1e-4 * 1000 / T,
        beta_end=0.02 * 1000 / T,
        timestep_scale=1000 / T if told.get("rescale_timesteps") else 1.0,
        prediction="x0" if told.get("predict_xstart") else "epsilon",
        variance="learned" if learned else "large",
    )
    kept = [int(t) for t in io[f"{case}/timestep_map"]][::-1]
    path = place(alphas_bar(betas(c)), [*kept, -1])
    steps, recorded_noises = len(kept), io.get(f"{case}/noises", ())
    # The rule of meta.json; the last ones were not recorded. torch's normal numbers differ in the last bits between
    # processors.
    noises = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(5000 + n)) for n in range(3 * steps)]
    for noise, theirs in zip(noises, recorded_noises):
        assert_close(noise, theirs)

    def toy(x: Tensor, t: Tensor) -> Tensor:
        output, v = recorded.openai_toy(x, t)
        return torch.cat((output, v.expand_as(output)), dim=1) if learned else output

    compared = 0
    for name, kind, eta in (("p_sample", "ddpm", 0.0), ("ddim_eta0", "ddim", 0.0), ("ddim_eta05", "ddim", 0.5)):
        if f"{case}/{name}" in io:
            sampler = Given(Network(toy), replace(c, sampler=kind, eta=eta), noises)
            rows = rows_along(sampler, torch.tensor(kept), path)
            if f"{case}/network_t" in io:
                assert_close(rows[:, 0], io[f"{case}/network_t"].float())
            assert_close(walk(sampler, rows, io["x_T"])[-1], io[f"{case}/{name}"])
            compared += 1
            noises = noises[steps:]
    assert compared
