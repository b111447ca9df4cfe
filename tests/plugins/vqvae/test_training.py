"""Training of the codec: what a step computes and logs, what is published, which settings there are."""

from copy import deepcopy

import pytest
import torch
from zoo_vqvae import plugin
from zoo_vqvae.training import reconstruction_loss

from tests.trainers import batch_of, drawings, generator, run_of, trainer_of
from zoo.errors import UsageError


def trainer(over=None, **settings):
    return trainer_of(plugin, run_of(plugin, "vqvae", over, **settings))


def test_the_reconstruction_loss_is_the_mean_squared_error():
    assert reconstruction_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])).item() == 2.5


@pytest.mark.parametrize(
    "learn, terms",
    [
        ("ema", {"loss", "reconstruction", "commitment", "perplexity"}),
        ("loss", {"loss", "reconstruction", "commitment", "codebook", "perplexity"}),
    ],
)
def test_a_step_lowers_the_reconstruction_loss_and_names_every_term(learn, terms):
    data = drawings(8)
    training = trainer({"codec": {"learn_codebook": learn}})
    history = [training.step(batch_of(data), step, generator(step)) for step in range(20)]
    assert set(history[0]) == terms
    assert history[-1]["reconstruction"] < 0.9 * history[0]["reconstruction"]
    assert 1 <= history[-1]["perplexity"] <= 8
    assert all(not value.requires_grad for value in history[-1].values() if isinstance(value, torch.Tensor))


def test_the_losses_are_added_with_the_papers_weights():
    # With everything but one weight frozen, the gradient is that of reconstruction + beta commitment.
    over = {"codec": {"commitment_weight": 0.5, "learn_codebook": "loss"}}
    training, data = trainer(over, clip_gradient=1e9, learning_rate=1e-9), drawings(8)
    weight = training.module["codec"].encoder.to_code.weight
    training.step(batch_of(data), 0, generator())
    ours = weight.grad.clone()
    again = trainer(over, clip_gradient=1e9, learning_rate=1e-9)
    codec = again.module["codec"]
    x = batch_of(data).images.permute(0, 3, 1, 2) / 127.5 - 1
    reconstruction, quantized = codec(x)
    loss = (reconstruction - x).square().mean()
    loss = loss + 0.5 * quantized.losses["commitment"] + quantized.losses["codebook"]
    loss.backward()
    torch.testing.assert_close(ours, codec.encoder.to_code.weight.grad, rtol=1e-4, atol=1e-7)


def test_the_gradient_is_clipped():
    training = trainer(clip_gradient=1e-3)
    training.step(batch_of(drawings(8)), 0, generator())
    norm = torch.stack([p.grad.norm() for p in training.module.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_odd_sizes_are_padded():
    training = trainer()
    data = drawings(4, size=13)
    assert training.step(batch_of(data), 0, generator())["reconstruction"] > 0


def test_the_rate_warms_up_and_falls_to_zero():
    training, data = trainer(warmup_steps=4, learning_rate=0.01, steps=20), drawings(8)
    rates = []
    for step in (0, 3, 12, 20):
        training.step(batch_of(data), step, generator())
        rates.append(training.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0025, 0.01, 0.005, 0.0])


def test_what_is_published_is_the_average_with_the_codebook_as_it_is():
    training, data = trainer(average_decay=0.5), drawings(8)
    for step in range(12):
        training.step(batch_of(data), step, generator(step))
    published, trained = training.trained_module(), training.module
    assert not torch.equal(published["codec"].decoder.from_code.weight, trained["codec"].decoder.from_code.weight)
    assert torch.equal(published["codec"].quantizer.codebook, trained["codec"].quantizer.codebook)
    assert not published.training and not any(p.requires_grad for p in published.parameters())


def test_a_state_makes_another_trainer_go_on_as_the_first_would():
    data = drawings(8)
    first = trainer()
    for step in range(5):
        first.step(batch_of(data), step, generator(step))
    second = trainer(seed=9)
    second.load_state_dict(deepcopy(first.state_dict()))
    for training in (first, second):
        training.step(batch_of(data), 5, generator(5))
    one, other = first.trained_module().state_dict(), second.trained_module().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"clip_gradiant": 1.0}, "there is no 'clip_gradiant'; did you mean 'clip_gradient'?"),
        ({"average_decay": 1}, "average_decay is 1; it must be a number from 0 to below 1"),
        ({"steps": 0}, "steps is 0; it must be a whole number from 1 to 1000000000"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be a number above 0 to 100"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, line):
    with pytest.raises(UsageError) as error:
        trainer(**settings)
    assert str(error.value) == f"vqvae training: {line}"
