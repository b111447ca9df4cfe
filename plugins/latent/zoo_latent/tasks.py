"""The graphs of a latent diffusion model: words in, pixels out.

Each module's `forward` is one task, with the ports in ports.py. The sampler is zoo-diffusion's; what is added is what
the denoiser looks at (`Condition`), and the codec at both ends: samplers work on latents that have mean 0 and variance
1, as the denoiser learnt them.
"""

from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor, nn
from zoo_diffusion.pixels import to_float, to_uint8
from zoo_diffusion.sampling import Count, Labels, Numbers, Pixels, Point, Row, Sampler, Seeds, diffuse, guided
from zoo_vqgan.model import KLAutoencoder
from zoo_vqvae.quantize import nearest_code
from zoo_vqvae.tasks import Codec as VQCodec

from .clip import Clip, Clips
from .config import ClipsConfig, DenoiserConfig, LatentConfig
from .ports import GUIDANCE, NEGATIVE, TEXT, condition_ports
from .scaled import Scaled
from .text import Bytes, Condition, Words

Real = Float32[Tensor, "batch image_channels height width"]  # images, -1 .. 1
Code = Float32[Tensor, "batch code rows columns"]  # latents
Inputs = tuple[Tensor, ...]  # of the ports that say what to draw


@runtime_checkable
class Parts(Protocol):
    """What `build_module` returns: an `nn.ModuleDict` of these, and of `text` if the model draws from words."""

    codec: nn.Module
    denoiser: Scaled


def words_of(parts: Parts) -> Words | Clip | Clips | None:
    """The text encoder, if the model has one."""
    return cast("Words | Clip | Clips | None", getattr(parts, "text", None))


class Asked(NamedTuple):
    """What to draw, and what guidance leads away from; the second is None without guidance."""

    condition: Condition
    unconditional: Condition | None

    def seeing(self, seen: Float32[Tensor, "batch seen_channels rows columns"]) -> "Asked":
        """The same, for a network that also sees a mask and a picture."""
        condition, unconditional = self
        return Asked(condition._replace(seen=seen), unconditional and unconditional._replace(seen=seen))


class Latents(nn.Module):
    """The codec at both ends of a sampler."""

    def __init__(self, codec: nn.Module, denoiser: Scaled):
        super().__init__()
        self.codec, self.denoiser = codec, denoiser

    def encode(self, x: Real) -> Code:
        """Images, -1 .. 1, to latents as the denoiser sees them."""
        return self.denoiser.scaled(self.raw(x))

    def raw(self, x: Real) -> Code:
        """Latents as the codec has them: the mean of a Gaussian one, those before the codebook of a discrete one."""
        if isinstance(self.codec, KLAutoencoder):
            return self.codec.encode(x)[0]
        return cast(VQCodec, self.codec).encoder(x)

    def decode(self, latents: Code) -> Real:
        """The inverse of `encode`; a discrete codec takes the nearest codes."""
        z = self.denoiser.unscaled(latents)
        if isinstance(self.codec, KLAutoencoder):
            return self.codec.decoder(z)
        codec = cast(VQCodec, self.codec)
        tokens = nearest_code(z.permute(0, 2, 3, 1), codec.quantizer.codebook)
        return codec.decoder(codec.quantizer.decode(tokens).permute(0, 3, 1, 2))


class Drawing(Sampler):
    """A sampler of latents, and what its tasks share: reading the condition, and the codec."""

    def __init__(self, parts: Parts, c: LatentConfig):
        super().__init__(cast(Any, parts.denoiser), cast(Any, c.diffusion))
        self.latents = Latents(parts.codec, parts.denoiser)
        self.text = words_of(parts)
        self.names = tuple(condition_ports(c, ()))  # of the ports that say what to draw, in their order
        self.label = c.labels.name if c.labels else "label"
        self.zero_negative = isinstance(c.text, ClipsConfig) and c.text.zero_negative

    def asked(self, given: Inputs) -> tuple[Asked, Numbers | None]:
        """The values of the condition's ports, read: what to draw, and guidance."""
        values = dict(zip(self.names, given, strict=True))
        label, guidance = values.get(self.label), values.get(GUIDANCE)
        condition = Condition() if self.text is None else self.text(values[TEXT])
        if guidance is None:
            return Asked(condition._replace(label=label), None), None
        return self.both(
            condition, Condition() if self.text is None else self.negative(values[NEGATIVE]), label
        ), guidance

    def negative(self, text: Bytes) -> Condition:
        """What guidance leads away from. Networks that were trained so look at zeros if that is nothing."""
        assert self.text is not None
        condition = self.text(text)
        if not self.zero_negative:
            return condition
        assert condition.context is not None and condition.pooled is not None
        given = (text > 0).any(1).to(torch.float32)
        context, pooled = condition.context * given[:, None, None], condition.pooled * given[:, None]
        return condition._replace(context=context, pooled=pooled)

    def both(self, condition: Condition, unconditional: Condition, label: Labels | None) -> Asked:
        """A condition with its label, and the other one with none."""
        none = None if label is None else torch.full_like(label, -1)
        return Asked(condition._replace(label=label), unconditional._replace(label=none))

    def output(self, x: Code, t: Float32[Tensor, " batch"], asked: Asked, guidance: Numbers | None) -> Tensor:
        network = cast(Scaled, self.network)
        if guidance is None or asked.unconditional is None:
            return network(x, t, *asked.condition)
        both = asked.condition.and_then(asked.unconditional)
        output = network(torch.cat((x, x)), torch.cat((t, t)), *both).unflatten(0, (2, x.shape[0]))
        channels = self.c.guided_channels or (self.shape[0] if self.learned else 0)
        return guided(output[1], output[0], guidance, channels, self.c.guidance_rescale)

    def picture(self, x: Code) -> Pixels:
        return to_uint8(self.latents.decode(x))


class Generate(Drawing):
    """seed, steps[, text, negative][, label][, guidance] -> image."""

    def forward(self, seed: Seeds, steps: Count, *given: Tensor) -> Pixels:
        return self.drawn(seed, steps, *self.asked(given))

    def drawn(self, seed: Seeds, steps: Count, asked: Asked, guidance: Numbers | None) -> Pixels:
        def step(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            return self.step(i, row, x, previous_x0, seed, asked, guidance)

        return self.picture(self.loop(self.start(seed, steps), steps, step))


class Variations(Drawing):
    """image, strength, seed, steps, … -> variation: SDEdit (see zoo-diffusion's) on latents."""

    def forward(self, image: Pixels, strength: Numbers, seed: Seeds, steps: Count, *given: Tensor) -> Pixels:
        asked, guidance = self.asked(given)
        y, eps = self.latents.encode(to_float(image)), self.noise(seed, 0)
        starts = torch.round((1 - strength) * steps).to(torch.int64)  # the first step of each image, 0 .. steps

        def step(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            started = (i >= starts)[:, None, None, None]
            fresh = (i <= starts)[:, None, None, None]
            x = torch.where(fresh, diffuse(y, eps, Point(row.alpha, row.sigma)), x)
            x_next, x0 = self.step(i, row, x, previous_x0, seed, asked, guidance, fresh)
            return torch.where(started, x_next, y), x0

        return self.picture(self.loop(y + torch.zeros_like(eps), steps, step, first=starts.min()))


class Inpaint(Drawing):
    """image, mask, seed, steps, … -> inpainted: the latents that the mask leaves are given at every step.

    Lugmayr et al. 2022, "RePaint" (https://arxiv.org/abs/2201.09865), equation 8, without resampling, on latents:
    Avrahami et al. 2023, "Blended Latent Diffusion" (https://arxiv.org/abs/2206.02779), section 4. A latent is drawn
    anew if the mask touches one of its pixels; the other pixels are those of the picture given.
    """

    def forward(
        self,
        image: Pixels,
        mask: UInt8[Tensor, "batch height width 1"],
        seed: Seeds,
        steps: Count,
        *given: Tensor,
    ) -> Pixels:
        asked, guidance = self.asked(given)
        y, eps = self.latents.encode(to_float(image)), self.noise(seed, 0)
        redrawn = (mask >= 128).permute(0, 3, 1, 2).to(torch.float32)  # [batch, 1, height, width]
        touched = F.max_pool2d(redrawn, image.shape[1] // y.shape[2])

        def step(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.where(touched > 0, x, diffuse(y, eps, Point(row.alpha, row.sigma)))
            return self.step(i, row, x, previous_x0, seed, asked, guidance)

        start = eps + torch.zeros_like(eps)  # a loop's input may not be what its body looks at
        x = torch.where(touched > 0, self.loop(start, steps, step), y)
        return torch.where(redrawn.permute(0, 2, 3, 1) > 0, self.picture(x), image)


class InpaintSeen(Drawing):
    """The same, with a network that sees the mask and the rest of the picture: Rombach et al. 2021, section 4.5.

    Its input is noise, mask and latents of the picture, which is grey where it is redrawn. Departs from diffusers,
    which draws these latents from the codec's Gaussian, and returns the whole decoded picture: here they are its mean,
    and the pixels that the mask leaves are those of the picture given.
    """

    def forward(
        self,
        image: Pixels,
        mask: UInt8[Tensor, "batch height width 1"],
        seed: Seeds,
        steps: Count,
        *given: Tensor,
    ) -> Pixels:
        redrawn = (mask >= 128).permute(0, 3, 1, 2).to(torch.float32)  # [batch, 1, height, width]
        latents = self.latents.encode(to_float(image) * (1 - redrawn))
        factor = image.shape[1] // latents.shape[2]
        asked, guidance = self.asked(given)
        asked = asked.seeing(torch.cat((redrawn[:, :, ::factor, ::factor], latents), dim=1))

        def step(i: Tensor, row: Row, x: Tensor, previous_x0: Tensor) -> tuple[Tensor, Tensor]:
            return self.step(i, row, x, previous_x0, seed, asked, guidance)

        x = self.loop(self.start(seed, steps), steps, step)
        return torch.where(mask >= 128, self.picture(x), image)


class Encode(Latents):
    """image -> latents."""

    def forward(self, image: Pixels) -> Code:
        return self.encode(to_float(image))


class Decode(Latents):
    """latents -> image; also the last part of `generate`."""

    def forward(self, latents: Code) -> Pixels:
        return to_uint8(self.decode(latents))


# --- The parts of `generate`, for hosts that run the loop -------------------------------------------------------------


class Begin(Drawing):
    """seed, steps[, text, negative] -> x, previous_x0, plan[, context, there, pooled]."""

    def forward(self, seed: Seeds, steps: Count, *texts: Tensor) -> tuple[Tensor, ...]:
        x = self.start(seed, steps)
        begun = (x, self.nothing_remembered(x), self.plan(steps))
        if self.text is None:
            return begun
        text, negative = texts
        both = [self.text(text), self.negative(negative)]
        contexts, theres, pooled = ([part[i] for part in both] for i in range(3))
        there = torch.stack([cast(Tensor, part) for part in theres], dim=1).to(torch.float32)
        return (
            *begun,
            torch.stack([cast(Tensor, part) for part in contexts], dim=1),
            there,
            torch.stack([cast(Tensor, part) for part in pooled], dim=1),
        )


class TakeStep(Drawing):
    """x, previous_x0, row[, seed, index][, context, there, pooled][, label][, guidance] -> next_x, x0."""

    def forward(self, x: Code, previous_x0: Code, row: Tensor, *given: Tensor) -> tuple[Code, Code]:
        rest = list(given)
        index, seed = torch.zeros((), dtype=torch.int64), None
        if self.noisy:
            seed, index = rest.pop(0), rest.pop(0)
        condition = unconditional = Condition()
        if self.text is not None:
            context, there, pooled = (rest.pop(0) for _ in range(3))
            condition, unconditional = (Condition(context[:, i], there[:, i] > 0, pooled[:, i]) for i in range(2))
        label = rest.pop(0) if self.label in self.names else None
        guidance = rest.pop(0) if rest else None
        if label is not None:
            condition, unconditional = self.both(condition, unconditional, label)
        asked = Asked(condition, None if guidance is None else unconditional)
        return self.step(index, Row.of(row), x, previous_x0, seed, asked, guidance)


def build(task: str, parts: Parts, c: LatentConfig) -> nn.Module:
    """The module of a task of ports.py."""
    if task in ("encode", "decode", "generate_end"):
        return (Encode if task == "encode" else Decode)(parts.codec, parts.denoiser)
    sees = isinstance(c.network, DenoiserConfig) and c.network.inpaints
    modules = {
        "generate": Generate,
        "generate_begin": Begin,
        "generate_step": TakeStep,
        "inpaint": InpaintSeen if sees else Inpaint,
        "variations": Variations,
    }
    return modules[task](parts, c)
