"""Training of a denoiser of latents: Rombach et al. 2021, equation 3, on a codec that stays as it is.

Texts and labels are dropped at random, each for itself, for guidance (Ho and Salimans 2022). A picture's latents and a
caption's tokens are computed once.
"""

from hashlib import blake2b
from typing import Any, cast

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from zoo_diffusion.pixels import to_float
from zoo_diffusion.sampling import alphas_bar, betas
from zoo_diffusion.training import computing, denoising_loss, drawn

from zoo.build.optim import AveragedTrainer
from zoo.errors import UsageError
from zoo.hookspecs import Batch, TrainRequest
from zoo.settings import read

from .config import LatentConfig, LatentSettings
from .ports import TEXT
from .scaled import Scaled
from .tasks import Code, Generate, Latents, Parts, words_of
from .text import Condition

MOST_REMEMBERED = 1 << 28
"""Numbers of latents that are kept, 1 GiB as float32."""


def captions(row: bytes) -> list[str]:
    """The captions of a picture: the lines of its text that are not empty."""
    text = row.rstrip(b"\0").decode()
    return [line.strip() for line in text.splitlines() if line.strip()]


EXAMINED_STEPS = 10
"""Of the pictures that are drawn while it trains."""


class Learner(nn.Module):
    """What is trained: the denoiser, and the text encoder if there is one."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.text = words_of(parts)
        self.denoiser = parts.denoiser

    def forward(self, x: Code, t: Float32[Tensor, " batch"], tokens: Tensor | None, label: Tensor | None) -> Code:
        condition = Condition() if self.text is None or tokens is None else self.text.encode(tokens)
        return self.denoiser(x, t, *condition._replace(label=label)).float()


class LatentTrainer(AveragedTrainer):
    """AdamW with a cosine learning rate; the moving average of the weights is published.

    Settings: `LatentSettings`.
    """

    # Narrower types than in the base class, which gets them here and never replaces them.
    settings: LatentSettings
    part: Learner

    def __init__(self, request: TrainRequest, c: LatentConfig):
        s = read(LatentSettings, request.settings, "latent training")
        if c.diffusion.variance == "learned":
            raise UsageError("a learned variance can be imported, not trained: give --set diffusion.variance=small")
        if getattr(c.network, "inpaints", False):
            raise UsageError("a network that inpaints can be imported, not trained: give --set network.inpaints=false")
        request.module.to(memory_format=torch.channels_last)
        parts = cast(Parts, request.module)
        super().__init__(request, s, part=Learner(parts))
        self.c, self.codec = c, parts.codec.eval().requires_grad_(False)
        self.alpha_bar = alphas_bar(betas(c.diffusion)).float().to(self.device)
        self.latents: dict[bytes, Tensor] = {}
        self.tokens: dict[str, Tensor] = {}
        self.optimizer = torch.optim.AdamW(
            self.part.parameters(), lr=s.learning_rate, betas=(0.9, 0.99), weight_decay=s.weight_decay
        )

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        s, number = self.settings, len(batch.images)

        def chance(share: float) -> Tensor:
            return torch.rand(number, generator=generator) < share

        images = batch.images
        if s.mirror:
            images = torch.where(chance(0.5).to(self.device)[:, None, None, None], images.flip(2), images)
        denoiser = cast(Scaled, cast(Learner, getattr(self.network, "module", self.network)).denoiser)
        raw = self._raw(images)
        if not denoiser.measured:
            self._measure(raw)
        tokens, label = None, self._label(batch)
        if self.c.text:
            tokens = self._tokens(batch.arrays[TEXT], generator, chance(s.label_dropout))
        if label is not None and self.c.network.null_label:
            label = torch.where(chance(s.label_dropout).to(self.device), -1, label)
        x0 = denoiser.scaled(raw)
        t, eps = drawn(x0, self.c.diffusion, s.times, generator)

        def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            with computing(self.device, s.precision):
                return self.network(x, t, tokens, label)

        return {"loss": denoising_loss(network, self.c.diffusion, self.alpha_bar, x0, t, eps, cast(Any, label))}

    @torch.no_grad()
    def _raw(self, images: Tensor) -> Code:
        """The codec's latents of some pictures, as far as they are not known yet."""
        keys = [blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images.cpu().contiguous()]
        missing = [i for i, key in enumerate(keys) if key not in self.latents]
        if missing:
            made = Latents(self.codec, self.part.denoiser).raw(to_float(images[missing]))
            if len(self.latents) * made[0].numel() > MOST_REMEMBERED:
                self.latents.clear()
                return Latents(self.codec, self.part.denoiser).raw(to_float(images))
            self.latents |= {keys[i]: latents for i, latents in zip(missing, made.cpu(), strict=True)}
        return torch.stack([self.latents[key] for key in keys]).to(self.device)

    @torch.no_grad()
    def _measure(self, raw: Code) -> None:
        """Mean and deviation of the latents, of a training's first batch: Rombach et al. 2021, appendix G."""
        for denoiser in (self.part.denoiser, cast(Learner, self.average.module).denoiser):
            denoiser.mean.copy_(raw.mean((0, 2, 3)))
            denoiser.deviation.copy_(raw.std((0, 2, 3)).clamp(min=1e-6))
            denoiser.measured.fill_(len(raw))

    @torch.no_grad()
    def _tokens(self, texts: Tensor, generator: torch.Generator, dropped: Tensor) -> Tensor:
        """The tokens of one caption of each picture, drawn from those that it has; of none, if it is dropped."""
        words = self.part.text
        assert words is not None
        draws = torch.rand(len(texts), generator=generator).tolist()
        chosen = []
        for row, draw, no in zip(texts.cpu().numpy(), draws, dropped.tolist(), strict=True):
            found = captions(row.tobytes())
            chosen.append(found[int(draw * len(found))] if found and not no else "")
        missing = sorted({text for text in chosen if text not in self.tokens})
        if missing:
            longest = max(map(len, (encoded := [text.encode() for text in missing])))
            padded = b"".join(text.ljust(max(1, longest), b"\0") for text in encoded)
            array = torch.frombuffer(bytearray(padded), dtype=torch.uint8).view(len(missing), -1)
            self.tokens |= dict(zip(missing, words.tokenize(array.to(self.device)).cpu(), strict=True))
        return torch.stack([self.tokens[text] for text in chosen]).to(self.device)

    def _label(self, batch: Batch) -> Tensor | None:
        """The batch's labels, if the model has them."""
        number = self.c.network.num_classes
        if not number:
            return None
        named = self.c.labels is not None and self.c.labels.name != "label"
        label = batch.arrays[self.c.labels.name] if named and self.c.labels else batch.labels
        if label.max() >= number:
            raise UsageError(
                f"a label is {int(label.max())}, but num_classes is {number}: give --set network.num_classes=…"
            )
        return label

    @torch.no_grad()
    def examine(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Pictures drawn from the batch's own captions and labels, with the averaged weights."""
        if not self.c.text:
            return {}
        learner = cast(Learner, self.average.module)
        parts = nn.ModuleDict(
            {"codec": self.codec, "denoiser": learner.denoiser, "text": cast(nn.Module, learner.text)}
        )
        drawing = Generate(cast(Parts, parts), self.c)
        number = len(batch.images)
        tokens = self._tokens(batch.arrays[TEXT], generator, torch.zeros(number, dtype=torch.bool))
        none = self._tokens(torch.zeros_like(batch.arrays[TEXT]), generator, torch.ones(number, dtype=torch.bool))
        text = cast(Any, learner.text)
        asked = drawing.both(text.encode(tokens), text.encode(none), self._label(batch))
        guidance = torch.full((number,), self.c.diffusion.default_guidance, device=self.device)
        seed = torch.arange(number, device=self.device)
        steps = torch.tensor(min(EXAMINED_STEPS, self.c.diffusion.default_steps), device=self.device)
        return {"captions": drawing.drawn(seed, steps, asked, guidance)}

    def trained_module(self) -> nn.Module:
        learner = cast(Learner, self.average.module)
        parts = {"codec": self.codec, "denoiser": learner.denoiser}
        return nn.ModuleDict(parts if learner.text is None else parts | {"text": learner.text})
