"""The quantiser against recorded cases of the reference implementations (`../shared/parity`)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from zoo_vqvae.quantize import Quantized, VectorQuantizer, perplexity

pytestmark = pytest.mark.shared

SONNET_EPSILON, SONNET_BETA = 1e-5, 0.25


def recorded(folder: Path) -> dict[str, torch.Tensor]:
    with np.load(folder / "io.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def quantizer_of(codebook: torch.Tensor, **options: object) -> VectorQuantizer:
    quantizer = VectorQuantizer(*codebook.shape, **{"restart_below": 0} | options)  # no reference restarts codes
    quantizer.codebook.data.copy_(codebook)
    return quantizer


def perplexity_of(out: Quantized, quantizer: VectorQuantizer) -> torch.Tensor:
    return perplexity(torch.bincount(out.indices.flatten(), minlength=len(quantizer.codebook))).float()


# --- Sonnet -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sonnet(shared_data):
    return recorded(shared_data / "parity/quantizers/sonnet_vq_and_ema")


def test_loss_codes_and_gradients_are_sonnets(sonnet):
    quantizer = quantizer_of(sonnet["embeddings_0"].t(), learn="loss")
    x = sonnet["vq_x"].clone().requires_grad_()
    out = quantizer(x)
    loss = out.losses["codebook"] + SONNET_BETA * out.losses["commitment"]
    (loss + (out.z_q * sonnet["vq_cotangent"]).sum()).backward()
    assert torch.equal(out.indices, sonnet["vq_indices"])
    torch.testing.assert_close(loss, sonnet["vq_loss"])
    torch.testing.assert_close(perplexity_of(out, quantizer), sonnet["vq_perplexity"])
    torch.testing.assert_close(out.z_q, sonnet["vq_quantize"])
    torch.testing.assert_close(x.grad, sonnet["vq_grad_x"])
    torch.testing.assert_close(quantizer.codebook.grad, sonnet["vq_grad_embeddings"].t())


@pytest.mark.parametrize("decay", [0.99, 0.5])
def test_four_steps_of_averages_are_sonnets(sonnet, decay):
    quantizer = quantizer_of(sonnet["embeddings_0"].t(), decay=decay)
    for step in range(4):
        case = {name.split("_", 2)[2]: v for name, v in sonnet.items() if name.startswith(f"ema{decay}_step{step}_")}
        out = quantizer(case["x"])
        assert torch.equal(out.indices, case["indices"])
        torch.testing.assert_close(perplexity_of(out, quantizer), case["perplexity"])
        torch.testing.assert_close(quantizer.cluster_size, case["cluster_size_hidden"])
        torch.testing.assert_close(quantizer.cluster_sum, case["dw_hidden"].t())
        # Sonnet divides both averages by 1 - decay^t before use. That cancels, but for the epsilon that smooths the
        # counts: ours weighs 1 / (1 - decay^t) times as much. Done Sonnet's way, our averages give its codebook;
        bias = 1 - decay ** (step + 1)
        size, total = quantizer.cluster_size / bias, quantizer.cluster_sum / bias
        smoothed = (size + SONNET_EPSILON) / (size.sum() + len(size) * SONNET_EPSILON) * size.sum()
        torch.testing.assert_close(total / smoothed[:, None], case["embeddings_after"].t(), rtol=1e-5, atol=1e-6)
        # done our way, each code is off by a share of epsilon / its count, at most 1e-5 / 0.01 after the first step.
        used = quantizer.cluster_size > 0
        share = SONNET_EPSILON / quantizer.cluster_size[used].min()
        theirs = case["embeddings_after"].t()
        assert ((quantizer.codebook - theirs).abs() <= 1.1 * share * theirs.abs() + 1e-6).all()
        torch.testing.assert_close(SONNET_BETA * out.losses["commitment"], case["loss"], rtol=1e-3, atol=0)


def test_evaluation_after_four_steps_is_sonnets(sonnet):
    quantizer = quantizer_of(sonnet["ema0.99_step3_embeddings_after"].t()).eval()
    assert torch.equal(quantizer(sonnet["vq_x"]).indices, sonnet["ema0.99_eval_indices"])


# --- zalandoresearch/pytorch-vq-vae -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case, learn", [("zalando_vq", "loss"), ("zalando_ema", "ema")])
def test_codes_and_loss_are_zalandos(shared_data, case, learn):
    folder = shared_data / "parity/vqvae" / case
    io = recorded(folder)
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)
    quantizer = quantizer_of(weights["_vq_vae._embedding.weight"], learn=learn)
    out = quantizer(io["pre_quant"].permute(0, 2, 3, 1))
    assert torch.equal(out.indices.flatten(), io["indices"])
    torch.testing.assert_close(out.z_q.permute(0, 3, 1, 2), io["quant"])
    torch.testing.assert_close(0.25 * out.losses["commitment"] + out.losses.get("codebook", 0), io["vq_loss"])
    torch.testing.assert_close(perplexity_of(out, quantizer), io["perplexity"])


def test_two_steps_of_averages_are_zalandos(shared_data):
    folder = shared_data / "parity/vqvae/zalando_ema"
    io = recorded(folder)
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)
    quantizer = quantizer_of(weights["_vq_vae._embedding.weight"])
    quantizer.cluster_size.copy_(weights["_vq_vae._ema_cluster_size"])
    quantizer.cluster_sum.copy_(weights["_vq_vae._ema_w"])
    for step in ("train0", "train1"):
        quantizer(io["pre_quant"].permute(0, 2, 3, 1))
        torch.testing.assert_close(quantizer.cluster_sum, io[f"{step}/_vq_vae._ema_w"])
        torch.testing.assert_close(quantizer.codebook, io[f"{step}/_vq_vae._embedding.weight"])
        # zalando writes the smoothed counts back; ours stay raw, as Sonnet's. Their difference is of epsilon's order.
        theirs = io[f"{step}/_vq_vae._ema_cluster_size"]
        torch.testing.assert_close(quantizer.cluster_size, theirs, rtol=1e-5, atol=2e-5)
        quantizer.cluster_size.copy_(theirs)


# --- lucidrains/vector-quantize-pytorch -------------------------------------------------------------------------------


@pytest.mark.parametrize("case, learn", [("lucid_vq_ema_ste", "ema"), ("lucid_vq_learnable", "loss")])
def test_straight_through_and_commitment_are_lucids(shared_data, case, learn):
    folder = shared_data / "parity/quantizers" / case
    io = recorded(folder)
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)
    quantizer = quantizer_of(weights["_codebook.embed"][0], learn=learn)
    x = io["x"].clone().requires_grad_()
    out = quantizer(x)
    ((out.z_q * io["cotangent"]).sum() + out.losses["commitment"]).backward()
    assert torch.equal(out.indices, io["train_out1"])
    torch.testing.assert_close(out.z_q, io["train_out0"])
    torch.testing.assert_close(out.losses["commitment"], io["train_out2"].reshape(()))
    torch.testing.assert_close(x.grad, io["train_grad_x"])
