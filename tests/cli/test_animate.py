"""`zoo animate`: a sampler's steps, and walks between seeds."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.tiny_tasks import studio
from zoo.media.animation import encode_animation
from zoo.run import motion
from zoo.run.model import Model
from zoo.run.motion import _arc
from zoo.run.results import Outputs

from .commands import zoo
from .test_run import error, pixels

SMALL = ("--set", "steps=3", "--scale", 1, "--device", "cpu")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def frames(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(image)])


def drawn(*words: object) -> np.ndarray:
    zoo("run", "ddpm-fashion", "generate", "--steps", 3, "--device", "cpu", *words, "--out", "drawn.png")
    return pixels("drawn.png").astype(int)


def test_the_steps_lead_from_noise_to_the_picture_that_the_task_draws():
    outcome = zoo("animate", "ddpm-fashion", "--label", "bag", "--seed", 5, *SMALL, "--out", "steps.apng")
    assert (outcome.code, outcome.out) == (0, "steps.apng\n") and outcome.err.startswith("4 frames, ")
    shown = frames("steps.apng").astype(int)
    assert shown.shape == (4, 28, 28)
    assert np.abs(shown[-1] - drawn("--label", "bag", "--seed", 5)).max() <= 2
    rough = np.abs(np.diff(shown, axis=2)).mean((1, 2))  # between neighbours
    assert rough[0] > 60 > 30 > rough[-1]


def test_predicted_pictures_have_no_frame_of_noise():
    zoo("animate", "ddpm-fashion", "--seed", 5, *SMALL, "--predicted", "--out", "steps.webp")
    shown = frames("steps.webp").astype(int)
    assert len(shown) == 3 and (np.abs(np.diff(shown, axis=2)).mean((1, 2)) < 60).all()


def test_a_walk_leads_from_one_seed_s_picture_to_the_other_s():
    words = ("--label", "bag", "--walk", 3, 9, "--frames", 4, *SMALL, "--out", "walk.webp", "--json")
    report = json.loads(zoo("animate", "ddpm-fashion", *words).out)
    assert report["frames"] == 4 and report["paths"] == ["walk.webp"]
    shown = frames("walk.webp").astype(int)
    for frame, seed in ((shown[0], 3), (shown[-1], 9)):
        assert np.abs(frame - drawn("--label", "bag", "--seed", seed)).max() <= 2
    assert np.abs(shown[1] - shown[0]).mean() > 1  # the frames in between differ


@pytest.mark.parametrize("words", [("ddpm-fashion", "--set", "steps=2"), ("vae-fashion",)])
def test_a_long_walk_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]):
    command = ("animate", *words, "--walk", 3, 9, "--frames", 5, "--scale", 1, "--device", "cpu", "--out")
    zoo(*command, "whole.png")
    sizes = []
    run = Model.run

    def watched(self: Model, task: str, /, **ports: np.ndarray) -> Outputs:
        sizes.append(max((len(a) for a in ports.values() if a.ndim > 1), default=0))
        return run(self, task, **ports)

    monkeypatch.setattr(Model, "run", watched)
    monkeypatch.setattr(motion, "MOST_AT_ONCE", 2)
    zoo(*command, "parts.png")
    assert max(sizes) == 2
    assert np.abs(frames("whole.png").astype(int) - frames("parts.png")).max() <= 1


def test_a_walk_through_the_latents_of_a_decoder():
    assert zoo("animate", "vae-fashion", "--walk", 3, 9, "--frames", 5, "--scale", 1, "--out", "vae.png").code == 0
    shown = frames("vae.png").astype(int)
    zoo("run", "vae-fashion", "--seed", "3,9", "--out", "v-{i}.png")
    assert [np.abs(shown[at] - pixels(f"v-{i}.png")).max() <= 2 for i, at in ((0, 0), (1, -1))] == [True, True]
    apart = np.abs(np.diff(shown, axis=0)).mean((1, 2))
    assert (apart < np.abs(shown[-1] - shown[0]).mean()).all()  # no jump as far as the whole walk


def test_the_name_of_the_file_is_free_and_the_pictures_are_large_enough_to_see():
    words = ("animate", "ddpm-fashion", "-n", 2, "--seed", 5, "--set", "steps=1")
    assert [zoo(*words).out, zoo(*words).out] == ["ddpm-fashion-steps-5.gif\n", "ddpm-fashion-steps-5-2.gif\n"]
    assert frames("ddpm-fashion-steps-5.gif").shape == (2, 112, 2 * 112 + 2)


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format_keeps_frames_and_times(suffix: str, channels: int):
    given = np.zeros((3, 8, 9, channels), np.uint8)
    given[1], given[2, ::2] = 80, 255
    Path("x").write_bytes(encode_animation(given, suffix, 10, 1))
    durations = []
    with Image.open("x") as image:
        assert image.n_frames == 3 and image.info["loop"] == 0
        for number, frame in enumerate(ImageSequence.Iterator(image)):
            frame.load()
            durations.append(frame.info["duration"])
            assert (np.asarray(frame.convert("RGB")) == given[number]).all()
    assert durations == [100, 100, 1100]


def test_the_arc_keeps_the_length_of_noise():
    rng = np.random.default_rng(0)
    first, last = rng.standard_normal((2, 1, 28, 28)).astype(np.float32)
    points = _arc(first, last, 9)
    lengths = np.linalg.norm(points.reshape(9, -1), axis=1)
    assert np.allclose(points[0], first, atol=1e-6) and np.allclose(points[-1], last, atol=1e-6)
    assert np.abs(lengths / 28 - 1).max() < 0.05  # on a straight line, the middle has 0.71 of it
    assert np.allclose(_arc(first, first, 3), first, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("gan-fashion", "--walk", 3, 9), "gan-fashion:3 only takes a seed, and nearby seeds draw unrelated pictures;"),
        (("vqvae-fashion", "--task", "generate"), "does not have the steps of generate as graphs of their own"),
        (("vqvae-fashion",), "reconstruct has no seed, so it has neither steps nor a walk"),
        (("judge-fashion",), "classify gives values, which cannot be animated"),
        (("ddpm-fashion", "--walk", 3, 9, "--seed", 1), "--walk A B takes the place of --seed, -n and --predicted"),
        (("ddpm-fashion", "--frames", 9), "--frames is for --walk; the steps are as many as the sampler takes"),
        (("ddpm-fashion", "--out", "x.jpg"), "the name must end in .gif or .apng or .png or .webp"),
        (("ddpm-fashion", "--label", "sneker"), "label 'sneker' is not a class of this model; did you mean 'sneaker'?"),
        (("ddpm-fashion", "--set", "steps=0"), "steps is 0; it must be 1 .. 1000"),
        (("ddpm-fashion", "--set", "steps=1", "-n", 100, "--scale", 64), "the pictures are 17938x17938"),
        (("ddpm-fashion", "--seed", 1, "--set", "seed=5"), "--set seed=…: the seed has an option of its own, --seed"),
        (("ddpm-fashion", "--walk", 3, 9, "--frames", 1000, "--scale", 64), "1,000 frames of 1792x1792 are"),
        (("ddpm-fashion", "--fps", "nan"), "nan is not a number"),
        (("ddpm-fashion", "--set", "steps=1", "--set", "steps=2"), "--set steps=… was given 2 times; give it once"),
        (("ddpm-fashion", "--walk", 1, 2, "--walk", 3, 4), "--walk was given 2 times: 1 2 and 3 4; give it once"),
        (("ddpm-fashion", "--label", 1, "--set", "label=2"), "--label and --set label=… name the label twice;"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_one_line(words: tuple[object, ...], line: str):
    assert line in error(zoo("animate", *words), 2) and not list(Path().iterdir())


def test_the_size_of_all_steps_is_checked_before_the_first(monkeypatch: pytest.MonkeyPatch):
    run, tasks = Model.run, []
    monkeypatch.setattr(Model, "run", lambda self, task, **inputs: tasks.append(task) or run(self, task, **inputs))
    words = ("animate", "ddpm-fashion", "--seed", 1, "--set", "steps=1000", "--scale", 64)
    assert "1,001 frames of 1792x1792 are" in error(zoo(*words), 2)
    assert tasks == ["generate_begin", "generate_end"]


def test_a_model_without_parts(tmp_path: Path):
    model = studio(tmp_path / "studio")
    assert "studio:1 does not have the steps of generate" in error(zoo("animate", model, "--task", "generate"), 2)
