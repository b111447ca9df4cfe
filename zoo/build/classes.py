"""Which class a foreign checkpoint's config names, and what it would take to import the ones that no family has.

Names of tensors do not determine a function: SiT has every tensor of DiT, and solves another equation. So an importer
compares the class that the config names with those that it knows, and refuses all others.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InvalidFileError
from ..text import safe_text

TEXT = "a text encoder and cross-attention"
VIDEO = "convolutions over time and a port for videos"

NEEDS = {
    "AsymmetricAutoencoderKL": "a KL autoencoder whose decoder also takes the masked image: it needs a second, "
    "conditional path in the decoder and a task with `image` and `mask`",
    "AutoencoderDC": "DC-AE, a deep-compression autoencoder: it needs residual pixel shuffles and linear attention",
    "AutoencoderKLCogVideoX": f"the video autoencoder of CogVideoX: it needs {VIDEO}",
    "AutoencoderKLFlux2": "the autoencoder of FLUX.2: it needs patches of latents with batch norm",
    "AutoencoderKLTemporalDecoder": f"the autoencoder of Stable Video Diffusion: it needs {VIDEO}",
    "AutoencoderKLWan": f"the video autoencoder of Wan: it needs {VIDEO}",
    "AutoencoderTiny": "TAESD, a small distilled autoencoder: it needs its residual blocks without norms, and pixels "
    "from 0 to 1",
    "CogVideoXTransformer3DModel": f"CogVideoX, text to video: it needs {TEXT}, and {VIDEO}",
    "ConsistencyDecoderVAE": "OpenAI's consistency decoder: it needs a sampler inside the decoder",
    "EncoderUNetModel": "ADM's noisy classifier: it needs classifier guidance in the sampler",
    "FluxTransformer2DModel": f"FLUX, text to image: it needs {TEXT}, and a sampler of rectified flows",
    "LDMSuperResolutionPipeline": "latent diffusion's super-resolution: its network takes the small image besides the "
    "noise, so it needs a task with that image as input",
    "LDMTextToImagePipeline": "latent diffusion's text to image of 2022: it needs BERT's WordPiece tokenizer inside "
    "the graph, and LDMBert's transformer",
    "LatentDiffusion": "a whole latent diffusion model: only its first stage can be imported (zoo import vqgan …, or "
    "klvae …)",
    "PixArtTransformer2DModel": f"PixArt, text to image: it needs {TEXT}, and one modulation for all blocks",
    "SanaTransformer2DModel": f"Sana, text to image: it needs {TEXT}, linear attention, and a sampler of flows",
    "SD3Transformer2DModel": f"Stable Diffusion 3, text to image: it needs {TEXT}, and a sampler of rectified flows",
    "SiT": "a DiT trained as a flow: it has DiT's tensors, but predicts a velocity between noise at time 0 and data at "
    "time 1, so it needs a sampler of flows",
    "StableDiffusionXLImg2ImgPipeline": "SDXL's pipeline of the refiner: it needs a task that goes on from a picture's "
    "latents; give the base model's folder, a StableDiffusionXLPipeline",
    "SuperResModel": "an upsampler of ADM: its network takes the small image besides the noise, so it needs a task "
    "with that image as input",
    "UNet2DConditionModel": "Stable Diffusion's U-Net: it needs the other parts of its pipeline, so give the folder"
    " that contains model_index.json to zoo import latent",
    "UNetModel of consistency_models": "a consistency model: its network takes 250 ln sigma instead of a timestep, so "
    "it needs the sampler of consistency models",
    "UNet3DConditionModel": f"a video model: it needs {TEXT}, and {VIDEO}",
    "UVit2DModel": f"aMUSEd, text to tokens: it needs {TEXT}",
    "VQVAE": "VQ-VAE-2: its pictures have two grids of tokens, so it needs a task with both",
    "WanTransformer3DModel": f"Wan, text to video: it needs {TEXT}, and {VIDEO}",
}
"""Classes of well-known checkpoints that no family of zoo has: what they are, and what they need."""

_SAME = {"SiTTransformer2DModel": "SiT", "Flux2Transformer2DModel": "FluxTransformer2DModel", "DC-AE": "AutoencoderDC"}
_SAME |= {"TAESD": "AutoencoderTiny", "UNetSpatioTemporalConditionModel": "UNet3DConditionModel"}
_SAME |= {"SanaVideoTransformer3DModel": "WanTransformer3DModel", "PixArt": "PixArtTransformer2DModel"}

SIGNS = {
    "decoder.condition_encoder.": "AsymmetricAutoencoderKL",
    "encoder.stages.": "AutoencoderDC",
    "encoder.layers.0.weight": "AutoencoderTiny",
    "double_blocks.": "FluxTransformer2DModel",
    "single_transformer_blocks.": "FluxTransformer2DModel",
    "model.diffusion_model.": "LatentDiffusion",
    "caption_projection.": "PixArtTransformer2DModel",
    "text_embedding.": "WanTransformer3DModel",
    "down_blocks.0.attentions.0.transformer_blocks.": "UNet2DConditionModel",
    "input_blocks.1.1.transformer_blocks.": "UNet2DConditionModel",
    "quantize_t.": "VQVAE",
}
"""Beginnings of tensors' names that only one of these classes has, for files without a config."""


FAMILIES = {
    "AutoencoderKL": "klvae",
    "DiT": "dit",
    "DiTTransformer2DModel": "dit",
    "UNet2DModel": "ddpm",
    "VQModel": "vqgan",
}
"""Classes that a family of zoo's own plugins imports, for hints."""


def class_of(config: Mapping[str, Any] | None) -> tuple[str, str]:
    """The field of a config that names a class, and the class: diffusers' `_class_name`, a script's `model`
    ("DiT-XL/2"), latent-diffusion's and Hydra's `target`. Both are empty if it names none."""
    config = config or {}
    model = config.get("model")
    inner = model if isinstance(model, Mapping) else {}
    said = {
        "_class_name": config.get("_class_name"),
        "model": model,
        "model.target": inner.get("target"),
        "target": config.get("target"),
        "_target_": config.get("_target_"),
    }
    return next(((field, name) for field, name in said.items() if isinstance(name, str) and name), ("", ""))


def require_class(config: Mapping[str, Any] | None, known: tuple[str, ...], source: str) -> None:
    """Refuses a config that names a class which the importer does not know.

    Args:
        known: classes, without the package; their variants (`DiT-XL/2` of `DiT`) are known too.
        source: the layout or the checkpoint's name, for the message.

    Raises:
        InvalidFileError: names the class, and what it would need.
    """
    field, name = class_of(config)
    if name and not any(_is_variant(name, one) for one in known):
        about = _about(name)
        raise InvalidFileError(
            f"{source}: {field} is {safe_text(name[:200])}; only {', '.join(known)} can be imported"
            + (f"; it is {about}" if about else "")
        )


def explain(config: Mapping[str, Any] | None, names: Iterable[str], family: str = "") -> str:
    """What a checkpoint without an importer is, as far as its config or its tensors' names tell; else empty.

    Args:
        family: the one that cannot import it, which is not advised again.
    """
    if name := class_of(config)[1]:
        about = "" if any(_is_variant(name, one) for one, its in FAMILIES.items() if its == family) else _about(name)
        return f"its class is {safe_text(name[:200])}" + (f": {about}" if about else "")
    names = list(names)
    sign = next((sign for sign in SIGNS if any(name.startswith(sign) for name in names)), None)
    return f"its tensors are those of {SIGNS[sign]}: {NEEDS[SIGNS[sign]]}" if sign else ""


def _about(name: str) -> str:
    """What a well-known class is and needs, or the command that imports it; empty for others."""
    for known, family in FAMILIES.items():
        if _is_variant(name, known):
            return f"of the family {family}: zoo import {family} …"
    return next((NEEDS[_SAME.get(k, k)] for k in (*NEEDS, *_SAME) if _is_variant(name, k)), "")


def _is_variant(name: str, known: str) -> bool:
    """Whether a name, perhaps dotted, is a known class, or one with a size behind it: `SiT-XL/2`."""
    last = name.rpartition(".")[2]
    return re.fullmatch(rf"{re.escape(known)}([-_/].*)?", last, re.IGNORECASE) is not None
