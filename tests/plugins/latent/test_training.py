"""Training: a codec stays as it is, latents and tokens are computed once, and a caption is drawn at each step."""

import pytest
import torch
from zoo_latent.plugin import build_module, build_trainer
from zoo_latent.training import captions

from zoo.errors import UsageError
from zoo.hookspecs import Batch, BuildRequest, TrainRequest

from .models import ASSETS, CAPTIONS, plain, text


def trainer_of(config: dict, **settings):
    torch.manual_seed(0)
    module = build_module(BuildRequest(family="latent", config=config, assets=ASSETS))
    request = TrainRequest(
        family="latent",
        config=config,
        settings={"steps": 40, "batch_size": 4, "learning_rate": 3e-3, "warmup_steps": 0, **settings},
        module=module,
        device=torch.device("cpu"),
        distribute=lambda part: part,
        parent="codec:1",
    )
    return build_trainer(request), module


def batch(number: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.randint(0, 256, (number, 16, 16, 3), dtype=torch.uint8, generator=generator),
        labels=torch.full((number,), -1),
        arrays={"text": text(*CAPTIONS[:number], width=64), "style": torch.arange(number) % 3},
    )


def seeded(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(step)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_falls_and_the_codec_stays_as_it_is(precision):
    trainer, module = trainer_of(plain(), precision=precision)
    before = {name: tensor.clone() for name, tensor in module["codec"].state_dict().items()}
    losses = [float(trainer.step(batch(), step, seeded(0))["loss"]) for step in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    after = trainer.trained_module()["codec"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_latents_are_encoded_once_and_measured_in_the_first_batch():
    trainer, _ = trainer_of(plain())
    calls = []
    trainer.codec.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    for step in range(3):
        trainer.step(batch(), step, seeded(step))
    assert len(calls) == 1
    published = trainer.trained_module()["denoiser"]
    scaled = published.scaled(torch.stack([*trainer.latents.values()]))
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(4), atol=1e-5, rtol=0)
    assert published.measured == 4


def test_latents_are_those_of_the_picture_also_when_few_are_remembered(monkeypatch):
    monkeypatch.setattr("zoo_latent.training.MOST_REMEMBERED", 0)
    trainer, _ = trainer_of(plain())
    images = batch().images
    first, again = trainer._raw(images), trainer._raw(images)
    torch.testing.assert_close(first, again)


def test_captions_are_lines():
    assert captions(b"red apple\n\n  a fruit \n\0\0\0") == ["red apple", "a fruit"]
    assert captions(b"\0\0") == []


def test_each_caption_of_a_picture_is_drawn_and_dropped_ones_are_empty():
    trainer, module = trainer_of(plain())
    texts = text("red apple\nthe sun\na red heart", width=64)
    drawn = {tuple(trainer._tokens(texts, seeded(i), torch.tensor([False]))[0].tolist()) for i in range(40)}
    assert drawn == {
        tuple(row) for row in module["text"].tokenize(text("red apple", "the sun", "a red heart")).tolist()
    }
    dropped = trainer._tokens(texts, seeded(0), torch.tensor([True]))
    assert torch.equal(dropped, module["text"].tokenize(text("")))


def test_a_label_over_the_classes_is_refused():
    trainer, _ = trainer_of(plain())
    wrong = batch()
    with pytest.raises(UsageError, match="a label is 3, but num_classes is 3"):
        trainer.step(Batch(images=wrong.images, labels=wrong.labels, arrays=wrong.arrays | {"style": torch.arange(4)}),
                     0, seeded(0))  # fmt: skip


def test_a_look_draws_the_captions_of_the_data():
    trainer, _ = trainer_of(plain())
    trainer.step(batch(), 0, seeded(0))
    drawn = trainer.examine(batch(), seeded(0))["captions"]
    assert drawn.shape == (4, 16, 16, 3) and drawn.dtype == torch.uint8


def test_a_training_goes_on_where_it_was_saved():
    trainer, _ = trainer_of(plain())
    for step in range(2):
        trainer.step(batch(), step, seeded(step))
    state = trainer.state_dict()
    other, _ = trainer_of(plain())
    other.load_state_dict(state)
    losses = [float(t.step(batch(), 2, seeded(2))["loss"]) for t in (trainer, other)]
    assert losses[0] == losses[1]
