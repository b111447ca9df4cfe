"""Augmentation: what is off changes nothing; mirrored, moved and cropped pictures by hand."""

import pytest
import torch

from zoo.build.augment import Augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(number: int = 32, height: int = 6, width: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.randint(256, (number, height, width, channels), dtype=torch.uint8, generator=generator(9))


def test_nothing_is_the_default():
    assert not Augment() and Augment(mirror=True) and Augment(shift=1) and Augment(crop=0.9)


def test_about_half_are_mirrored_to_the_pixel():
    images = pictures(64)
    changed = Augment(mirror=True)(images, generator())
    mirrored = (changed == images.flip(2)).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)
    assert bool((mirrored ^ same).all()) and 20 <= int(mirrored.sum()) <= 44


def test_pictures_move_by_whole_pixels_and_repeat_their_edges():
    images = pictures(40)
    changed = Augment(shift=2)(images, generator())
    padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="replicate")
    found = set()
    for number, picture in enumerate(changed.permute(0, 3, 1, 2).float()):
        places = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(padded[number, :, y : y + 6, x : x + 8], picture)
        ]
        assert len(places) == 1, "exactly one move explains it"
        found.add(places[0])
    assert len(found) > 10


def test_a_crop_shows_a_part_of_a_gradient_larger():
    ramp = (torch.arange(8) * 30).to(torch.uint8).expand(16, 8, 8).unsqueeze(-1)
    changed = Augment(crop=0.5)(ramp, generator()).float()
    spread = changed.amax((1, 2, 3)) - changed.amin((1, 2, 3))
    assert changed.shape == ramp.shape and float(spread.min()) < 180 and float(spread.max()) <= 210
    assert bool((changed.diff(dim=2) >= 0).all()), "the order of columns stays"


@pytest.mark.parametrize("augment", [Augment(mirror=True), Augment(shift=3), Augment(crop=0.7)])
def test_the_generator_is_the_only_chance(augment):
    images = pictures()
    assert torch.equal(augment(images, generator(1)), augment(images, generator(1)))
    assert not torch.equal(augment(images, generator(1)), augment(images, generator(2)))
