"""`zoo import` of a folder with several networks: its licence, and one line without a bundle for what is wrong."""

import json

import pytest
import torch
from safetensors.torch import save_file

from .test_import import home, refused  # noqa: F401  (a fixture)

INDEX = {"_class_name": "DiTPipeline", "vae": ["diffusers", "AutoencoderKL"]}


@pytest.fixture
def folder(tmp_path):
    """A pipeline of two networks, of which neither is complete."""
    folder = tmp_path / "pipeline"
    for part in ("vae", "transformer"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        save_file({"weight": torch.ones(2, dtype=torch.float16)}, folder / part / "weights.safetensors")
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


@pytest.mark.parametrize(
    "readme", [None, "# A model\n", "---\nlicense: other\n---\n", "---\ntags: x\n---\nlicense: mit\n"]
)
def test_a_pipeline_without_a_licence_needs_one(tmp_path, folder, readme):
    if readme is not None:
        (folder / "README.md").write_text(readme)
    error = refused(tmp_path, "latent", folder, code=2)
    assert error.endswith("does not state the licence of its weights: give --license with its SPDX expression")


@pytest.mark.parametrize("given", [("--license", "MIT"), ()])
def test_a_pipeline_with_a_licence_is_read(tmp_path, folder, given):
    if not given:
        (folder / "README.md").write_text("---\ntags: x\nlicense: openrail++\n---\n# A model\n")
    error = refused(tmp_path, "latent", folder, *given, code=4)
    assert (
        error
        == "Error: diffusers DiTPipeline: transformer is missing; it must be a folder with a DiTTransformer2DModel"
    )


def test_numbers_that_are_not_finite_are_refused(tmp_path, folder):
    save_file({"weight": torch.tensor([1, float("nan")], dtype=torch.float16)}, folder / "vae" / "weights.safetensors")
    error = refused(tmp_path, "latent", folder, "--license", "MIT", code=4)
    assert error.endswith("vae/weights.safetensors: the tensor 'weight' contains NaN or infinity")


def test_a_broken_config_is_refused(tmp_path, folder):
    (folder / "model_index.json").write_text(
        json.dumps(INDEX | {"transformer": ["diffusers", "DiTTransformer2DModel"]})
    )
    (folder / "scheduler").mkdir()
    error = refused(tmp_path, "latent", folder, "--license", "MIT", code=4)
    assert error == "Error: diffusers DiTPipeline: scheduler is missing; it must be a folder with a DDIMScheduler"
    (folder / "vae" / "config.json").write_text("{")
    index = {
        **INDEX,
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    error = refused(tmp_path, "latent", folder, "--license", "MIT", code=4)
    assert "vae/config.json is not a config" in error
