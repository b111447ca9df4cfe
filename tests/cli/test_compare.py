"""`zoo compare`: several models' pictures side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.tiny_tasks import studio
from zoo.run import lineup

from .commands import zoo
from .test_products import level
from .test_run import error, pixels

SCALE, CAPTION = 14, 3 * 12 + 2  # of 8x8 pictures with the lines model, label, seed


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("compare")
    return studio(folder / "a", "alpha"), studio(folder / "b", "beta")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Image.fromarray(np.full((8, 12), 7, np.uint8)).save("x.png")


def test_a_row_for_each_model_with_the_same_seeds(models):
    words = ("compare", *models, "--task", "generate", "--label", "shirt,sneaker", "--seed", "3..5")
    outcome = zoo(*words, "--set", "guidance=0", "--json", "--device", "cpu")
    report = json.loads(outcome.out)
    assert outcome.code == 0 and report["pictures"] == 6 and report["paths"] == ["compare.png"]
    assert [model["model"] for model in report["models"]] == [str(model) for model in models]
    assert all(model["seconds_per_picture"] > 0 and model["device"] == "cpu" for model in report["models"])
    sheet = pixels("compare.png")
    side = 8 * SCALE
    assert sheet.shape == (4 * (CAPTION + side + 2) - 2, 3 * (side + 2) - 2)
    for row, label in enumerate((0, 0, 1, 1)):  # both models' shirts, both models' sneakers
        for column, seed in enumerate((3, 4, 5)):
            top, left = row * (CAPTION + side + 2) + CAPTION, column * (side + 2)
            assert (sheet[top : top + side, left : left + side] == level(seed, label)).all()
    first, second = (sheet[row * (CAPTION + side + 2) :][:CAPTION, :side] for row in (0, 1))
    assert (first[:12] != second[:12]).any() and (first[12:] == second[12:]).all()  # only the model differs


def test_one_label_is_for_all_seeds(models):
    words = ("--task", "generate", "--label", "sneaker", "-n", 2, "--seed", 4, "--set", "guidance=0", "--scale", 1)
    assert zoo("compare", *models, *words, "--out", "c.png").code == 0
    sheet, caption = pixels("c.png"), 3 * 12 + 2
    for row in range(2):
        top = row * (caption + 8 + 2) + caption
        assert [sheet[top, 0], sheet[top, 10]] == [level(4, 1), level(5, 1)]


def test_the_time_of_a_picture_is_on_stderr_and_the_path_on_stdout(models):
    outcome = zoo("compare", *models, "--task", "generate", "-n", 2, "--out", "c.png")
    lines = outcome.err.splitlines()
    assert outcome.out == "c.png\n" and lines[0].startswith("seed ") and len(lines) == 3
    assert all(line.startswith(f"{model}: ") and "s for a picture, on " in line
               for model, line in zip(models, lines[1:], strict=True))  # fmt: skip


def test_the_given_picture_is_the_first_row(models):
    assert zoo("compare", *models, "--image", "x.png", "--out", "c.png", "--scale", 1).code == 0
    sheet, caption = pixels("c.png"), 2 * 12 + 2
    assert sheet.shape == (3 * (caption + 8 + 2) - 2, 12)
    for row in range(3):
        assert (sheet[row * (caption + 10) + caption :][:8] == 7).all()


def test_pictures_of_other_sizes_and_colours_are_made_alike():
    from zoo.media.sheet import alike

    small, large = np.full((1, 2, 2, 1), 9, np.uint8), np.full((1, 5, 6, 3), 4, np.uint8)
    first, second = alike([small, large])
    assert first.shape == second.shape == (1, 5, 6, 3) and (second == 4).all()
    assert (first == 9).sum() == 4 * 4 * 3 and (first == 255).sum() == (30 - 16) * 3


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("--task", "classify", "--image", "x.png"), 2, "gives values; compare is for pictures: choose another --task"),
        (("--task", "decode", "--image", "x.png"), 2, "takes tokens, not pictures"),
        (("--task", "generate", "--set", "=5"), 2, "--set =5: there is no name before the equals sign"),
        (("--task", "nothing"), 3, "has no task 'nothing'"),
        (("--seed", "1"), 2, "reconstruct takes no seed: every model gives the same picture every time"),
        (("--label", "shirt"), 2, "none of the models takes a label for reconstruct"),
        (("--task", "generate", "--image", "x.png"), 2, "takes no picture; --task chooses another: reconstruct, "),
        (("--task", "generate", "--guidance", "2"), 2, "An option of the task is given as --set guidance=…"),
        (
            ("--task", "generate", "--lable", "1"),
            2,
            "No such option '--lable'. (Did you mean one of: ",
        ),
        (("--task", "generate", "--set", "steps"), 2, "--set steps: 'steps' has no value; e.g. --set steps=10"),
        (("--task", "generate", "--set", "seed=5"), 2, "--set seed=…: the seed has an option of its own, --seed"),
        (("--task", "generate", "--set", "steps=x"), 2, "--set steps=x: 'x' is not a number; e.g. --set steps=10"),
        (("--task", "generate", "--set", "step=5"), 2, "generate has no input 'step'; did you mean 'steps'?"),
        (("--task", "generate", "--set", "steps=5", "--set", "steps=6"), 2, "--set steps=… was given 2 times"),
        (
            ("--task", "generate", "--label", "1", "--set", "label=2"),
            2,
            "--label and --set label=… name the label twice",
        ),
        (("--task", "generate", "--set", "guidance=nan"), 2, "guidance contains NaN or infinity"),
        (("--task", "generate", "-n", "0"), 2, "-n is 0; it must be 1 .. 10000"),
        (("--task", "generate", "--seed", "1..2", "-n", "2"), 2, "-n counts seeds up"),
        (("--task", "generate", "--out", "x.gif"), 2, "the name must end in .png"),
        (("--out", "-", "--json"), 2, "--json and --out - both write to stdout; choose one"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(models, words, code, line):
    outcome = zoo("compare", *models, *words)
    assert line in error(outcome, code) and [path.name for path in Path().iterdir()] == ["x.png"]


def test_a_sheet_that_would_be_too_large_is_refused_before_a_picture_is_drawn(models, monkeypatch):
    monkeypatch.setattr(lineup, "execute", lambda *_: pytest.fail("pictures were drawn"))
    for words in (("-n", 10_000), ("-n", 90, "--scale", 64)):
        said = error(zoo("compare", *models, "--task", "generate", "--seed", 1, "--label", "sneaker", *words), 2)
        assert said.endswith("pixels; at most 40,000,000 are allowed")


def test_a_picture_from_stdin_is_for_all_models(models):
    data = Path("x.png").read_bytes()
    for image, out in (("x.png", "a.png"), ("-", "b.png")):
        outcome = zoo("compare", *models, "--task", "reconstruct", "--image", image, "--out", out, stdin=data)
        assert (outcome.code, outcome.out) == (0, f"{out}\n")
    below = CAPTION - 12  # the captions have the file's name
    assert (pixels("a.png")[below:][:50] == pixels("b.png")[below:][:50]).all()
    said = error(zoo("compare", *models, "--task", "reconstruct", "--image", "-", "--image", "-", stdin=data), 2)
    assert said == "'-' (stdin) can be read only once; give a file for the other"


def test_one_model_and_one_that_does_not_have_the_task(models, tmp_path):
    assert error(zoo("compare", models[0]), 2) == "name at least two models: zoo compare A B …"
    other = tiny.bundle(tmp_path / "tiny")
    assert "tiny has no task 'reconstruct'" in error(zoo("compare", models[0], other, "--image", "x.png"), 3)
