"""`zoo run --invert --fit`: noted, done, recorded and repeated."""

import json
from pathlib import Path

import pytest
from PIL import Image

from .commands import zoo


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Image.new("L", (60, 40), 255).save("x.png")


def test_again_repeats_what_was_done_to_the_picture():
    words = ("run", "vqvae-mnist", "reconstruct", "x.png", "--device", "cpu", "--out", "o.png")
    assert "--invert makes a negative" in zoo(*words).err
    outcome = zoo(*words, "--invert", "--fit")
    assert outcome.code == 0 and outcome.err.splitlines()[0] == "x.png is 60x40: scaled to fit 28x28"
    with Image.open("o.png") as image:
        recipe = json.loads(image.text["zoo"])
        assert image.size == (28, 28) and recipe["invert"] is recipe["fit"] is True
    assert zoo("again", "o.png").out.startswith("identical")


def test_tasks_without_pictures_do_not_have_the_options():
    assert "No such option" in zoo("run", "ddpm-mnist", "generate", "--invert").err
    assert "No such option" in zoo("run", "ddpm-mnist", "generate", "--fit").err
