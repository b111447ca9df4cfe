"""`zoo build`: a checkpoint to the bundle that `zoo train` would make."""

import shutil
from pathlib import Path

import msgspec
import pytest

from zoo.build.export import update_bundle
from zoo.formats import manifest as manifests
from zoo.formats.golden import read_cases, write_cases
from zoo.hookspecs import Metric
from zoo.names import GOLDEN

from .commands import zoo


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_checkpoint_becomes_the_bundle_of_its_training(workshop):
    outcome = zoo(
        "build", workshop.folder / "codec.training", "--out", "again", "--name", "other", "--model-version", 3
    )
    assert outcome.code == 0 and outcome.out == "again\n"
    assert outcome.err.splitlines()[-1] == "other:3 after 20 steps, reconstruct, encode, decode"
    first, again = manifests.read(workshop.codec), manifests.read(Path("again"))
    assert (again.name, again.version, again.config) == ("other", 3, first.config)
    assert again.files["codec.safetensors"] == first.files["codec.safetensors"]  # the same weights, byte for byte
    assert again.training.images_seen == first.training.images_seen


@pytest.mark.parametrize(
    "words, code, line",
    [
        (["nowhere"], 3, "no model 'nowhere' in registry 'default'"),
        (["./nowhere"], 3, "no checkpoint at nowhere"),
        (["ddpm-fashion", "--sampler", "consistency"], 2, "config: diffusion.sampler is consistency, which draws with"),
        (["ddpm-fashion-fast", "--sampler", "ddim"], 2, "config: diffusion.sampler is ddim; this network was made by"),
        (["text"], 4, "text is not a readable checkpoint: "),
        (["text", "--name", "Bad Name"], 2, "'Bad Name' is not a model reference"),
    ],
)
def test_a_mistake_is_one_line(here, words, code, line):
    (here / "text").write_text("no checkpoint")
    outcome = zoo("build", *words, "--out", "m")
    assert outcome.code == code and outcome.err.startswith(f"Error: {line}") and outcome.err.count("\n") == 1
    assert not (here / "m").exists()


def test_a_bundle_is_never_overwritten(here):
    (here / "m").mkdir()
    outcome = zoo("build", "nowhere", "--out", "m")
    assert outcome.code == 2 and "m exists already" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("hold", [True, False])
def test_a_model_is_built_anew_and_keeps_the_figures_that_hold(workshop, hold):
    old = Path("old")
    shutil.copytree(workshop.codec, old)
    manifest = manifests.read(old)
    if not hold:
        cases = read_cases(old / GOLDEN, manifest)
        for case in cases["reconstruct"]:
            case.outputs["reconstruction"] ^= 64
        write_cases(old / GOLDEN, cases)
        files = manifest.files | {GOLDEN: manifests.describe_file(old / GOLDEN)}
        manifest = msgspec.structs.replace(manifest, files=files)
    measured = (Metric(name="psnr", value=20.0, unit="dB"),)
    update_bundle(old, msgspec.structs.replace(manifest, metrics=measured))
    outcome = zoo("build", "./old", "--out", "anew")
    anew = manifests.read(Path("anew"))
    assert outcome.code == 0 and outcome.out == "anew\n" and manifests.check_files(Path("anew"), anew) == []
    assert (anew.name, anew.version, anew.config, anew.license) == ("anew", 1, manifest.config, manifest.license)
    assert anew.files["codec.safetensors"] == manifest.files["codec.safetensors"]
    assert anew.training.parent.startswith("codec:1@sha256:") and anew.training.steps == manifest.training.steps
    assert anew.metrics == (measured if hold else ())
    assert ("whose golden cases these graphs reproduce" in anew.training.note) == hold
    assert ("with the figures of" in outcome.err) == hold


@pytest.mark.parametrize(
    "words, line",
    [
        (["--sampler", "ddim"], "the family 'vqvae' has no choice of samplers: leave out --sampler ddim"),
        (["--set", "codec.num_codes=4"], "these weights belong to another config: "),
        (["--set", "codec.num_cods=4"], "num_cods"),
    ],
)
def test_what_a_model_cannot_be_built_with_is_one_line(workshop, words, line):
    outcome = zoo("build", workshop.codec, "--out", "m", *words)
    assert outcome.code != 0 and line in outcome.err and outcome.err.count("\n") == 1
    assert not Path("m").exists()
