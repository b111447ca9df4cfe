"""`zoo import latent` with options that do not fit: one line, and nothing is left."""

import pytest
import torch
from safetensors.torch import save_file

from zoo.cli.import_ import _with_weight

from ...cli.commands import zoo
from .test_pipelines import _made


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path_factory.getbasetemp() / "zoo-home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options") / "pipeline"
    _made(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lora", "{tmp}/none.safetensors"], "there is no checkpoint at {tmp}/none.safetensors"),
        (
            ["--lora", "{tmp}/lora.safetensors:11"],
            "--lora {tmp}/lora.safetensors:11: the weight must be from -10 to 10",
        ),
        (["--lora", "{tmp}/lora.safetensors:nan"], "--lora {tmp}/lora.safetensors:nan: the weight must be from -10"),
        (["--lora", "{tmp}/lora.safetensors:0.5"], "lora.safetensors: unet.nowhere.lora_A.weight: it is not a layer"),
        (["--vae", "{tmp}/lora.safetensors"], "--vae {tmp}/lora.safetensors: it is not an AutoencoderKL"),
        (["--prediction", "v"], "--prediction: the folder of a pipeline says that itself"),
        (["--tokenizer", "{tmp}"], "--tokenizer: the folder of a pipeline says that itself"),
    ],
)
def test_one_line_and_nothing_left(folder, tmp_path, options, message):
    save_file({"unet.nowhere.lora_A.weight": torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    options = [option.format(tmp=tmp_path) for option in options]
    outcome = zoo("import", "latent", folder, "--license", "MIT", "--out", tmp_path / "out", *options)
    assert outcome.code != 0
    assert outcome.err.splitlines()[-1].startswith(f"Error: {message.format(tmp=tmp_path)}"), outcome.err
    assert outcome.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["lora.safetensors"]


def test_other_families_refuse_the_options(tmp_path):
    outcome = zoo("import", "vqvae", tmp_path / "a.pt", "--out", tmp_path / "out", "--lora", "a.safetensors")
    assert outcome.err == "Error: --lora: an import of the family 'vqvae' does not take it\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "file", "weight"),
    [("a.pt", "a.pt", 1.0), ("a.pt:0.8", "a.pt", 0.8), ("a:b.pt", "a:b.pt", 1.0), (r"C:\a.pt:-1", r"C:\a.pt", -1.0)],
)
def test_the_weight_follows_the_last_colon(text, file, weight):
    path, found = _with_weight(text)
    assert (str(path), found) == (file, weight)
