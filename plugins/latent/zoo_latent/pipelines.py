"""Reads folders of diffusers' pipelines into our config, weights and vocabulary.

A class of pipelines is a description: its parts, the denoiser's reader, and the text encoders whose outputs it looks
at. Each part's config is read field by field; what cannot be computed is refused with field and value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor
from zoo_diffusion.config import DiffusionConfig
from zoo_diffusion.layouts.scheduler import require
from zoo_vqgan.layouts import import_checkpoint as import_codec

from zoo.build.classes import require_class
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Imported, ImportRequest
from zoo.text import one_line, safe_text

from .config import ClipConfig, ClipsConfig, DenoiserConfig, Network, read_config
from .encoders import PLAIN, PROJECTED, TOKENIZERS, numbered, text_config, text_configs, text_state, vocabulary
from .networks import DIT, INPAINTING_UNET, JOINT, PLAIN_UNET, SIZED_UNET, UNET, Reader
from .schedulers import FLOW, SCHEDULERS, UNSCALED, read_flow, read_schedule
from .source import INDEX, Source

LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "watermark")
SCALE = 0.18215
"""diffusers' own, for codecs whose config says nothing."""


class Codec(NamedTuple):
    part: str  # its name in the pipeline
    family: str  # of ours


CODECS = {"AutoencoderKL": Codec("vae", "klvae"), "VQModel": Codec("vqvae", "vqgan")}


@dataclass(frozen=True)
class Pipeline:
    """What the pipelines of a class consist of."""

    network: Reader
    texts: tuple[str, ...] = ()  # classes of its text encoders
    codec: str = "AutoencoderKL"
    guidance: float = 1.0  # if nothing else is asked for
    schedulers: tuple[str, ...] = SCHEDULERS
    zeros: int = 0  # tokens in the place of a third text encoder's, which is absent
    scale: Literal["plain", "measured", "shifted"] = "plain"
    """How the codec's latents are scaled: by a factor, which `measured` joins with `latents_mean` and `latents_std`, if
    the codec's config has them, and `shifted` with its `shift_factor`."""

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The parts, and the classes that are computed here."""
        texts: dict[str, tuple[str, ...]] = {}
        for number, encoder in enumerate(self.texts, start=1):
            texts |= {numbered("text_encoder", number): (encoder,), numbered("tokenizer", number): TOKENIZERS}
        return {
            CODECS[self.codec].part: (self.codec,),
            self.network.part: self.network.classes,
            **texts,
            "scheduler": self.schedulers,
        }


PIPELINES = {
    "StableDiffusionPipeline": Pipeline(network=UNET, texts=(PLAIN,), guidance=7.5),
    "StableDiffusionInpaintPipeline": Pipeline(network=INPAINTING_UNET, texts=(PLAIN,), guidance=7.5),
    "StableDiffusionXLPipeline": Pipeline(network=SIZED_UNET, texts=(PLAIN, PROJECTED), guidance=5.0, scale="measured"),
    "StableDiffusion3Pipeline": Pipeline(
        network=JOINT, texts=(PROJECTED, PROJECTED), guidance=7.0, schedulers=FLOW, zeros=256, scale="shifted"
    ),
    "DiTPipeline": Pipeline(network=DIT, guidance=4.0, schedulers=UNSCALED),
    "LDMPipeline": Pipeline(network=PLAIN_UNET, codec="VQModel"),
}


def import_checkpoint(request: ImportRequest) -> Imported | None:
    """The hook of the contract.

    Raises:
        InvalidFileError: a part is missing, of another class or shape, or has a field that is not supported.
    """
    index = request.config or {}
    if request.path.name != INDEX or not isinstance(index.get("_class_name"), str):
        return None
    try:
        return _read(Source(folder=request.path.parent, index=index, every=request.tensors))
    except KeyError as e:
        what = f"a config has no '{safe_text(e.args[0])}'"
    except (TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as e:
        what = f"a config does not belong to its weights ({one_line(e)})"
    raise InvalidFileError(f"{safe_text(request.path.parent)}: {what}")


def _read(source: Source) -> Imported:
    index, name = source.index, source.index["_class_name"]
    if name not in PIPELINES:
        require_class({"_class_name": name}, tuple(PIPELINES), INDEX)
        require(index, INDEX, _class_name=tuple(PIPELINES))  # a variant, which that lets through
    pipeline = PIPELINES[name]
    source.check(pipeline.parts)
    vae = source.config(CODECS[pipeline.codec].part, (pipeline.codec,))
    codec = _codec(source, pipeline, vae)
    network = pipeline.network.config(source, pipeline.network.part)
    text = _text(source, pipeline, network)
    if text:
        _check_fit(pipeline, network, text)
    if isinstance(network, DenoiserConfig) and network.sizes:
        height, width = (side * 2 ** (len(codec.config["codec"]["widths"]) - 1) for side in network.size)
        network = msgspec.structs.replace(network, sizes=(height, width, 0, 0, height, width))
    diffusion = _schedule(source, pipeline)
    whole = {
        "codec": codec.config["codec"],
        "text": text and msgspec.to_builtins(text),
        "labels": _labels(index, network.num_classes),
        "network": msgspec.to_builtins(network),
        "diffusion": msgspec.to_builtins(diffusion),
    }
    try:
        c, _ = read_config(whole)
    except UsageError as e:
        raise InvalidFileError(f"{source.layout}, but one that this family does not support: {e}") from None
    outputs = 2 if c.diffusion.variance == "learned" else 1
    state = dict(codec.state_dict)
    scale = _scale(vae, c.network.image_channels, pipeline.scale)
    state |= pipeline.network.state(source.tensors(pipeline.network.part), c.network, outputs, scale)
    unused = tuple(f"{CODECS[pipeline.codec].part}.{name}" for name in codec.unused)
    assets: dict[str, bytes] = {}
    if text:
        assets = vocabulary(source)
        read, left = text_state(source, text, assets)
        state |= read
        unused += left
    notes: list[str] = []
    left = [name for name in LEFT_OUT if index.get(name) and index[name] != [None, None]]
    if left:
        notes.append(f"left out: {', '.join(left)}; pictures are not checked")
    if "scaling_factor" not in vae and pipeline.codec == "VQModel":
        notes.append(
            f"its codec's config has no scaling_factor: latents are divided by diffusers' default, {SCALE}; if the"
            " pictures are wrong, write 1.0, latent-diffusion's own, into it"
        )
    return Imported(
        layout=source.layout,
        config=msgspec.to_builtins(c),
        state_dict=state,
        notes=tuple(notes),
        unused=unused,
        assets=assets,
    )


# --- The parts --------------------------------------------------------------------------------------------------------


def _codec(source: Source, pipeline: Pipeline, config: Mapping[str, Any]) -> Imported:
    part, family = CODECS[pipeline.codec]
    codec = import_codec(
        ImportRequest(family=family, path=source.folder / part, tensors=source.tensors(part), config=dict(config))
    )
    if codec is None:
        raise InvalidFileError(f"{source.layout}: the tensors of {part} are not those of a {pipeline.codec}")
    return codec


def _text(source: Source, pipeline: Pipeline, network: Network) -> ClipConfig | ClipsConfig | None:
    if len(pipeline.texts) < 2:
        return text_config(source) if pipeline.texts else None
    if not pipeline.zeros:
        return text_configs(source, zero_negative=bool(source.index.get("force_zeros_for_empty_prompt", True)))
    third = source.index.get("text_encoder_3")
    if third and third != [None, None]:
        raise InvalidFileError(
            f"{INDEX}: text_encoder_3 is {safe_text(third[-1])}, which needs a tokenizer that zoo does not have; save"
            " the pipeline with text_encoder_3=None and tokenizer_3=None"
        )
    return text_configs(source, context=network.context_width, zeros=pipeline.zeros)


def _check_fit(pipeline: Pipeline, network: Network, text: ClipConfig | ClipsConfig) -> None:
    """Refuses text encoders whose outputs do not have the shape that the network expects."""
    where = f"{pipeline.network.part}/config.json"
    if network.context_width != text.width:
        sizes = [c.width for c in text.encoders] if isinstance(text, ClipsConfig) else text.width
        raise InvalidFileError(
            f"{where}: cross_attention_dim is {network.context_width}; the text encoder's hidden_size is {sizes}"
        )
    if network.pooled_width not in (0, text.pooled):
        raise InvalidFileError(
            f"{where}: the network expects {network.pooled_width} numbers for the whole text; the text encoder's"
            f" projection_dim is {text.pooled}"
        )


def _scale(vae: Mapping[str, Any], channels: int, kind: str) -> dict[str, Tensor]:
    """The pipeline's latents are (z - mean) / deviation * scale: mean and deviation of the codec's."""
    scale = vae.get("scaling_factor") or SCALE
    mean, deviation = torch.zeros(channels), torch.ones(channels)
    if kind == "shifted":
        mean = mean + float(vae.get("shift_factor") or 0)
    if kind == "measured" and vae.get("latents_mean") is not None and vae.get("latents_std") is not None:
        mean, deviation = torch.tensor(vae["latents_mean"]).float(), torch.tensor(vae["latents_std"]).float()
        for name, numbers in (("latents_mean", mean), ("latents_std", deviation)):
            if numbers.shape != (channels,):
                raise InvalidFileError(f"vae/config.json: {name} must have {channels} numbers, one per channel")
    return {
        "mean": mean,
        "deviation": deviation / float(scale),
        "measured": torch.ones((), dtype=torch.int64),
    }


def _labels(index: Mapping[str, Any], classes: int) -> dict[str, Any] | None:
    """The names of the classes: of a class with several, the first that no other has."""
    if not classes:
        return None
    named = index.get("id2label")
    if not isinstance(named, Mapping):
        return {}
    names: list[str] = []
    for number in range(classes):
        text = named.get(str(number))
        if not isinstance(text, str):
            raise InvalidFileError(f"{INDEX}: id2label has no name for {number}, one of {classes} classes")
        synonyms = [name.strip()[:90] for name in text.split(",")]
        name = next((name for name in synonyms if name and name not in names), f"{synonyms[0]} {number}")
        names.append(name)
    return {"classes": names}


def _schedule(source: Source, pipeline: Pipeline) -> DiffusionConfig:
    """The scheduler, with the pipeline's own defaults."""
    config = source.config("scheduler", pipeline.schedulers, "scheduler_config.json")
    if pipeline.schedulers == FLOW:
        return read_flow(config)
    network = source.config(pipeline.network.part)
    learned = network.get("out_channels") == 2 * network.get("in_channels", 4)
    diffusion = read_schedule(source.folder, learned=learned)
    if diffusion.sampler != "lcm":  # which draws without guidance
        diffusion = msgspec.structs.replace(diffusion, default_guidance=pipeline.guidance)
    return diffusion
