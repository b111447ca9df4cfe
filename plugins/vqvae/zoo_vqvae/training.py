"""Training of the codec, equation 3 of van den Oord et al. 2017, and of a prior over its tokens."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from zoo.build.optim import AveragedTrainer
from zoo.errors import UsageError
from zoo.hookspecs import Batch, TrainRequest
from zoo.settings import read

from .config import CodecSettings, PriorSettings
from .model import VQVAE
from .prior import prior_loss
from .quantize import perplexity
from .tasks import Encode, Parts, pad_to_multiple, to_float


def reconstruction_loss(reconstruction: Float32[Tensor, "*shape"], x: Float32[Tensor, "*shape"]) -> Float32[Tensor, ""]:
    """-log p(x | z_q) of a Gaussian decoder with fixed variance, up to scale and a constant: the mean squared error."""
    return F.mse_loss(reconstruction, x)


class CodecTrainer(AveragedTrainer):
    """Adam with a cosine learning rate; the moving average of the weights is published."""

    # Narrower types than in the base class, which gets them here and never replaces them.
    settings: CodecSettings

    def __init__(self, request: TrainRequest):
        settings = read(CodecSettings, request.settings, "vqvae training")
        codec = cast(VQVAE, cast(Parts, request.module).codec)
        codec.to(memory_format=torch.channels_last)
        super().__init__(request, settings, part=codec)
        self.config = codec.config
        # Averages of the codebook decay once a step: in parts of a batch, they would decay once a part.
        self.accumulates = codec.config.learn_codebook != "ema"
        self.optimizer = torch.optim.Adam(codec.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        x = pad_to_multiple(to_float(batch.images), self.config.downsampling)
        reconstruction, quantized = self.network(x, generator)
        losses = {"reconstruction": reconstruction_loss(reconstruction, x), **quantized.losses}
        loss = losses["reconstruction"]
        if "commitment" in losses:  # not in `validate`
            loss = loss + self.config.commitment_weight * losses["commitment"]
        loss = loss + losses.get("codebook", 0.0)
        counts = torch.bincount(quantized.indices.flatten(), minlength=self.config.num_codes)
        return {"loss": loss, **losses, "perplexity": perplexity(counts)}

    def trained_module(self) -> nn.Module:
        return nn.ModuleDict({"codec": self.average.module}).eval()


class PriorTrainer(AveragedTrainer):
    """AdamW with a cosine learning rate on the codec's tokens; the codec stays unchanged, to the bit."""

    # Narrower types than in the base class, which gets them here and never replaces them.
    settings: PriorSettings

    def __init__(self, request: TrainRequest):
        if not request.parent:
            raise UsageError("a prior learns the tokens of a trained codec: name it with --from MODEL")
        s = read(PriorSettings, request.settings, "prior training")
        parts = cast(Parts, request.module)
        super().__init__(request, s, part=parts.prior)
        self.prior = parts.prior
        self.codec = cast(nn.Module, parts.codec)
        self.encode = Encode(parts.codec).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.part.parameters(), lr=s.learning_rate, betas=(0.9, 0.96), weight_decay=s.weight_decay
        )

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        s, number = self.settings, len(batch.images)

        def chance(share: float) -> Tensor:
            return (torch.rand(number, generator=generator) < share).to(batch.images.device)

        images = batch.images
        if s.mirror:
            images = torch.where(chance(0.5)[:, None, None, None], images.flip(2), images)
        tokens = self.tokens(images)
        label = torch.where(
            chance(s.label_dropout if self.prior.config.null_label else 0.0), -1, self.labels(batch.labels)
        )
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            loss = prior_loss(self.network, self.prior.config.kind, self.prior.num_codes, tokens, label, generator)
        return {"nats_per_token": loss}

    @torch.no_grad()
    def tokens(self, images: UInt8[Tensor, "batch height width channels"]) -> Int64[Tensor, "batch L"]:
        tokens, _ = self.encode(images)
        c, (rows, columns) = self.prior.config, tokens.shape[1:]
        if (rows, columns) != (c.rows, c.columns):
            raise UsageError(
                f"the pictures give {rows}x{columns} tokens, but the prior is for {c.rows}x{c.columns}: give "
                f"--set prior.rows={rows} --set prior.columns={columns}"
            )
        return tokens.flatten(1)

    def labels(self, labels: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        num_classes = self.prior.config.num_classes
        if not num_classes:
            return torch.full_like(labels, -1)
        if labels.max() >= num_classes:
            raise UsageError(
                f"a label is {int(labels.max())}, but prior.num_classes is {num_classes}: --set prior.num_classes=…"
            )
        return labels

    def trained_module(self) -> nn.Module:
        return nn.ModuleDict({"codec": self.codec, "prior": self.average.module})
