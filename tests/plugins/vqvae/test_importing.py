"""Import of zalandoresearch/pytorch-vq-vae: the same numbers as its networks, or one line that names every tensor."""

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_vqvae import plugin, tasks
from zoo_vqvae.importing import PIXEL_SCALE, ZALANDO

from zoo.build import foreign
from zoo.build.train import load_weights
from zoo.errors import InvalidFileError
from zoo.hookspecs import BuildRequest, Imported, ImportRequest, TasksRequest

CASES = ("zalando_vq", "zalando_ema")


def importing(path, tensors, config=None) -> Imported | None:
    return plugin.import_checkpoint(ImportRequest(family="vqvae", path=path, tensors=tensors, config=config))


def rebuilt(imported: Imported) -> nn.Module:
    module = plugin.build_module(BuildRequest(family="vqvae", config=imported.config))
    load_weights(module, imported.state_dict)
    return module.eval()["codec"]


def zalando(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The reference's forward pass, written out: indices [N, h, w] and reconstruction, pictures from -0.5 to 0.5."""

    def layer(function, name, x, **options):
        return function(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), **options)

    def blocks(part, x):
        layers = {name.split(".")[3] for name in weights if name.startswith(f"{part}._residual_stack")}
        for i in range(len(layers)):
            block = f"{part}._residual_stack._layers.{i}._block"
            x = F.relu(x)  # in place there: the skip sees it
            x = x + layer(F.conv2d, f"{block}.3", F.relu(layer(F.conv2d, f"{block}.1", x, padding=1)))
        return F.relu(x)

    x = F.relu(layer(F.conv2d, "_encoder._conv_1", x, stride=2, padding=1))
    x = F.relu(layer(F.conv2d, "_encoder._conv_2", x, stride=2, padding=1))
    x = blocks("_encoder", layer(F.conv2d, "_encoder._conv_3", x, padding=1))
    z = layer(F.conv2d, "_pre_vq_conv", x).permute(0, 2, 3, 1)
    codebook = weights["_vq_vae._embedding.weight"]
    distances = z.square().sum(-1, keepdim=True) + codebook.square().sum(1) - 2 * z @ codebook.t()
    indices = distances.argmin(-1)
    x = layer(F.conv2d, "_decoder._conv_1", codebook[indices].permute(0, 3, 1, 2), padding=1)
    x = F.relu(layer(F.conv_transpose2d, "_decoder._conv_trans_1", blocks("_decoder", x), stride=2, padding=1))
    return indices, layer(F.conv_transpose2d, "_decoder._conv_trans_2", x, stride=2, padding=1)


def fresh(hidden=16, residual=8, layers=1, codes=12, size=4, channels=3, averages=False) -> dict[str, Tensor]:
    """A checkpoint of the layout with random weights."""
    shapes = {
        "_encoder._conv_1": (hidden // 2, channels, 4, 4),
        "_encoder._conv_2": (hidden, hidden // 2, 4, 4),
        "_encoder._conv_3": (hidden, hidden, 3, 3),
        "_pre_vq_conv": (size, hidden, 1, 1),
        "_decoder._conv_1": (hidden, size, 3, 3),
        "_decoder._conv_trans_1": (hidden, hidden // 2, 4, 4),
        "_decoder._conv_trans_2": (hidden // 2, channels, 4, 4),
    }
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) * 0.2

    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = random(*shape)
        weights[f"{name}.bias"] = random(shape[1] if "trans" in name else shape[0])
    for part in ("_encoder", "_decoder"):
        for i in range(layers):
            block = f"{part}._residual_stack._layers.{i}._block"
            weights[f"{block}.1.weight"] = random(residual, hidden, 3, 3)
            weights[f"{block}.3.weight"] = random(hidden, residual, 1, 1)
    weights["_vq_vae._embedding.weight"] = random(codes, size)
    if averages:
        weights["_vq_vae._ema_w"] = random(codes, size)
        weights["_vq_vae._ema_cluster_size"] = random(codes).abs()
    return weights


# --- Parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_gives_the_recorded_numbers(shared_data, case):
    folder = shared_data / "parity/vqvae" / case
    read = foreign.read(folder)
    imported = importing(read.path, read.tensors, read.config)
    assert imported.layout == ZALANDO and imported.unused == ()
    codec = rebuilt(imported)
    with np.load(folder / "io.npz") as arrays:
        recorded = {name: torch.from_numpy(arrays[name]) for name in ("x", "pre_quant", "indices", "out")}
    with torch.no_grad():
        x = recorded["x"] * PIXEL_SCALE
        latents = codec.encoder(x)
        out, quantized = codec(x)
    torch.testing.assert_close(latents, recorded["pre_quant"], rtol=1e-4, atol=1e-6)
    assert torch.equal(quantized.indices.flatten(), recorded["indices"])
    torch.testing.assert_close(out / PIXEL_SCALE, recorded["out"], rtol=1e-4, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_the_test_s_own_reference_gives_them_too(shared_data, case):
    folder = shared_data / "parity/vqvae" / case
    with np.load(folder / "io.npz") as arrays:
        indices, out = zalando(foreign.read(folder).tensors, torch.from_numpy(arrays["x"]))
        assert np.array_equal(indices.flatten(), arrays["indices"])
        np.testing.assert_allclose(out, arrays["out"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [{}, {"channels": 1}, {"layers": 0}, {"layers": 3, "averages": True}])
def test_tasks_give_the_references_pictures_and_codes(tmp_path, shape):
    weights = fresh(**shape)
    imported = importing(tmp_path / "a.pt", weights)
    codec = rebuilt(imported)
    assert imported.config["codec"]["learn_codebook"] == ("ema" if shape.get("averages") else "loss")
    image = torch.randint(0, 256, (3, 16, 24, shape.get("channels", 3)), dtype=torch.uint8)
    with torch.no_grad():
        indices, out = zalando(weights, image.permute(0, 3, 1, 2) / 255 - 0.5)
        levels = ((out + 0.5) * 255).clamp(0, 255).round().permute(0, 2, 3, 1)
        tokens, _ = tasks.Encode(codec)(image)
        reconstruction = tasks.Reconstruct(codec)(image)
    assert torch.equal(tokens, indices)
    assert (reconstruction.float() - levels).abs().max() <= 1


def test_averages_go_into_the_quantiser(tmp_path):
    weights = fresh(averages=True)
    quantizer = rebuilt(importing(tmp_path / "a.pt", weights)).quantizer
    assert torch.equal(quantizer.cluster_size, weights["_vq_vae._ema_cluster_size"])
    assert torch.equal(quantizer.cluster_sum, weights["_vq_vae._ema_w"])


def test_the_file_s_own_tensors_stay_as_they_are(tmp_path):
    weights = fresh()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    importing(tmp_path / "a.pt", weights)
    assert all(torch.equal(before[name], weights[name]) for name in before)


# --- Config -----------------------------------------------------------------------------------------------------------


def test_what_shapes_do_not_show_comes_from_the_config(tmp_path):
    config = {"commitment_cost": 0.5, "decay": 0.9, "num_hiddens": 16, "something": "else"}
    codec = importing(tmp_path / "a.pt", fresh(averages=True), config).config["codec"]
    assert codec["commitment_weight"] == 0.5 and codec["ema_decay"] == 0.9
    assert msgspec.to_builtins(plugin._config({"codec": codec}).codec) == codec
    tasks = plugin.list_tasks(TasksRequest(family="vqvae", config={"codec": codec}))
    assert tasks.tasks["encode"].outputs["tokens"].maximum == 11


def test_a_config_that_contradicts_the_tensors(tmp_path):
    with pytest.raises(InvalidFileError, match=r"^a\.pt: its config says num_hiddens 64, but its tensors 16$"):
        importing(tmp_path / "a.pt", fresh(), {"num_hiddens": 64})


@pytest.mark.parametrize("config", [{"decay": "x"}, {"commitment_cost": -1}])
def test_a_config_that_cannot_be(tmp_path, config):
    with pytest.raises(InvalidFileError, match=r"^a\.pt is a VQ-VAE .* that this family does not support: "):
        importing(tmp_path / "a.pt", fresh(), config)


def test_more_channels_than_a_picture_has(tmp_path):
    with pytest.raises(InvalidFileError, match="that this family does not support: .*image_channels"):
        importing(tmp_path / "a.pt", fresh(channels=2))


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_names_every_tensor_that_is_wrong(tmp_path):
    weights = fresh()
    del weights["_pre_vq_conv.bias"], weights["_decoder._residual_stack._layers.0._block.1.weight"]
    weights["_decoder._conv_1.weight"] = torch.zeros(16, 5, 3, 3)
    weights["_encoder._conv_2.weight"] = torch.zeros(7)
    weights["extra.weight"] = torch.zeros(2)
    with pytest.raises(InvalidFileError) as e:
        importing(tmp_path / "a.pt", weights)
    assert str(e.value) == (
        f"a.pt is incomplete as a checkpoint of {ZALANDO}: "
        "_pre_vq_conv.bias (4,) is missing; "
        "_decoder._residual_stack._layers.0._block.1.weight (8, 16, 3, 3) is missing; "
        "extra.weight (2,) is unexpected; "
        "_encoder._conv_2.weight is (7,), not (16, 8, 4, 4); "
        "_decoder._conv_1.weight is (16, 5, 3, 3), not (16, 4, 3, 3)"
    )


@pytest.mark.parametrize("name", fresh().keys())
def test_any_missing_tensor_is_named_with_its_shape(tmp_path, name):
    """Also one of those that the architecture is read from: then the config beside the file says it."""
    weights = fresh()
    shape = tuple(weights.pop(name).shape)
    config = {"num_hiddens": 16, "num_residual_hiddens": 8, "num_embeddings": 12, "embedding_dim": 4}
    with pytest.raises(InvalidFileError, match="incomplete") as e:
        importing(tmp_path / "a.pt", weights, config)
    assert str(e.value).endswith(f": {name} {shape} is missing")


def test_declines_the_hierarchy_of_rosinality(tmp_path):
    with pytest.raises(InvalidFileError, match=r"^a\.pt is a VQ-VAE-2 .* two grids of tokens"):
        importing(tmp_path / "a.pt", {"quantize_t.embed": torch.zeros(2, 2), "enc_b.blocks.0.weight": torch.zeros(1)})


@pytest.mark.shared
def test_declines_the_recorded_hierarchy(shared_data):
    read = foreign.read(shared_data / "parity/vqvae/vqvae2_default_shape")
    with pytest.raises(InvalidFileError, match=r"^vqvae_560\.pt is a VQ-VAE-2"):
        importing(read.path, read.tensors, read.config)


def test_passes_on_what_it_does_not_know(tmp_path):
    assert importing(tmp_path / "a.pt", {"encoder.conv_in.weight": torch.zeros(1)}) is None


# --- The field that it needed -----------------------------------------------------------------------------------------


def test_the_skip_is_another_function_with_the_same_tensors():
    from zoo_vqvae.model import ResidualBlock

    block, after = ResidualBlock(8, 4), ResidualBlock(8, 4, skip_after_relu=True)
    after.load_state_dict(block.state_dict())
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(block(x) - after(x), x.clamp(max=0))
