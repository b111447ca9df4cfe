"""Pictures that look unlike what a model was trained on, and the options that change them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.tiny_tasks import studio
from zoo.errors import UsageError
from zoo.run.call import gather
from zoo.run.likeness import edges, what_it_draws
from zoo.run.model import Model, load


@pytest.fixture(scope="module")
def mnist() -> Model:
    return load("vqvae-mnist", "cpu")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A one, black on white, 60 x 40 pixels, and its negative at MNIST's size."""
    monkeypatch.chdir(tmp_path)
    one = Image.new("L", (60, 40), 255)
    ImageDraw.Draw(one).line([(30, 8), (30, 32)], fill=0, width=5)
    one.save("one.png")
    Image.fromarray(255 - np.asarray(one)[6:34, 16:44]).save("right.png")


def notes_of(model: Model, task: str, given: dict, **options: bool) -> list[str]:
    notes: list[str] = []
    gather(model, task, given, note=notes.append, **options)
    return notes


def test_the_figures_come_from_the_pictures_that_the_model_draws(mnist):
    from zoo.formats.golden import read_cases

    drawn = what_it_draws(mnist)
    cases = read_cases(mnist.folder / "golden.safetensors", mnist.manifest)["generate"]
    found = np.concatenate([edges(case.outputs["image"]) for case in cases])
    assert (drawn.height, drawn.width) == (28, 28)
    assert (drawn.darkest, drawn.lightest) == (found.min(), found.max()) and drawn.lightest < 64


def test_edges_are_the_outermost_pixels():
    picture = np.zeros((1, 4, 5, 1), np.uint8)
    picture[0, 1:-1, 1:-1] = 200
    assert edges(picture).tolist() == [0]
    picture[0, 0] = 140
    assert edges(picture).tolist() == [5 * 140 / 14]


def test_black_on_white_and_another_size_are_noted(mnist):
    assert notes_of(mnist, "reconstruct", {"image": ["one.png"]}) == [
        "one.png is 60x40; vqvae-mnist was trained on 28x28: --fit scales it",
        "one.png: light at the edges, and what vqvae-mnist draws is dark there; --invert makes a negative",
    ]


def test_what_looks_right_is_not(mnist):
    assert notes_of(mnist, "reconstruct", {"image": ["right.png"]}) == []


def test_several_pictures_are_one_note(mnist):
    Image.fromarray(255 - np.asarray(Image.open("right.png"))).save("wrong.png")
    given = {"image": ["right.png", "wrong.png", "wrong.png"]}
    [line] = notes_of(mnist, "reconstruct", given)
    assert line.startswith("wrong.png and 1 more: light at the edges")


def test_a_photograph_s_grey_edges_are_not_noted(mnist):
    Image.fromarray(np.full((28, 28), 120, np.uint8)).save("grey.png")
    assert notes_of(mnist, "reconstruct", {"image": ["grey.png"]}) == []


def test_the_options_change_the_picture_and_leave_nothing_to_note(mnist):
    notes: list[str] = []
    call = gather(mnist, "reconstruct", {"image": ["one.png"]}, invert=True, fit=True, note=notes.append)
    assert notes == ["one.png is 60x40: scaled to fit 28x28"]
    [picture] = call.inputs["image"][..., 0]
    assert picture.shape == (28, 28)
    assert picture[:4].max() == 0 and picture[:, :10].max() == 0  # above: the edges' colour, white, made black
    assert picture[10:17, 13:15].min() > 150  # the whole stroke, white


def test_a_model_that_draws_nothing_has_nothing_to_compare_with(tmp_path):
    judge = load("judge-mnist", "cpu")
    assert what_it_draws(judge) is None and notes_of(judge, "classify", {"image": ["one.png"]}) == []
    small = load(str(studio(tmp_path / "studio")))
    assert what_it_draws(small) is None  # two drawn pictures are too few
    with pytest.raises(UsageError, match=r"^--fit: judge-mnist takes any size, and does not say which one fits it$"):
        notes_of(judge, "classify", {"image": ["one.png"]}, fit=True)
    with pytest.raises(UsageError, match=r"^--invert is for pictures from files; generate was given none$"):
        notes_of(small, "generate", {"seed": 1}, invert=True)


def test_a_mask_is_fitted_like_its_picture():
    model = load("ddpm-mnist", "cpu")
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save("mask.png")
    call = gather(model, "inpaint", {"image": ["one.png"], "mask": ["mask.png"], "seed": 1}, fit=True, note=print)
    mask = call.inputs["mask"][0, ..., 0]
    assert mask.shape == (28, 28) and (mask[[0, -1]] == 0).all() and (mask[6:22] == 255).all()


def test_edges_have_the_colour_of_the_picture_s_own():
    from zoo.hookspecs import Port
    from zoo.media.files import read_input
    from zoo.media.pictures import decode_picture

    Image.new("RGB", (40, 10), (10, 200, 30)).save("green.png")
    port = Port(kind="image", dtype="uint8", shape=("batch", 16, 16, 3))
    picture = decode_picture(read_input("green.png"), "image", port, print, whole=True)
    assert (picture == (10, 200, 30)).all()
