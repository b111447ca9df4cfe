"""Config and training settings of latent diffusion models. Does not import torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from zoo_diffusion.config import Count, DiffusionConfig, DiffusionSettings, Struct, UNetConfig, check_unet
from zoo_vqgan.config import CodecConfig, KLConfig
from zoo_vqgan.plugin import check_codec
from zoo_vqvae.config import CodecConfig as PlainCodecConfig

from zoo.errors import UsageError
from zoo.hookspecs import DataFacts
from zoo.settings import read

Codec = KLConfig | CodecConfig | PlainCodecConfig


class WordsConfig(Struct, frozen=True, kw_only=True, tag_field="kind", tag="words"):
    """A small transformer over the words of a text, trained with the denoiser."""

    vocabulary: Annotated[int, Meta(ge=514, le=65_536)] = 4_096
    """The most tokens: 256 bytes, 256 bytes at a word's end, two special tokens, and pairs that are merged."""
    length: Annotated[int, Meta(ge=3, le=1024)] = 32  # tokens, with the one before the text and the one after it
    bytes: Annotated[int, Meta(ge=8, le=65_536)] = 256  # of the longest text
    width: Count = 128
    depth: Annotated[int, Meta(ge=0, le=48)] = 2
    heads: Annotated[int, Meta(ge=1, le=64)] = 4
    examples: tuple[Annotated[str, Meta(max_length=300)], ...] = ()  # what people see to try


class ClipConfig(Struct, frozen=True, kw_only=True, tag_field="kind", tag="clip"):
    """CLIP's text encoder (Radford et al. 2021), as imported; the defaults are those of Stable Diffusion 1."""

    vocabulary: Annotated[int, Meta(ge=514, le=1_000_000)] = 49_408
    length: Annotated[int, Meta(ge=3, le=1024)] = 77
    bytes: Annotated[int, Meta(ge=8, le=65_536)] = 1024  # of the longest text
    width: Count = 768
    hidden: Annotated[int, Meta(ge=1, le=65_536)] = 3072  # of a block's feed-forward
    depth: Annotated[int, Meta(ge=1, le=64)] = 12  # blocks that are computed: Stable Diffusion 2 leaves out the last
    heads: Annotated[int, Meta(ge=1, le=64)] = 12
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    norm_epsilon: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    padding: Annotated[str, Meta(max_length=100)] = ""  # the token after a text's end; empty: the end token again
    examples: tuple[Annotated[str, Meta(max_length=300)], ...] = ()


class LabelsConfig(Struct, frozen=True, kw_only=True):
    """A choice from a list besides the text, such as a style."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$")] = "label"  # of the port, and of the data's array
    classes: tuple[Annotated[str, Meta(max_length=100)], ...] = ()  # names; empty for `label`: those of the data


class DenoiserConfig(UNetConfig, frozen=True, kw_only=True):
    """The U-Net of Rombach et al. 2021: attention that also looks at the text's tokens. Sizes are those of latents."""

    image_channels: Annotated[int, Meta(ge=1, le=64)] = 4
    latents: bool = True
    context_width: Annotated[int, Meta(ge=0, le=65_536)] = 0  # of the text's tokens; 0: as the text encoder's
    pooled_width: Annotated[int, Meta(ge=0, le=65_536)] = 0  # of the vector for the whole text; 0: as its encoder's
    transformer_depth: Annotated[int, Meta(ge=1, le=32)] = 1  # transformer blocks per attention
    feed_forward: Annotated[float, Meta(gt=0, le=8)] = 4.0  # width of a block's hidden layer, in widths of the level


class ScheduleConfig(DiffusionConfig, frozen=True, kw_only=True):
    """zoo-diffusion's, with what Stable Diffusion's schedulers have besides."""

    steps_offset: Annotated[int, Meta(ge=0, le=100)] = 0  # added to the timesteps, with `leading` spacing
    clean_end: bool = True  # the last step ends at the clean latents; otherwise at those of the first timestep


class LatentConfig(Struct, frozen=True, kw_only=True):
    """Config of the family `latent`."""

    tasks: tuple[str, ...] = ()  # the tasks of the bundle; empty: all that fit the model

    codec: Mapping[str, Any] = {}  # as in the family of the codec: klvae, vqgan or vqvae
    text: WordsConfig | ClipConfig | None = None
    labels: LabelsConfig | None = None
    network: DenoiserConfig = DenoiserConfig()
    diffusion: ScheduleConfig = ScheduleConfig(clip=False)


class LatentSettings(DiffusionSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for the training of a denoiser of latents. `label_dropout` is that of texts, and of labels."""


def codec_config(codec: Mapping[str, Any]) -> Codec:
    """The config of a codec, of the family whose fields it has."""
    kind: type[Codec] = KLConfig
    if "hidden_channels" in codec:
        kind = PlainCodecConfig
    elif "num_codes" in codec:
        kind = CodecConfig
    return read(kind, codec, "latent config: codec")


def fitted(config: Mapping[str, Any], data: DataFacts) -> dict[str, Any]:
    """A config that draws pictures like the data, where it leaves open what they are like.

    Raises:
        UsageError: the sides do not fit codec and denoiser; the message has the nearest size that does.
    """
    network, codec = config.get("network", {}), config.get("codec", {})
    if not isinstance(network, Mapping) or not isinstance(codec, Mapping):
        return dict(config)  # refused by `read_config`
    codec = {"image_channels": data.channels, **codec}
    labels, text, found = config.get("labels"), config.get("text"), {}
    if "text" not in config and "text" in data.arrays:
        text = {}
    if labels is None and data.classes:
        labels = {}
    name = labels.get("name", "label") if isinstance(labels, Mapping) else ""
    classes: tuple[str, ...] = data.classes if name == "label" else ()
    if isinstance(labels, Mapping) and isinstance(name, str) and name in data.arrays:
        classes = tuple(labels.get("classes") or data.arrays[name].classes)
        labels = {**labels, "classes": list(classes)}
    if "image_size" not in network:
        known = {key: value for key, value in network.items() if key in ("patch_size", "widths")}
        factor = codec_config(codec).downsampling
        multiple = factor * read(DenoiserConfig, known, "latent config: network").multiple
        if data.height % multiple or data.width % multiple:
            raise UsageError(
                f"the pictures are {data.width}x{data.height}; the sides must be multiples of {multiple} for this"
                f" latent: give --image-size {data.nearest(multiple)} to crop and scale them"
            )
        found = {
            "image_size": data.height // factor,
            "image_width": 0 if data.width == data.height else data.width // factor,
        }
    network = {"num_classes": len(classes), **found, **network}
    return {**config, "codec": codec, "labels": labels, "text": text, "network": network}


def read_config(config: Mapping[str, Any]) -> tuple[LatentConfig, Codec]:
    """The complete config of a model, and that of its codec.

    Raises:
        UsageError: a field is wrong, or does not fit another one.
    """
    text = config.get("text")
    if isinstance(text, Mapping) and "kind" not in text:
        config = {**config, "text": {"kind": "words", **text}}  # configs of before there were two kinds
    c = read(LatentConfig, config, "latent config")
    codec = codec_config(c.codec)
    if not isinstance(codec, PlainCodecConfig):
        check_codec(codec, "latent")
    network, channels = c.network, codec.code_size
    given = config.get("network")
    if not (isinstance(given, Mapping) and "image_channels" in given):
        network = msgspec.structs.replace(network, image_channels=channels)
    if c.text:
        network = msgspec.structs.replace(
            network,
            context_width=network.context_width or c.text.width,
            pooled_width=network.pooled_width or (c.text.width if isinstance(c.text, WordsConfig) else 0),
        )
    check_unet(network)
    _check(c, network, channels)
    return msgspec.structs.replace(c, codec=msgspec.to_builtins(codec), network=network), codec


def _check(c: LatentConfig, network: DenoiserConfig, channels: int) -> None:
    if network.image_channels != channels:
        _refuse("network.image_channels", network.image_channels, f"the codec's latents have {channels}")
    if c.text is None and network.context_width:
        _refuse("network.context_width", network.context_width, "without text it must be 0")
    if c.text and c.text.width % c.text.heads:
        _refuse("text.heads", c.text.heads, f"it must divide the width {c.text.width}")
    if c.text and network.context_width != c.text.width:
        _refuse("network.context_width", network.context_width, f"the text's tokens have {c.text.width}")
    if c.labels and c.labels.classes and len(c.labels.classes) != network.num_classes:
        _refuse("labels.classes", list(c.labels.classes), f"network.num_classes is {network.num_classes}")
    if c.diffusion.variance == "learned":
        _refuse("diffusion.variance", "learned", "it must be small or large")
    if c.diffusion.clip:
        _refuse("diffusion.clip", True, "latents are not limited to -1 .. 1: it must be false")


def _refuse(field: str, value: object, reason: str) -> None:
    raise UsageError(f"latent config: {field} is {value}; {reason}")
