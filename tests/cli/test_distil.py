"""`zoo train --stage distil`: a model that draws in few steps, from the model that it starts with."""

from pathlib import Path

import numpy as np
import pytest

import zoo as package
from zoo.formats import manifest as manifests

from .commands import zoo

TINY = ["--preset", "tiny", "--batch-size", 8, "--data"]


@pytest.mark.slow
def test_a_student_is_trained_from_its_teacher_and_draws_in_few_steps(workshop, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    data = [*TINY, workshop.data]
    alone = zoo("train", "ddpm", "--stage", "distil", *data, "--out", "alone")
    assert (alone.code, alone.err) == (2, "Error: a student needs a teacher: give --from MODEL\n"), alone
    assert zoo("train", "ddpm", *data, "--steps", 2, "--name", "teacher", "--out", "teacher").code == 0

    words = ["--stage", "distil", "--from", "./teacher", "--name", "student", "--steps", 4, "--set", "paths=8"]
    trained = zoo("train", "ddpm", *words, *data, "--out", "student")
    assert trained.code == 0, trained.err
    assert "prepared 8 of 8" in trained.err
    manifest = manifests.read(tmp_path / "student")
    assert manifest.training.note == "8 paths of 3 steps that teacher:1 drew"
    assert (
        manifest.tasks["generate"].inputs["steps"].maximum == 4 and "guidance" not in manifest.tasks["generate"].inputs
    )
    model = package.load("./student", device="cpu")
    twice = [model.generate(seed=[1, 2], label=[0, 1])["image"] for _ in range(2)]
    assert (twice[0] == twice[1]).all() and not (twice[0][0] == twice[0][1]).all()
    parts = _walked(model, np.array([1, 2]), np.array([0, 1]), steps=2)
    assert (parts == twice[0]).all(), "a host that runs the loop draws the same"

    again = zoo("train", "ddpm", *words, *data, "--out", "again", "--checkpoints", "student.training", "--resume")
    assert again.code == 0 and "prepared" not in again.err, "the teacher's paths are found again"


def _walked(model: package.Model, seed: np.ndarray, label: np.ndarray, *, steps: int) -> np.ndarray:
    begun = model.run("generate_begin", seed=seed, steps=np.int64(steps))
    x, previous_x0 = begun["x"], begun["previous_x0"]
    for i in range(steps):
        here = {"row": begun["plan"][i], "index": np.int64(i), "seed": seed, "label": label}
        made = model.run("generate_step", x=x, previous_x0=previous_x0, **here)
        x, previous_x0 = made["next_x"], made["x0"]
    return model.run("generate_end", x=x)["image"]
