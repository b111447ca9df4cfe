"""Config and training settings of latent diffusion models. Does not import torch."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta
from zoo_diffusion.config import (
    Count,
    DiffusionConfig,
    DiffusionSettings,
    Picture,
    Struct,
    TransformerConfig,
    UNetConfig,
    check_flow,
    check_transformer,
    check_unet,
)
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

    @property
    def pooled(self) -> int:
        """Width of the vector for the whole text."""
        return self.width


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
    penultimate: bool = False  # the context is what the last block but one gives, without the final norm
    projection: Annotated[int, Meta(ge=0, le=65_536)] = 0  # width of the projected vector for the whole text; 0: none
    examples: tuple[Annotated[str, Meta(max_length=300)], ...] = ()

    @property
    def pooled(self) -> int:
        """Width of the vector for the whole text."""
        return self.projection or self.width

    @property
    def computed(self) -> int:
        """The blocks that something looks at."""
        return self.depth - (self.penultimate and not self.projection)


class ClipsConfig(Struct, frozen=True, kw_only=True, tag_field="kind", tag="clips"):
    """Two of CLIP's text encoders that read the same tokens, as SDXL and Stable Diffusion 3 have them.

    Their contexts are side by side, and so are the projected vectors for the whole text, of those that have one.
    """

    encoders: Annotated[tuple[ClipConfig, ...], Meta(min_length=2, max_length=2)] = ()
    bytes: Annotated[int, Meta(ge=8, le=65_536)] = 1024  # of the longest text
    context: Annotated[int, Meta(ge=0, le=65_536)] = 0  # width of the context, filled with zeros; 0: as the encoders'
    zeros: Annotated[int, Meta(ge=0, le=1024)] = 0  # tokens of zeros after the encoders': those of a T5 that is absent
    zero_negative: bool = False  # a negative text that is empty is all zeros
    examples: tuple[Annotated[str, Meta(max_length=300)], ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the context."""
        return self.encoders[0].length + self.zeros

    @property
    def width(self) -> int:
        """Of the context."""
        return self.context or sum(encoder.width for encoder in self.encoders)

    @property
    def pooled(self) -> int:
        """Width of the vector for the whole text."""
        return sum(encoder.projection for encoder in self.encoders)


TextConfig = WordsConfig | ClipConfig | ClipsConfig


class LabelsConfig(Struct, frozen=True, kw_only=True):
    """A choice from a list besides the text, such as a style."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$")] = "label"  # of the port, and of the data's array
    classes: tuple[Annotated[str, Meta(max_length=100)], ...] = ()  # names; empty for `label`: those of the data


Depth = Annotated[int, Meta(ge=1, le=32)]


class DenoiserConfig(UNetConfig, frozen=True, kw_only=True, tag_field="kind", tag="unet"):
    """The U-Net of Rombach et al. 2021: attention that also looks at the text's tokens. Sizes are those of latents."""

    image_channels: Annotated[int, Meta(ge=1, le=64)] = 4
    latents: bool = True
    context_width: Annotated[int, Meta(ge=0, le=65_536)] = 0  # of the text's tokens; 0: as the text encoder's
    pooled_width: Annotated[int, Meta(ge=0, le=65_536)] = 0  # of the vector for the whole text; 0: as its encoder's
    attention: Literal["transformer", "plain"] = "transformer"  # plain: zoo-diffusion's, without a text
    inpaints: bool = False  # it also sees a mask, and the latents of the picture without what the mask redraws
    transformer_depth: Depth | tuple[Depth, ...] = 1  # transformer blocks per attention; several: by level
    sizes: tuple[Annotated[int, Meta(ge=0, le=65_536)], ...] = ()
    """Numbers that it looks at with the whole text, as SDXL's does: height and width of the picture before it was
    cropped, top and left of the crop, height and width that are asked for; pixels."""
    size_channels: Count = 256  # of each of them
    feed_forward: Annotated[float, Meta(gt=0, le=8)] = 4.0  # width of a block's hidden layer, in widths of the level

    def depth_at(self, level: int) -> int:
        """Transformer blocks in each attention of a level."""
        return self.transformer_depth if isinstance(self.transformer_depth, int) else self.transformer_depth[level]


class LabelDenoiserConfig(TransformerConfig, frozen=True, kw_only=True, tag_field="kind", tag="dit"):
    """DiT (Peebles and Xie 2023) on latents: what to draw is a label, not a text."""

    image_channels: Annotated[int, Meta(ge=1, le=64)] = 4
    latents: bool = True
    context_width: ClassVar[int] = 0
    pooled_width: ClassVar[int] = 0


class JointDenoiserConfig(Picture, frozen=True, kw_only=True, tag_field="kind", tag="mmdit"):
    """MM-DiT (Esser et al. 2024): image and text are tokens of one transformer; the defaults are SD3 medium's."""

    image_channels: Annotated[int, Meta(ge=1, le=64)] = 16
    latents: bool = True
    patch_size: Annotated[int, Meta(ge=1, le=64)] = 2
    width: Count = 1536
    depth: Annotated[int, Meta(ge=1, le=64)] = 24
    heads: Annotated[int, Meta(ge=1, le=64)] = 24
    context_width: Annotated[int, Meta(ge=0, le=65_536)] = 0  # of the text's tokens; 0: as the text encoder's
    pooled_width: Annotated[int, Meta(ge=0, le=65_536)] = 0  # of the vector for the whole text; 0: as its encoder's
    norm_queries: bool = False  # and keys
    twice: tuple[Annotated[int, Meta(ge=0, le=63)], ...] = ()
    """Blocks, from 0, in which the image's tokens also look at each other alone."""

    @property
    def multiple(self) -> int:
        """What both sides of an image must be a multiple of."""
        return self.patch_size


Network = DenoiserConfig | LabelDenoiserConfig | JointDenoiserConfig
NETWORKS: dict[str, type[Network]] = {"unet": DenoiserConfig, "dit": LabelDenoiserConfig, "mmdit": JointDenoiserConfig}


class LatentConfig(Struct, frozen=True, kw_only=True):
    """Config of the family `latent`."""

    tasks: tuple[str, ...] = ()  # the tasks of the bundle; empty: all that fit the model

    codec: Mapping[str, Any] = {}  # as in the family of the codec: klvae, vqgan or vqvae
    text: TextConfig | None = None
    labels: LabelsConfig | None = None
    network: Network = DenoiserConfig()
    diffusion: DiffusionConfig = DiffusionConfig(clip=False)


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
        tag = str(network.get("kind"))
        kind = NETWORKS.get(tag, DenoiserConfig)
        multiple = factor * read(kind, known, "latent config: network").multiple
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
    given = config.get("network", {})
    if isinstance(given, Mapping) and "kind" not in given:
        config = {**config, "network": {"kind": "unet", **given}}
    c = read(LatentConfig, config, "latent config")
    codec = codec_config(c.codec)
    if not isinstance(codec, PlainCodecConfig):
        check_codec(codec, "latent")
    network, channels = c.network, codec.code_size
    if not (isinstance(given, Mapping) and "image_channels" in given):
        network = msgspec.structs.replace(network, image_channels=channels)
    if c.text and not isinstance(network, LabelDenoiserConfig):
        network = msgspec.structs.replace(
            network,
            context_width=network.context_width or c.text.width,
            pooled_width=network.pooled_width or (0 if isinstance(c.text, ClipConfig) else c.text.pooled),
        )
    if isinstance(network, LabelDenoiserConfig | JointDenoiserConfig):
        check_transformer(network)
    else:
        check_unet(network)
    _check(c, network, channels)
    return msgspec.structs.replace(c, codec=msgspec.to_builtins(codec), network=network), codec


def _check(c: LatentConfig, network: Network, channels: int) -> None:
    if network.image_channels != channels:
        _refuse("network.image_channels", network.image_channels, f"the codec's latents have {channels}")
    if c.text is None and network.context_width:
        _refuse("network.context_width", network.context_width, "without text it must be 0")
    encoders = c.text.encoders if isinstance(c.text, ClipsConfig) else (c.text,) if c.text else ()
    for encoder in encoders:
        if encoder.width % encoder.heads:
            _refuse("text.heads", encoder.heads, f"it must divide the width {encoder.width}")
    if isinstance(c.text, ClipsConfig):
        _check_clips(c.text)
    if isinstance(network, DenoiserConfig):
        _check_denoiser(network)
    if isinstance(network, JointDenoiserConfig) and (not network.pooled_width or network.num_classes):
        _refuse("network.kind", "mmdit", "it looks at a text with a vector for the whole text, and not at labels")
    if c.text and network.pooled_width not in (0, c.text.pooled):
        _refuse("network.pooled_width", network.pooled_width, f"the vector for the whole text has {c.text.pooled}")
    if c.text and isinstance(network, LabelDenoiserConfig):
        _refuse("network.kind", "dit", "it does not look at a text: text must be null")
    if c.text and network.context_width != c.text.width:
        _refuse("network.context_width", network.context_width, f"the text's tokens have {c.text.width}")
    if c.labels and c.labels.classes and len(c.labels.classes) != network.num_classes:
        _refuse("labels.classes", list(c.labels.classes), f"network.num_classes is {network.num_classes}")
    check_flow("latent", c.diffusion)
    if c.diffusion.clip:
        _refuse("diffusion.clip", True, "latents are not limited to -1 .. 1: it must be false")


def _check_denoiser(network: DenoiserConfig) -> None:
    depth, levels = network.transformer_depth, len(network.widths)
    if network.attention == "plain" and network.context_width:
        _refuse("network.attention", "plain", "to look at a text it must be transformer")
    if not isinstance(depth, int) and len(depth) != levels:
        _refuse("network.transformer_depth", list(depth), f"it must have one number for each of {levels} levels")
    if network.sizes and not network.pooled_width:
        _refuse("network.sizes", list(network.sizes), "they need a vector for the whole text, of pooled_width")
    if network.size_channels % 2:
        _refuse("network.size_channels", network.size_channels, "it must be even, half sines and half cosines")


def _check_clips(text: ClipsConfig) -> None:
    lengths = {encoder.length for encoder in text.encoders}
    if len(lengths) > 1:
        _refuse("text.encoders", sorted(lengths), "both must read texts of the same length")
    if text.context and text.context < (least := sum(encoder.width for encoder in text.encoders)):
        _refuse("text.context", text.context, f"the encoders' contexts have {least} together")


def _refuse(field: str, value: object, reason: str) -> None:
    raise UsageError(f"latent config: {field} is {value}; {reason}")
