"""The loss terms of VQGAN, one function each, and the networks that only the losses need.

Source: Esser, Rombach, Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis"
(https://arxiv.org/abs/2012.09841), section 3.1: equation 5 (adversarial), equation 7 (adaptive weight). The codebook's
terms are those of zoo-vqvae's quantize.py.

A note on weights: the authors' code multiplies beta with the codebook loss instead of the commitment loss, against its
own docstring, and keeps that for old checkpoints. Here beta weights the commitment loss. The two only differ in
training.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch image_channels height width"]
Term = Float[Tensor, ""]

MAX_ADAPTIVE_WEIGHT = 1e4
DELTA = 1e-4  # keeps equation 7 finite if the discriminator has no gradient


def pixel_loss(reconstruction: Float[Tensor, "*shape"], x: Float[Tensor, "*shape"], kind: str = "l1") -> Term:
    """Mean absolute (`l1`) or squared (`l2`) error, over all elements."""
    return F.l1_loss(reconstruction, x) if kind == "l1" else F.mse_loss(reconstruction, x)


def perceptual_loss(
    features_a: Sequence[Float[Tensor, "batch _ _ _"]], features_b: Sequence[Float[Tensor, "batch _ _ _"]]
) -> Term:
    """How different two images are to a network, at several depths.

    Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1 with all
    weights 1: at each depth, the features are normalised to length 1 at each position, and the squared distance is
    averaged over positions; then summed over depths.

    Args:
        features_a, features_b: one tensor [batch, channels, height, width] per depth.
    """
    terms = [(unit(a) - unit(b)).square().sum(dim=1).mean() for a, b in zip(features_a, features_b, strict=True)]
    return torch.stack(terms).sum()


def unit(
    features: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Normalised to length 1 over the channels at each position; zeros stay zeros."""
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()


def hinge_discriminator_loss(logits_real: Float[Tensor, "*shape"], logits_fake: Float[Tensor, "*shape"]) -> Term:
    """(E max(0, 1 - D(x)) + E max(0, 1 + D(x'))) / 2: Lim and Ye 2017; the authors' code for equation 5."""
    return 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())


def adversarial_loss(logits_fake: Float[Tensor, "*shape"]) -> Term:
    """-E D(x'): the codec's loss against the discriminator."""
    return -logits_fake.mean()


def adaptive_weight(reconstruction_term: Term, adversarial_term: Term, last_layer: Float[Tensor, "*shape"]) -> Term:
    """lambda = |grad L_rec| / (|grad L_GAN| + delta), with gradients of the decoder's last weights (equation 7).

    Makes the two terms pull equally at the last layer. At most `MAX_ADAPTIVE_WEIGHT`; a constant for autograd.
    """
    of_reconstruction = torch.autograd.grad(reconstruction_term, last_layer, retain_graph=True)[0]
    of_adversary = torch.autograd.grad(adversarial_term, last_layer, retain_graph=True)[0]
    ratio = of_reconstruction.norm() / (of_adversary.norm() + DELTA)
    return ratio.clamp(0, MAX_ADAPTIVE_WEIGHT).detach()


def kl_loss(
    mean: Float[Tensor, " batch *latent"], log_variance: Float[Tensor, " batch *latent"]
) -> Float[Tensor, " batch"]:
    """KL(N(mean, variance) || N(0, 1)), in nats per image: summed over all axes but the batch."""
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * terms.flatten(1).sum(dim=1)


class PatchDiscriminator(nn.Module):
    """One logit for each patch: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks".

    Strided 4x4 convolutions, BatchNorm except in the first and last, LeakyReLU 0.2; weights start from N(0, 0.02).
    """

    def __init__(self, image_channels: int, width: int = 64, layers: int = 3):
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        main: list[nn.Module] = [nn.Conv2d(image_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
        for i, (a, b) in enumerate(zip(widths, widths[1:])):
            stride = 2 if i < layers - 1 else 1
            main += [nn.Conv2d(a, b, 4, stride=stride, padding=1, bias=False), nn.BatchNorm2d(b)]
            main.append(nn.LeakyReLU(0.2, True))
        main.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.main = nn.Sequential(*main)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, x: Images) -> Float[Tensor, "batch 1 rows columns"]:
        return self.main(x)
