import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from zoo_vqgan.losses import (
    DELTA,
    MAX_ADAPTIVE_WEIGHT,
    PatchDiscriminator,
    adaptive_weight,
    adversarial_loss,
    hinge_discriminator_loss,
    kl_loss,
    perceptual_loss,
    pixel_loss,
)

from zoo.build import foreign


def close(value: torch.Tensor, expected: float) -> None:
    torch.testing.assert_close(value, torch.tensor(expected))


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_pixel_loss_by_hand():
    a, b = torch.tensor([0.0, 1.0, -1.0, 0.5]), torch.tensor([0.0, 0.5, 1.0, 0.5])
    close(pixel_loss(a, b), 2.5 / 4)
    close(pixel_loss(a, b, "l2"), 4.25 / 4)


def test_perceptual_loss_by_hand():
    """One place, two channels: (3, 4) and (4, 3) are (.6, .8) and (.8, .6) at length 1, so 0.08 apart, squared."""
    a, b = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1), torch.tensor([4.0, 3.0]).reshape(1, 2, 1, 1)
    close(perceptual_loss([a], [b]), 0.08)
    close(perceptual_loss([a, a], [10 * b, a]), 0.08)  # length does not matter; depths add up
    opposite = torch.cat((a, a), dim=3), torch.cat((-a, a), dim=3)
    close(perceptual_loss([opposite[0]], [opposite[1]]), 2.0)  # the mean over places of 4 and 0


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    close(hinge_discriminator_loss(real, fake), 0.5 * (0.5 + 1.0))  # means of (0, 1) and of (0, 2)
    close(adversarial_loss(fake), 1.0)


def test_kl_by_hand():
    """(mu^2 + sigma^2 - 1 - log sigma^2) / 2, summed: (1 + 1 - 1 - 0) / 2 and (0 + 4 - 1 - log 4) / 2."""
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(4)]])
    close(kl_loss(mean, log_variance)[0], 0.5 + (3 - math.log(4)) / 2)
    assert kl_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)).tolist() == [0, 0]


def test_adaptive_weight_by_hand():
    """Two terms that are linear in the last layer: their gradients are (3, 4) and (0, 2)."""
    w = torch.tensor([1.0, 1.0], requires_grad=True)
    weight = adaptive_weight((w * torch.tensor([3.0, 4.0])).sum(), (w * torch.tensor([0.0, 2.0])).sum(), w)
    close(weight, 5.0 / (2.0 + DELTA))
    assert not weight.requires_grad and w.grad is None
    close(adaptive_weight((w * 1e6).sum(), (w * 0).sum(), w), MAX_ADAPTIVE_WEIGHT)


# --- Gradients reach what they should ---------------------------------------------------------------------------------


def reached(loss: torch.Tensor, **parts: torch.nn.Module) -> set[str]:
    """The parts of which the loss moves a parameter."""
    for part in parts.values():
        part.zero_grad()
    loss.backward()
    return {n for n, part in parts.items() if any(p.grad is not None and p.grad.any() for p in part.parameters())}


def test_each_term_reaches_the_parameters_that_it_should():
    from zoo_vqgan.config import CodecConfig
    from zoo_vqgan.model import VQGAN

    torch.manual_seed(0)
    config = CodecConfig(
        image_channels=1, widths=(8, 8), blocks=1, latent_channels=4, code_size=4, norm_groups=4, num_codes=8,
        learn_codebook="loss", middle_attention=False,
    )  # fmt: skip
    codec, discriminator = VQGAN(config), PatchDiscriminator(1, 4, 1)
    x = torch.rand(2, 1, 16, 16) * 2 - 1
    eye = torch.nn.Conv2d(1, 3, 3).requires_grad_(False)
    parts = {
        "encoder": codec.encoder,
        "decoder": codec.decoder,
        "codebook": codec.quantizer,
        "discriminator": discriminator,
    }

    def terms():
        reconstruction, quantized = codec(x)
        return reconstruction, quantized.losses

    reconstruction, _ = terms()
    assert reached(pixel_loss(reconstruction, x), **parts) == {"encoder", "decoder"}
    assert reached(perceptual_loss([eye(terms()[0])], [eye(x)]), **parts) == {"encoder", "decoder"}
    assert reached(terms()[1]["commitment"], **parts) == {"encoder"}
    assert reached(terms()[1]["codebook"], **parts) == {"codebook"}
    assert reached(adversarial_loss(discriminator(terms()[0])), **parts) == {"encoder", "decoder", "discriminator"}
    fake = terms()[0].detach()
    assert reached(hinge_discriminator_loss(discriminator(x), discriminator(fake)), **parts) == {"discriminator"}


# --- Against the authors' code ----------------------------------------------------------------------------------------


def recorded(folder):
    with np.load(folder / "io.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


@pytest.mark.shared
def test_the_patch_discriminator_is_tamings(shared_data):
    folder = shared_data / "parity/taming/patchgan_bn"
    io, network = recorded(folder), PatchDiscriminator(3, 8, 3)
    network.load_state_dict(foreign.read(folder).tensors)
    torch.testing.assert_close(network.eval()(io["x"]), io["out_eval"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.train()(io["x"]), io["out_train"], rtol=1e-4, atol=1e-5)
    for i in (3, 6, 9):
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(network.main[i], name), io[f"after_main.{i}.{name}"])


@pytest.mark.shared
@pytest.mark.parametrize("step", [5, 20])
def test_the_losses_are_tamings(shared_data, step):
    """rec = conv(features, last layer); the discriminator counts from step 10. Perceptual weight 0."""
    folder = shared_data / "parity/taming/vqgan_loss_hinge"
    io, network = recorded(folder), PatchDiscriminator(3, 8, 2).train()
    weights = foreign.read(folder).tensors
    network.load_state_dict({n.removeprefix("discriminator."): t for n, t in weights.items() if "main." in n})
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    last_layer = io["last_layer"].clone().requires_grad_()
    rec = F.conv2d(io["features"], last_layer, padding=1)
    nll, g_loss = pixel_loss(rec, io["x"]), adversarial_loss(network(rec))
    torch.testing.assert_close(nll, io[f"step{step}_nll"])
    torch.testing.assert_close(g_loss, io[f"step{step}_g_loss"])
    weight = 0.8 * adaptive_weight(nll, g_loss, last_layer)
    torch.testing.assert_close(weight, io[f"step{step}_d_weight"], rtol=1e-4, atol=1e-6)
    factor = float(step >= 10)
    (nll + factor * weight * g_loss).backward()
    torch.testing.assert_close(last_layer.grad, io[f"step{step}_grad_last_layer"], rtol=1e-3, atol=1e-6)

    network.load_state_dict(state)
    real, fake = network(io["x"]), network(rec.detach())
    torch.testing.assert_close(factor * hinge_discriminator_loss(real, fake), io[f"step{step}_disc_loss"])
