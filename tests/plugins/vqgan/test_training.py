"""Training of the codecs: who learns what in which phase, what is published, how crops are cut."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file
from zoo_vqgan import plugin
from zoo_vqgan.perceptual import Backbone
from zoo_vqgan.training import mirrored_at_random, random_squares

from tests.trainers import batch_of, drawings, generator, run_of, trainer_of
from zoo.errors import InvalidFileError, UsageError


def trainer(family="vqgan", over=None, **settings):
    return trainer_of(plugin, run_of(plugin, family, over, **settings))


def moved(training, step: int) -> set[str]:
    """The networks that a step changes."""
    parts = {
        "codec": training.module,
        "average": training.average.module,
        "discriminator": training.discriminator,
        "backbone": training.backbone,
    }
    before = {name: deepcopy(part.state_dict()) for name, part in parts.items()}
    training.step(batch_of(drawings(8)), step, generator(step))
    return {
        name
        for name, part in parts.items()
        if any(not torch.equal(tensor, before[name][key]) for key, tensor in part.state_dict().items())
    }


@pytest.mark.parametrize("family", ["vqgan", "klvae"])
def test_each_phase_moves_its_own_networks(family):
    training = trainer(family, perceptual_steps=2, discriminator_start=4)
    assert moved(training, 0) == {"backbone"}
    assert moved(training, 2) == {"codec", "average"}
    assert moved(training, 4) == {"codec", "average", "discriminator"}


def test_a_step_names_every_term():
    training = trainer(perceptual_steps=0, discriminator_start=1)
    first = training.step(batch_of(drawings(8)), 0, generator())
    assert [*first] == ["pixel", "perceptual", "commitment", "perplexity"]
    second = training.step(batch_of(drawings(8)), 1, generator())
    assert {*second} - {*first} == {"adversarial", "adaptive_weight", "discriminator"}
    assert "kl" in trainer("klvae", perceptual_steps=0).step(batch_of(drawings(8)), 0, generator())
    assert not any(value.requires_grad for value in second.values())


def test_beta_weighs_the_commitment_and_not_the_codebook():
    """The authors' code has it the other way round, and keeps it for its old checkpoints."""

    def gradients(beta: float):
        over = {"codec": {"learn_codebook": "loss", "commitment_weight": beta}}
        settings = {"pixel_weight": 0.0, "perceptual_weight": 0.0, "discriminator_start": 9, "clip_gradient": 1e9}
        training = trainer(over=over, **settings)
        training.step(batch_of(drawings(8)), 0, generator())
        codec = training.module["codec"]
        return codec.quantizer.codebook.grad, codec.encoder.to_code.weight.grad

    (codebook, encoder), (codebook_doubled, encoder_doubled) = gradients(0.25), gradients(0.5)
    torch.testing.assert_close(codebook_doubled, codebook)
    torch.testing.assert_close(encoder_doubled, 2 * encoder)


def test_a_resumed_training_is_the_same_training():
    whole = trainer(perceptual_steps=1, discriminator_start=2)
    for step in range(4):
        whole.step(batch_of(drawings(8)), step, generator(step))
    first = trainer(perceptual_steps=1, discriminator_start=2)
    for step in range(3):
        first.step(batch_of(drawings(8)), step, generator(step))
    second = trainer(perceptual_steps=1, discriminator_start=2)
    second.load_state_dict(deepcopy(first.state_dict()))
    second.step(batch_of(drawings(8)), 3, generator(3))
    a, b = whole.trained_module().state_dict(), second.trained_module().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_card_is_told_which_weights_the_perceptual_loss_had(tmp_path):
    assert trainer().note == "perceptual loss: timm's test_resnet, trained on the labels of the training data"
    assert trainer(perceptual_weight=0.0).note == "no perceptual loss"
    weights = {name: tensor.contiguous() for name, tensor in trainer().backbone.network.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    given = trainer(perceptual_weights=str(tmp_path / "w.safetensors"))
    assert given.note == "perceptual loss: timm's test_resnet, given weights"


# --- What the perceptual loss sees with -------------------------------------------------------------------------------


def backbone(num_classes: int = 0, **settings) -> Backbone:
    torch.manual_seed(0)
    return Backbone(trainer(**settings).settings, 1, num_classes)


def test_without_labels_the_backbone_learns_which_way_up_a_picture_is():
    network = backbone()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    picture = torch.linspace(-1, 1, 32).expand(16, 1, 32, 32).contiguous()  # dark on the left, bright on the right
    losses = []
    for step in range(12):
        optimizer.zero_grad()
        loss = network.loss(picture, torch.full((16,), -1), generator(step))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert network.origin == "rotations of the training data" and backbone(2).origin == "labels of the training data"


def test_the_backbones_weights_may_come_from_a_file(tmp_path):
    ours = backbone(num_classes=2)
    save_file(ours.network.state_dict(), tmp_path / "weights.safetensors")
    given = backbone(num_classes=2, perceptual_weights=str(tmp_path / "weights.safetensors"))
    x = torch.rand(1, 1, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(ours.eval()(x), given(x)))
    assert not any(p.requires_grad for p in given.parameters())
    with pytest.raises(InvalidFileError, match="perceptual_weights: nowhere does not fit"):
        backbone(perceptual_weights="nowhere")
    with pytest.raises(UsageError, match="perceptual_backbone: timm cannot create 'resnet10000'"):
        backbone(perceptual_backbone="resnet10000")


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_random_squares_are_cut_out_of_their_own_pictures():
    images = torch.arange(2 * 20 * 30).reshape(2, 20, 30, 1)
    squares = random_squares(images, 8, generator())
    assert squares.shape == (2, 8, 8, 1)
    for image, square in zip(images, squares):
        top, left = divmod(int(square[0, 0, 0]) % 600, 30)
        assert torch.equal(square, image[top : top + 8, left : left + 8])
    corners = torch.stack([random_squares(images, 8, generator(i))[0, 0, 0, 0] for i in range(40)])
    assert len(corners.unique()) > 20
    with pytest.raises(UsageError, match="crop is 32, but the training pictures are 30x20 pixels"):
        random_squares(images, 32, generator())


def test_about_half_of_the_pictures_are_mirrored():
    images = torch.arange(3).reshape(1, 1, 3, 1).expand(200, 1, 3, 1)
    first = mirrored_at_random(images, generator())[:, 0, 0, 0]
    assert set(first.tolist()) == {0, 2} and 70 < int((first == 2).sum()) < 130
