"""The tasks of a VQ codec and their ports. Read without torch."""

from zoo.hookspecs import Port, Task, Tile

from .config import PriorConfig


def image_port(channels: int, maximum_pixels: int) -> Port:
    """A picture of any size."""
    return Port(
        kind="image",
        dtype="uint8",
        shape=("batch", "height", "width", channels),
        summary="grey" if channels == 1 else "RGB",
        minimum_size=8,
        maximum_pixels=maximum_pixels,
    )


def size_port() -> Port:
    return Port(kind="size", dtype="int64", shape=(2,), summary="height and width of the picture", minimum=1)


def codec_tasks(
    *,
    channels: int,
    downsampling: int,
    num_codes: int,
    maximum_pixels: int,
    label: Port | None = None,
    context: tuple[int, int] | None = None,
) -> dict[str, Task]:
    """`reconstruct`, `encode` and `decode`; all take a label where the codec does.

    Args:
        context: how far the encoder and the decoder see around a place, pixels; None: over the whole picture.
    """
    image, size = image_port(channels, maximum_pixels), size_port()
    tokens = Port(
        kind="tokens",
        dtype="int64",
        shape=("batch", "rows", "columns"),
        summary=f"one code for {downsampling}x{downsampling} pixels",
        minimum=0,
        maximum=num_codes - 1,
    )
    told = {"label": label} if label else {}
    seen = dict(zip(("encode", "decode"), context)) | {"reconstruct": sum(context)} if context else {}
    tiles = {name: Tile(multiple=downsampling, context=pixels) for name, pixels in seen.items()}
    return {
        "reconstruct": Task(
            summary="Encode a picture and decode it again",
            inputs={"image": image, **told},
            outputs={"reconstruction": image},
            tile=tiles.get("reconstruct"),
        ),
        "encode": Task(
            summary="A picture to tokens",
            inputs={"image": image, **told},
            outputs={"tokens": tokens, "size": size},
            tile=tiles.get("encode"),
        ),
        "decode": Task(
            summary="Tokens to a picture",
            inputs={"tokens": tokens, "size": size, **told},
            outputs={"image": image},
            tile=tiles.get("decode"),
        ),
    }


def prior_tasks(
    prior: PriorConfig, *, channels: int, downsampling: int, classes: tuple[str, ...] = ()
) -> dict[str, Task]:
    """`generate`, and with a masked prior `inpaint`, for pictures of the prior's own size."""
    height, width = prior.rows * downsampling, prior.columns * downsampling

    def picture(channels: int, kind: str = "image", summary: str = "") -> Port:
        return Port(kind=kind, dtype="uint8", shape=("batch", height, width, channels), summary=summary)

    masked = prior.kind == "masked"
    walk = _walk_ports(prior, classes)
    tasks = {"generate": Task(summary="Draw a picture out of noise", inputs=walk, outputs={"image": picture(channels)})}
    if masked:
        mask = picture(1, "mask", "128 and more: draw anew the tokens that stand for the pixel")
        tasks["inpaint"] = Task(
            summary="Draw the masked part of a picture anew",
            inputs={"image": picture(channels), "mask": mask, **walk},
            outputs={"inpainted": picture(channels)},
        )
    return tasks


def _walk_ports(prior: PriorConfig, classes: tuple[str, ...]) -> dict[str, Port]:
    """What every draw takes."""
    ports = {
        "seed": Port(
            kind="seed", dtype="int64", shape=("batch",), summary="of each picture", minimum=0, maximum=2**53 - 1
        )
    }
    if prior.kind == "masked":
        ports["steps"] = Port(
            kind="count",
            dtype="int64",
            shape=(),
            summary="in which all tokens are drawn",
            default=min(prior.default_steps, prior.rows * prior.columns),
            minimum=1,
            maximum=prior.rows * prior.columns,
        )
    ports["temperature"] = _number("less draws the likeliest, more anything", prior.default_temperature, 0.1, 10.0)
    if prior.num_classes:
        ports["label"] = Port(
            kind="label",
            dtype="int64",
            shape=("batch",),
            summary="what to draw; -1 is anything",
            default=-1,
            minimum=-1,
            maximum=prior.num_classes - 1,
            classes=classes if len(classes) == prior.num_classes else (),
        )
        ports["guidance"] = _number(
            "0 takes no notice of the label, 1 is plain, more exaggerates it", prior.default_guidance, 0.0, 10.0
        )
    return ports


def _number(summary: str, default: float, minimum: float, maximum: float) -> Port:
    """One for each image."""
    return Port(
        kind="scalar",
        dtype="float32",
        shape=("batch",),
        summary=summary,
        default=default,
        minimum=minimum,
        maximum=maximum,
    )
