"""Training of a judge: the augmentation to the pixel, learning, labels that cannot be."""

import pytest
import torch
from zoo_judge import plugin
from zoo_judge.training import augment

from tests.trainers import batch_of, drawings, generator, run_of, trainer_of
from zoo.errors import UsageError

PICTURE = torch.arange(20.0).reshape(1, 1, 4, 5) / 20


def shifted(picture: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """Moved down and right, black (-1) where nothing was; pixel by pixel."""
    moved = torch.full_like(picture, -1.0)
    _, _, height, width = picture.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                moved[..., y, x] = picture[..., y - dy, x - dx]
    return moved


def possible(shift: int, mirror: bool) -> set[tuple[float, ...]]:
    sources = [PICTURE, PICTURE.flip(3)] if mirror else [PICTURE]
    steps = range(-shift, shift + 1)
    return {tuple(shifted(s, dy, dx).flatten().tolist()) for s in sources for dy in steps for dx in steps}


@pytest.mark.parametrize("shift, mirror", [(0, False), (0, True), (1, False), (1, True), (2, False)])
def test_pictures_are_moved_and_mirrored_in_every_allowed_way_and_no_other(shift, mirror):
    many = augment(PICTURE.expand(2000, -1, -1, -1), shift, mirror, generator())
    seen = {tuple(picture.flatten().tolist()) for picture in many}
    assert seen == possible(shift, mirror)


def test_channels_move_together():
    colour = torch.randn(3, 3, 6, 7)
    moved = augment(colour, 2, True, generator(4))
    for channel in range(3):
        alone = augment(colour[:, channel : channel + 1], 2, True, generator(4))
        assert torch.equal(moved[:, channel : channel + 1], alone)


def test_the_generator_decides():
    x = torch.randn(16, 1, 8, 8)
    assert torch.equal(augment(x, 2, True, generator(1)), augment(x, 2, True, generator(1)))
    assert not torch.equal(augment(x, 2, True, generator(1)), augment(x, 2, True, generator(2)))


def test_training_learns_to_tell_squares_from_discs():
    data = drawings(64)
    training = trainer_of(plugin, run_of(plugin, "judge", {"num_classes": 2}, steps=40, shift=0, label_smoothing=0.0))
    history = [training.step(batch_of(data), step, generator(step)) for step in range(40)]
    assert set(history[0]) == {"loss", "accuracy"}
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.75


def test_what_is_published_is_the_average():
    training = trainer_of(plugin, run_of(plugin, "judge", {"num_classes": 2}, average_decay=0.5))
    for step in range(5):
        training.step(batch_of(drawings(8)), step, generator(step))
    published = training.trained_module()
    assert not torch.equal(published.head.weight, training.module.head.weight)
    assert not published.training and not any(p.requires_grad for p in published.parameters())


def test_a_label_beyond_the_classes_is_one_line():
    training = trainer_of(plugin, run_of(plugin, "judge", {"num_classes": 2}))
    batch = batch_of(drawings(8))
    batch.labels[3] = 2
    with pytest.raises(UsageError, match="a label is 2, but num_classes is 2: give --set num_classes="):
        training.step(batch, 0, generator())


def test_pictures_without_labels_are_refused():
    training = trainer_of(plugin, run_of(plugin, "judge", {"num_classes": 2}))
    batch = batch_of(drawings(8))
    batch.labels[:] = -1
    with pytest.raises(UsageError, match="the family judge needs labels"):
        training.step(batch, 0, generator())


def test_more_classes_than_the_config_has_are_refused_before_training():
    run = run_of(plugin, "judge", {"num_classes": 2})
    run.classes.append("star")
    with pytest.raises(UsageError, match="the data has 3 classes, but num_classes is 2: give --set num_classes=3"):
        trainer_of(plugin, run)
