"""Imported codecs against recorded cases of their references (`../shared/parity`), in torch and as graphs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo_vqgan.layouts import import_checkpoint
from zoo_vqgan.losses import kl_loss
from zoo_vqvae.quantize import nearest_code
from zoo_vqvae.tasks import pad_to_multiple

from zoo import plugins
from zoo.build import foreign
from zoo.build.tracing import export_task
from zoo.build.weights import Weights
from zoo.hookspecs import BuildRequest, ConfigRequest, ImportRequest, Port, Task
from zoo.runtime import open_session

from .graphs import SIZES, assert_graphs_are_torchs

pytestmark = pytest.mark.shared

QUANTIZED = [
    "taming/vqgan_f4",
    "taming/vqgan_f4_full_lightning_ckpt",
    "ldm/vq_f4_noattn",
    "llamagen/vq_ds2_nol2",
    "diffusers/vq_f4",
]
GAUSSIAN = ["ldm/kl_f2", "diffusers/kl_sd"]
SIZED = Port(kind="tensor", dtype="float32", shape=("batch", 3, "height", "width"))
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def imported(family: str, folder: Path) -> nn.Module:
    checkpoint = foreign.read(folder)
    request = ImportRequest(family=family, path=checkpoint.path, tensors=checkpoint.tensors, config=checkpoint.config)
    result = import_checkpoint(request)
    loaded = plugins.load(family)
    config = loaded.call("validate_config", ConfigRequest(family=family, config=result.config))
    assert config == result.config, "an importer's config is complete"
    module = loaded.call("build_module", BuildRequest(family=family, config=config))
    module.load_state_dict(dict(result.state_dict))
    assert all(name.startswith(("loss.", "model_ema.", "quantize.codebook_used")) for name in result.unused)
    return module.eval()


def recorded(folder: Path) -> dict[str, Tensor]:
    with np.load(folder / "io.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


class Quantized(nn.Module):
    """pixels -> latents, tokens, the picture of these tokens: float in and out, as the references have it."""

    def __init__(self, codec: nn.Module):
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents = self.codec.encoder(pad_to_multiple(x, self.codec.config.downsampling))
        tokens = nearest_code(latents.permute(0, 2, 3, 1), self.codec.quantizer.codebook)
        z_q = self.codec.quantizer.decode(tokens).permute(0, 3, 1, 2)
        return latents, tokens, self.codec.decoder(z_q)


class Gaussian(nn.Module):
    """pixels -> mean, log-variance, the mean's picture."""

    def __init__(self, codec: nn.Module):
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.codec.encode(pad_to_multiple(x, self.codec.config.downsampling))
        return mean, log_variance, self.codec.decoder(mean)


def in_graph(module: nn.Module, names: tuple[str, ...], x: Tensor, folder: Path) -> dict[str, Tensor]:
    """The module's outputs for x, by ONNX Runtime."""

    def port(tensor: Tensor, rows: str, columns: str) -> Port:
        channels = tensor.shape[1:-2]  # tokens have none
        dtype = str(tensor.dtype).removeprefix("torch.")
        return Port(kind="tensor", dtype=dtype, shape=("batch", *channels, rows, columns))

    latents, second, out = module(x)
    ports = (port(latents, "rows", "columns"), port(second, "rows", "columns"), port(out, "height", "width"))
    task = Task(summary="parity", inputs={"x": SIZED}, outputs=dict(zip(names, ports)))
    weights = Weights(nn.ModuleDict({"codec": module.codec}), ("codec",), folder)
    export_task(module, "parity", task, weights, folder / "parity.onnx")
    result = open_session(folder / "parity.onnx", "cpu").run({"x": x.numpy()})
    return {name: torch.from_numpy(result[name]) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("case", QUANTIZED)
def test_a_quantised_codec_gives_its_references_numbers(shared_data, tmp_path, case):
    folder = shared_data / "parity" / case
    io, module = recorded(folder), Quantized(imported("vqgan", folder)["codec"])
    names = ("latents", "tokens", "out")
    with torch.no_grad():
        in_torch = dict(zip(names, module(io["x"])))
        graph = in_graph(module, names, io["x"], tmp_path)
    expected = io.get("pre_quant", io.get("latent", io.get("latents")))
    for result in (in_torch, graph):
        torch.testing.assert_close(result["latents"], expected, **TOLERANCE)
        assert torch.equal(result["tokens"].flatten(), io["indices"].flatten())
        torch.testing.assert_close(result["out"], io["out"], **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in QUANTIZED if "lightning" not in case])  # that one is vqgan_f4 again
def test_an_imported_codecs_graphs_give_torchs_numbers_at_any_size(shared_data, tmp_path, case):
    """No photograph, as in test_model.py: it takes half a minute, and LlamaGen's would need 12 GB, and refuses."""
    codec = imported("vqgan", shared_data / "parity" / case)["codec"]
    assert_graphs_are_torchs(codec, tmp_path, (*SIZES[:2], (121, 81)))


@pytest.mark.slow
@pytest.mark.parametrize("case", GAUSSIAN)
def test_a_gaussian_codec_gives_its_references_numbers(shared_data, tmp_path, case):
    folder = shared_data / "parity" / case
    io, module = recorded(folder), Gaussian(imported("klvae", folder)["codec"])
    names = ("mean", "logvar", "out")
    with torch.no_grad():
        in_torch = dict(zip(names, module(io["x"])))
        graph = in_graph(module, names, io["x"], tmp_path)
    for result in (in_torch, graph):
        for name in names:
            torch.testing.assert_close(result[name], io[name], **TOLERANCE)
        torch.testing.assert_close(kl_loss(result["mean"], result["logvar"]), io["kl"], rtol=1e-4, atol=1e-3)
