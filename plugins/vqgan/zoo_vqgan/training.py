"""Training of the codecs: section 3.1 of Esser, Rombach, Ommer 2021, over batches of pictures."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float32, Int64, Integer
from torch import Tensor, nn
from zoo_vqvae.quantize import perplexity
from zoo_vqvae.tasks import pad_to_multiple, to_float

from zoo.build.optim import WeightAverage, cosine_rate
from zoo.errors import UsageError
from zoo.hookspecs import Batch, TrainRequest
from zoo.settings import read

from . import losses
from .config import CodecConfig, CodecSettings, KLConfig
from .model import VQGAN, KLAutoencoder
from .perceptual import Backbone


def random_squares(
    images: Integer[Tensor, "batch height width channels"], side: int, generator: torch.Generator
) -> Integer[Tensor, "batch {side} {side} channels"]:
    """A square crop of each image, at a random position."""
    n, height, width, _ = images.shape
    if min(height, width) < side:
        raise UsageError(f"crop is {side}, but the training pictures are {width}x{height} pixels")
    tops = torch.randint(height - side + 1, (n,), generator=generator).tolist()
    lefts = torch.randint(width - side + 1, (n,), generator=generator).tolist()
    squares = zip(images, tops, lefts)
    return torch.stack([image[top : top + side, left : left + side] for image, top, left in squares])


def mirrored_at_random(
    images: Integer[Tensor, "batch height width channels"], generator: torch.Generator
) -> Integer[Tensor, "batch height width channels"]:
    """Every image, mirrored with probability 1/2."""
    chosen = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(2), images)


class CodecTrainer:
    """Codec and discriminator in turn, with one Adam each; the moving average of the codec's weights is published.

    The first steps train the perceptual backbone if it has no weights; the discriminator has an effect only from
    `discriminator_start` on, when reconstructions can no longer be recognised at a glance.
    """

    def __init__(self, request: TrainRequest):
        self.settings = s = read(CodecSettings, request.settings, f"{request.family} training")
        self.module = request.module.to(memory_format=torch.channels_last)
        self.inner: VQGAN | KLAutoencoder = cast(Any, self.module).codec
        self.config = self.inner.config
        self.codec = request.distribute(self.inner)

        channels = self.config.image_channels
        self.backbone = Backbone(s, channels, len(request.classes)).to(request.device)
        self.discriminator = losses.PatchDiscriminator(channels, s.discriminator_width, s.discriminator_layers)
        self.discriminator.to(request.device)
        for network in (self.backbone, self.discriminator):
            network.to(memory_format=torch.channels_last)
        self.judge_patches = request.distribute(self.discriminator)
        self.backbone_steps = s.perceptual_steps if self.backbone.trained_here and s.perceptual_weight else 0

        def adam(module: nn.Module, rate: float = 1.0) -> torch.optim.Optimizer:
            return torch.optim.Adam([{"params": list(module.parameters()), "scale": rate}], betas=(0.5, 0.9))

        self.optimizers = {
            "codec": adam(self.module),
            "discriminator": adam(self.discriminator, s.discriminator_rate),
            "backbone": adam(self.backbone),
        }
        self.average = WeightAverage(self.module, s.average_decay)

    @property
    def note(self) -> str:
        """The weights that the perceptual loss used."""
        s = self.settings
        if not s.perceptual_weight:
            return "no perceptual loss"
        how = f", trained on the {self.backbone.origin}" if self.backbone.trained_here else ", given weights"
        return f"perceptual loss: timm's {s.perceptual_backbone}{how}"

    def step(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        images = random_squares(batch.images, s.crop, generator) if s.crop else batch.images
        if s.mirror:
            images = mirrored_at_random(images, generator)
        x = pad_to_multiple(to_float(images), self.config.downsampling).contiguous(memory_format=torch.channels_last)
        if step < self.backbone_steps:
            return self._train_backbone(x, batch.labels, step, generator)
        self.backbone.freeze()

        label = batch.labels if self.config.condition_classes else None
        with torch.autocast(x.device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            reconstruction, latents = self.codec(x, label, generator)
        reconstruction = reconstruction.float()
        terms = {"pixel": losses.pixel_loss(reconstruction, x, s.pixel_loss)}
        loss = s.pixel_weight * terms["pixel"]
        if s.perceptual_weight:
            with torch.no_grad():
                seen = self.backbone(x)
            terms["perceptual"] = losses.perceptual_loss(self.backbone(reconstruction), seen)
            loss = loss + s.perceptual_weight * terms["perceptual"]

        judged = step >= s.discriminator_start and s.discriminator_weight > 0
        if judged:
            self.discriminator.requires_grad_(False)
            terms["adversarial"] = losses.adversarial_loss(self.discriminator(reconstruction))
            weight = losses.adaptive_weight(loss, terms["adversarial"], self.inner.decoder.conv_out.weight)
            self.discriminator.requires_grad_(True)
            terms["adaptive_weight"] = weight
            loss = loss + s.discriminator_weight * weight * terms["adversarial"]
        if isinstance(self.config, KLConfig):
            terms["kl"] = losses.kl_loss(*latents).mean()
            loss = loss + s.kl_weight * terms["kl"]
        else:
            terms |= latents.losses
            loss = loss + self.config.commitment_weight * terms["commitment"] + terms.get("codebook", 0.0)

        self._update("codec", loss, self.module, step)
        self.average.update(step)
        if judged:
            fake = reconstruction.detach()
            logits_real, logits_fake = self.judge_patches(x), self.judge_patches(fake)
            terms["discriminator"] = losses.hinge_discriminator_loss(logits_real, logits_fake)
            self._update("discriminator", terms["discriminator"], self.discriminator, step)
        if isinstance(self.config, CodecConfig):
            counts = torch.bincount(latents.indices.flatten(), minlength=self.config.num_codes)
            terms["perplexity"] = perplexity(counts)
        return {name: term.detach() for name, term in terms.items()}

    def _train_backbone(
        self,
        x: Float32[Tensor, "batch image_channels height width"],
        labels: Int64[Tensor, " batch"],
        step: int,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        self.backbone.train()
        loss = self.backbone.loss(x, labels, generator)
        self._update("backbone", loss, self.backbone, step)
        return {"backbone": loss.detach()}

    def _update(self, name: str, loss: Tensor, module: nn.Module, step: int) -> None:
        s, optimizer = self.settings, self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * cosine_rate(step, s.steps, s.learning_rate, s.warmup_steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), s.clip_gradient)
        optimizer.step()

    def _parts(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "average": self.average.module,
            "discriminator": self.discriminator,
            "backbone": self.backbone,
        } | {f"{name}_optimizer": optimizer for name, optimizer in self.optimizers.items()}

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def trained_module(self) -> nn.Module:
        return self.average.module
