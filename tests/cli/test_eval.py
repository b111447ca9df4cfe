"""`zoo eval` with published models on pictures drawn here."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from zoo.formats import manifest as manifests
from zoo.media import drawings

from .commands import zoo


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    pictures = np.stack([drawings.scene(28, 28, 1, rng) for _ in range(30)])
    path = tmp_path / "drawn.npz"
    np.savez(path, images=pictures, labels=np.arange(30) % 10)
    return path


@pytest.mark.slow
def test_the_figures_beside_the_card(data: Path):
    outcome = zoo("eval", "vqvae-fashion", "--data", data, "--limit", 20, "--skip", 5)
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[0] == ["metric", "measured", "unit", "card", "pictures", "data"]
    assert [line[0] for line in lines[1:]] == ["psnr", "ssim", "codebook_use", "perplexity"]
    assert all("20" in line for line in lines[1:])


@pytest.mark.slow
def test_json_names_the_judge_and_the_command(data: Path):
    outcome = zoo("eval", "vqvae-fashion", "--data", data, "--judge", "judge-fashion", "--json")
    metrics = {m["name"]: m for m in json.loads(outcome.out)}
    assert metrics["label_kept"]["judge"].startswith("judge-fashion:2@sha256:")
    assert "judge" not in metrics["psnr"]
    assert metrics["psnr"]["command"] == f"zoo eval vqvae-fashion --data {data} --judge judge-fashion"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--skip", "30"], "drawn.npz has no pictures after the first 30"),
        (["--samples", "10"], "does not draw pictures: --samples does not apply to it"),
        (["--set", "steps=3"], "does not draw pictures: --set does not apply to it"),
        (["--save"], "'vqvae-fashion:1' is a published model, which never changes"),
        (["--judge", "judge-fashon"], "judge-fashion"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(data: Path, options: list[str], message: str):
    outcome = zoo("eval", "vqvae-fashion:1", "--data", data, *options)
    assert outcome.code != 0 and message in outcome.err and outcome.err.count("\n") == 1


BLACK, FEW, SAME_CLASS = "black", "few", "one of each class"


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [BLACK, FEW, SAME_CLASS])
@pytest.mark.parametrize("model", ["vqvae-fashion", "ddpm-fashion"])
def test_a_figure_that_the_pictures_do_not_allow_is_left_out_with_a_note_and_the_others_are_saved(
    tmp_path, data, pictures, model
):
    arrays = dict(np.load(data))
    count = 1 if pictures == FEW else 10
    arrays = {name: array[:count] for name, array in arrays.items()}
    if pictures == BLACK:
        arrays["images"] = np.zeros_like(arrays["images"])
    np.savez(tmp_path / "odd.npz", **arrays)
    shutil.copytree(next((Path(__file__).parents[2] / "models").glob(f"{model}/[1-9]*")), tmp_path / "copy")
    outcome = zoo("eval", tmp_path / "copy", "--data", tmp_path / "odd.npz", "--judge", "judge-fashion", "--json",
                  "--save", *(["--set", "steps=2"] if model == "ddpm-fashion" else []))  # fmt: skip
    assert outcome.code == 0, outcome.err
    measured = {m["name"]: m["value"] for m in json.loads(outcome.out)}
    assert "asked_label" in measured and all(np.isfinite(value) for value in measured.values())
    assert "diversity" not in measured and "diversity" in outcome.err
    assert {m.name: m.value for m in manifests.read(tmp_path / "copy").metrics} == measured
