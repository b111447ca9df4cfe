"""The tasks in torch: the parts of the loop are the loop, and each does what its name says."""

import pytest
import torch
from zoo_diffusion.sampling import Row
from zoo_latent.tasks import build

from .models import CODEC, DIFFUSION, NETWORK, made, plain, text


def given(parts, *texts: str, style: int = 1, guidance: float = 2.0):
    number = len(texts)
    negative = text(*[""] * number)
    return text(*texts), negative, torch.full((number,), style), torch.full((number,), guidance)


@pytest.fixture(scope="module")
def model():
    return made(plain())


STEPS = torch.tensor(3)


@torch.no_grad()
def test_the_parts_give_what_the_whole_gives(model):
    parts, c = model
    seed, (words, negative, style, guidance) = torch.tensor([5, 6]), given(parts, "red apple", "the sun")
    whole = build("generate", parts, c)(seed, STEPS, words, negative, style, guidance)
    x, previous, plan, *read = build("generate_begin", parts, c)(seed, STEPS, words, negative)
    for row in plan[:3]:
        x, previous = build("generate_step", parts, c)(x, previous, row, *read, style, guidance)
    assert Row.of(plan[3]).alpha == 0  # the plan ends there
    assert torch.equal(build("generate_end", parts, c)(x), whole)


@torch.no_grad()
def test_a_picture_is_the_same_alone_and_in_a_batch(model):
    parts, c = model
    task, seed = build("generate", parts, c), torch.tensor([5, 6])
    both = task(seed, STEPS, *given(parts, "red apple", "the sun"))
    alone = task(seed[1:], STEPS, *given(parts, "the sun"))
    assert (both[1].int() - alone[0].int()).abs().max() <= 1


@torch.no_grad()
def test_words_style_negative_and_guidance_have_an_effect(model):
    parts, c = model
    task, seed = build("generate", parts, c), torch.tensor([5])
    words, negative, style, guidance = given(parts, "red apple")
    before = task(seed, STEPS, words, negative, style, guidance)
    for changed in (
        (text("the sun"), negative, style, guidance),
        (words, text("the sun"), style, guidance),
        (words, negative, style + 1, guidance),
        (words, negative, style, guidance + 3),
    ):
        assert not torch.equal(task(seed, STEPS, *changed), before)


@torch.no_grad()
def test_without_guidance_the_negative_text_has_no_effect(model):
    parts, c = model
    task, seed = build("generate", parts, c), torch.tensor([5])
    words, negative, style, _ = given(parts, "red apple")
    one = torch.ones(1)
    pictures = [task(seed, STEPS, words, n, style, one) for n in (negative, text("the sun"))]
    assert (pictures[0].int() - pictures[1].int()).abs().max() <= 1


@torch.no_grad()
def test_inpainting_keeps_what_is_not_marked(model):
    parts, c = model
    image = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    mask = torch.zeros(1, 16, 16, 1, dtype=torch.uint8)
    mask[:, 3:9, 5:12] = 255
    made = build("inpaint", parts, c)(image, mask, torch.tensor([1]), STEPS, *given(parts, "red apple"))
    kept = (mask < 128).expand_as(image)
    assert torch.equal(made[kept], image[kept]) and not torch.equal(made[~kept], image[~kept])
    nothing = build("inpaint", parts, c)(image, mask * 0, torch.tensor([1]), STEPS, *given(parts, "red apple"))
    assert torch.equal(nothing, image)


@torch.no_grad()
def test_variations_of_no_strength_are_the_picture_as_the_codec_gives_it(model):
    parts, c = model
    image = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    again = build("decode", parts, c)(build("encode", parts, c)(image))
    task = build("variations", parts, c)
    same = task(image, torch.zeros(1), torch.tensor([1]), STEPS, *given(parts, "red apple"))
    assert (same.int() - again.int()).abs().max() <= 1
    other = task(image, torch.ones(1), torch.tensor([1]), STEPS, *given(parts, "red apple"))
    assert not torch.equal(other, again)


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["dpm++2m", "heun", "plms", "unipc"])
def test_variations_start_anew_where_they_start(model, sampler, monkeypatch):
    """With a denoiser that always finds the picture, it comes back whatever the strength: what a sampler remembers of
    the steps before must not count."""
    diffusion = DIFFUSION | {"sampler": sampler, "prediction": "epsilon", "spacing": "leading"}
    parts, c = made(plain(diffusion=diffusion))
    image = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    latents = build("encode", parts, c)(image)
    task = build("variations", parts, c)
    monkeypatch.setattr(task, "predict_unclipped", lambda x, row, asked, guidance: (latents, row.noise))
    same = task(image, torch.tensor([0.35, 0.7]), torch.tensor([1, 2]), torch.tensor(9), *given(parts, "sun", "moon"))
    assert (same.int() - build("decode", parts, c)(latents).int()).abs().max() <= 1


@torch.no_grad()
@pytest.mark.parametrize(
    "codec", [CODEC | {"num_codes": 16}, {"hidden_channels": 8, "downsampling": 2, "code_size": 4, "num_codes": 16}]
)
def test_a_discrete_codec_decodes_the_nearest_codes(codec):
    parts, c = made(plain(codec=codec, text=None, labels=None, network=NETWORK))
    image = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    latents = build("encode", parts, c)(image)
    codebook = parts.codec.quantizer.codebook
    nearest = torch.cdist(latents.permute(0, 2, 3, 1).reshape(-1, 4), codebook).argmin(1)
    codes = codebook[nearest].reshape(1, 8, 8, 4).permute(0, 3, 1, 2)
    decode = build("decode", parts, c)
    assert torch.equal(decode(latents), decode(codes))
    assert build("generate", parts, c)(torch.tensor([1]), STEPS).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_and_end_of_the_schedule_are_those_of_diffusers(clean, offset):
    from diffusers import DDIMScheduler

    schedule = {"schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "spacing": "leading"}
    sampler = {"sampler": "ddim", "prediction": "epsilon", "steps_offset": offset, "clean_end": clean}
    parts, c = made(plain(diffusion=DIFFUSION | schedule | sampler))
    rows = [Row.of(row) for row in build("generate", parts, c).plan(torch.tensor(4))[:4]]
    theirs = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=offset, set_alpha_to_one=clean,
        clip_sample=False,
    )  # fmt: skip
    theirs.set_timesteps(4)
    assert [int(row.t) for row in rows] == theirs.timesteps.tolist()
    x, eps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for row, t in zip(rows, theirs.timesteps, strict=True):
        expected = theirs.step(eps, t, x).prev_sample
        x0 = row.from_x * x + row.from_output * eps
        torch.testing.assert_close(row.x * x + row.x0 * x0, expected, rtol=1e-5, atol=1e-5)
