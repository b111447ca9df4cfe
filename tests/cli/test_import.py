"""`zoo import`: a bundle out of a foreign checkpoint, or one line and no bundle."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.build import foreign
from zoo.formats import manifest as manifests

from ..build import hostile
from ..plugins.vqvae.test_importing import fresh, zalando
from .commands import zoo


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path_factory.getbasetemp() / "zoo-home"))  # one for all: it keeps the probe


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "weights" / "model.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {f"module.{k}": v for k, v in fresh(averages=True).items()}, "epoch": 3}, path)
    return path


@pytest.mark.slow
def test_a_complete_bundle(tmp_path, checkpoint):
    out = tmp_path / "small"
    outcome = zoo("import", "vqvae", checkpoint, "--out", out, "--license", "MIT", "--summary", "Small")
    assert (outcome.code, outcome.out) == (0, f"{out}\n"), outcome.err
    assert outcome.err == (
        "model.ckpt: used 'state_dict', left epoch\n"
        "model.ckpt: removed the prefix 'module.' from all names\n"
        "zalandoresearch/pytorch-vq-vae: used 21 of 21 tensors\n"
        "traced reconstruct\ntraced encode\ntraced decode\ncomparing with torch\n"
        "small:1, reconstruct, encode, decode\n"
    )
    manifest = manifests.read(out)
    assert (manifest.name, manifest.version, manifest.family) == ("small", 1, "vqvae")
    assert (manifest.summary, manifest.license) == ("Small", "MIT")
    sha256 = manifests.describe_file(checkpoint).sha256
    assert manifest.training.parent == f"imported from zalandoresearch/pytorch-vq-vae, file SHA-256 {sha256}"
    assert manifests.check_files(out, manifest) == []


@pytest.mark.slow
def test_half_precision_is_stored_and_kept_when_the_model_is_built_again(tmp_path, checkpoint):
    half, again = tmp_path / "half", tmp_path / "again"
    outcome = zoo("import", "vqvae", checkpoint, "--out", half, "--license", "MIT", "--precision", "fp16")
    assert outcome.code == 0, outcome.err
    stored = load_file(half / "codec.safetensors")
    narrow = [name for name, tensor in stored.items() if tensor.dtype == torch.float16]
    assert narrow and all(stored[name].numel() >= 256 for name in narrow)
    outcome = zoo("build", half, "--out", again)
    assert outcome.code == 0, outcome.err
    first, second = manifests.read(half), manifests.read(again)
    assert first.export.precision == second.export.precision == "float16"
    assert first.files["codec.safetensors"] == second.files["codec.safetensors"]


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("case", ["zalando_vq", "zalando_ema"])
def test_the_graphs_give_the_references_numbers(tmp_path, shared_data, case):
    from zoo.runtime import open_session

    folder = shared_data / "parity/vqvae" / case
    outcome = zoo("import", "vqvae", folder, "--out", tmp_path / "bundle")
    assert outcome.code == 0, outcome.err

    # The recorded inputs, as the nearest picture that a file can hold, through the reference's own formulas.
    with np.load(folder / "io.npz") as arrays:
        image = np.rint((arrays["x"] + 0.5) * 255).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    weights = foreign.read(folder).tensors
    with torch.no_grad():
        indices, out = zalando(weights, torch.from_numpy(image).permute(0, 3, 1, 2) / 255 - 0.5)
    wanted = ((out + 0.5) * 255).clamp(0, 255).permute(0, 2, 3, 1).numpy()

    given = {}
    for task, inputs in (("encode", {"image": image}), ("reconstruct", {"image": image})):
        given |= open_session(tmp_path / "bundle" / f"{task}.onnx", "cpu").run(inputs)
    assert np.array_equal(given["tokens"], indices)
    assert np.abs(given["reconstruction"] - wanted).max() <= 0.5 + 255 * 1e-4  # rounding, and 1e-4 of the range
    decoded = open_session(tmp_path / "bundle" / "decode.onnx", "cpu").run(
        {"tokens": given["tokens"], "size": given["size"]}
    )
    assert np.array_equal(decoded["image"], given["reconstruction"])


# --- One line and no bundle -------------------------------------------------------------------------------------------


def refused(tmp_path, *words, code):
    outcome = zoo("import", *words, "--out", tmp_path / "out")
    assert outcome.code == code and outcome.out == ""
    error = outcome.err.splitlines()[-1]
    assert error.startswith("Error: ")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    return error


def test_an_unknown_layout(tmp_path):
    torch.save({"x.weight": torch.ones(2), "y": torch.ones(2)}, tmp_path / "a.pt")
    error = refused(tmp_path, "vqvae", tmp_path / "a.pt", code=4)
    assert error.endswith("a.pt has a layout that the family 'vqvae' does not support; its tensors are x.weight, y")
    save_file({}, tmp_path / "none.safetensors")
    assert refused(tmp_path, "vqvae", tmp_path / "none.safetensors", code=4).endswith(
        "none.safetensors contains no tensors"
    )


def test_missing_tensors(tmp_path):
    weights = fresh()
    del weights["_pre_vq_conv.bias"]
    torch.save(weights, tmp_path / "a.pt")
    error = refused(tmp_path, "vqvae", tmp_path / "a.pt", code=4)
    assert error.endswith("a.pt is incomplete as a checkpoint of zalandoresearch/pytorch-vq-vae: "
                          "_pre_vq_conv.bias (4,) is missing")  # fmt: skip


def test_a_hostile_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = hostile.call("os.system", hostile.text(hostile.TOUCH))
    (tmp_path / "a.pt").write_bytes(hostile.torch_zip(hostile.program(run)))
    assert "it contains no tensors" in refused(tmp_path, "vqvae", "a.pt", code=4)
    assert not (tmp_path / "canary").exists()


def test_no_file_family_or_name(tmp_path, checkpoint):
    assert "there is no checkpoint at" in refused(tmp_path, "vqvae", tmp_path / "none.pt", code=3)
    assert "no installed plugin makes the family 'vqvea'" in refused(tmp_path, "vqvea", checkpoint, code=3)
    assert "name" in refused(tmp_path, "vqvae", checkpoint, "--name", "A B", code=2)
    assert "license" in refused(tmp_path, "vqvae", checkpoint, "--license", "<script>", code=2)


def test_a_folder_that_exists_stays(tmp_path, checkpoint):
    (tmp_path / "out").mkdir()
    outcome = zoo("import", "vqvae", checkpoint, "--out", tmp_path / "out")
    assert outcome.code == 2 and "exists already; a bundle never overwrites" in outcome.err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_layout_or_task_that_the_model_does_not_have(tmp_path, checkpoint):
    error = refused(tmp_path, "vqvae", checkpoint, "--layout", "dit", code=2)
    assert error == "Error: --layout is 'dit', but the checkpoint has the layout zalandoresearch/pytorch-vq-vae"
    error = refused(tmp_path, "vqvae", checkpoint, "--tasks", "decode,encod", code=2)
    assert error == "Error: --tasks: 'encod' is not one of reconstruct, encode, decode; did you mean 'encode'?"


def test_a_class_without_an_importer_is_explained(tmp_path):
    torch.save({"decoder.layers.0.weight": torch.ones(2)}, tmp_path / "taesd.pt")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    error = refused(tmp_path, "klvae", tmp_path / "taesd.pt", code=4)
    assert "its class is AutoencoderTiny: TAESD, a small distilled autoencoder: it needs" in error


def test_a_pointer_is_named_wherever_a_file_is_read(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 1484996\n"
    for name in ("m.safetensors", "registry.yaml", "model.yaml", "picture.png"):
        (tmp_path / name).write_text(pointer)
    assert "it is a git-lfs pointer: " in refused(tmp_path, "ddpm", tmp_path / "m.safetensors", code=4)
    run = ("run", "vqvae-fashion", "reconstruct", "--image", tmp_path / "picture.png", "--out", tmp_path / "x.png")
    for words in (("list", "--registry", tmp_path), ("run", tmp_path), run):
        outcome = zoo(*words)
        assert outcome.code == 4 and "a git-lfs pointer: " in outcome.err and outcome.err.count("\n") == 1, outcome.err


@pytest.mark.slow
def test_a_part_next_to_others_and_some_tasks_only(tmp_path):
    """A Lightning module's losses have names next to those of its `model`."""
    weights = {f"model._orig_mod.{k}": v for k, v in fresh().items()} | {"lpips.lin.weight": torch.ones(2)}
    torch.save({"state_dict": weights, "callbacks": {}}, tmp_path / "last.ckpt")
    out = tmp_path / "small"
    outcome = zoo("import", "vqvae", tmp_path / "last.ckpt", "--out", out, "--tasks", "decode")
    assert outcome.code == 0, outcome.err
    assert "last.ckpt: used 'model.*'\n" in outcome.err
    assert list(manifests.read(out).tasks) == ["decode"] and manifests.read(out).default_task == "decode"
