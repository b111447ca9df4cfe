"""The tasks of a VQ codec and their ports. Does not import torch."""

from zoo.hookspecs import Port, Task, Tile

from .config import PriorConfig


def image_port(channels: int, maximum_pixels: int) -> Port:
    """An image of any size."""
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
    """`reconstruct`, `encode` and `decode`; all take a label if the codec does.

    Args:
        context: receptive field of encoder and decoder in each direction, pixels; None: the whole image.
    """
    image, size = image_port(channels, maximum_pixels), size_port()
    tokens = Port(
        kind="tokens",
        dtype="int64",
        shape=("batch", "rows", "columns"),
        summary=f"one code per {downsampling}x{downsampling} pixels",
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
            summary="Encode a picture as tokens",
            inputs={"image": image, **told},
            outputs={"tokens": tokens, "size": size},
            tile=tiles.get("encode"),
        ),
        "decode": Task(
            summary="Decode tokens to a picture",
            inputs={"tokens": tokens, "size": size, **told},
            outputs={"image": image},
            tile=tiles.get("decode"),
        ),
    }


def prior_tasks(
    prior: PriorConfig, *, channels: int, downsampling: int, num_codes: int, classes: tuple[str, ...] = ()
) -> dict[str, Task]:
    """`generate`, and with a masked prior `inpaint`, for images of the prior's own size."""
    height, width = prior.rows * downsampling, prior.columns * downsampling

    def picture(channels: int, kind: str = "image", summary: str = "") -> Port:
        return Port(kind=kind, dtype="uint8", shape=("batch", height, width, channels), summary=summary)

    masked = prior.kind == "masked"
    walk = _walk_ports(prior, num_codes, classes)
    tasks = {"generate": Task(summary="Draw a picture from noise", inputs=walk, outputs={"image": picture(channels)})}
    if masked:
        mask = picture(1, "mask", "pixels of 128 or more: their tokens are redrawn")
        tasks["inpaint"] = Task(
            summary="Redraw the masked part of a picture",
            inputs={"image": picture(channels), "mask": mask, **walk},
            outputs={"inpainted": picture(channels)},
        )
    return tasks


def _walk_ports(prior: PriorConfig, num_codes: int, classes: tuple[str, ...]) -> dict[str, Port]:
    """The inputs of every drawing task."""
    ports = {
        "seed": Port(
            kind="seed", dtype="int64", shape=("batch",), summary="one per picture", minimum=0, maximum=2**53 - 1
        )
    }
    if prior.kind == "masked":
        ports["steps"] = Port(
            kind="count",
            dtype="int64",
            shape=(),
            summary="number of steps in which the tokens are drawn",
            default=min(prior.default_steps, prior.rows * prior.columns),
            minimum=1,
            maximum=prior.rows * prior.columns,
        )
    ports["temperature"] = _number(
        "lower: likelier tokens, higher: more varied ones", prior.default_temperature, 0.1, 10.0
    )
    if prior.kind == "autoregressive":
        ports["top_k"] = _number(
            "draw each token from this many of the likeliest codes, 0: from all",
            float(min(prior.default_top_k, num_codes)),
            0.0,
            float(num_codes),
        )
        ports["top_p"] = _number(
            "draw each token from the likeliest codes with this probability, 1: from all", prior.default_top_p, 0.0, 1.0
        )
    if prior.num_classes:
        ports["label"] = Port(
            kind="label",
            dtype="int64",
            shape=("batch",),
            summary="what to draw; -1: anything" if prior.null_label else "what to draw",
            default=-1 if prior.null_label else None,
            minimum=-1 if prior.null_label else 0,
            maximum=prior.num_classes - 1,
            classes=classes if len(classes) == prior.num_classes else (),
        )
    if prior.num_classes and prior.null_label:
        ports["guidance"] = _number(
            "0 ignores the label, 1 is plain, more exaggerates it", prior.default_guidance, 0.0, 10.0
        )
    return ports


def _number(summary: str, default: float, minimum: float, maximum: float) -> Port:
    """One number per image."""
    return Port(
        kind="scalar",
        dtype="float32",
        shape=("batch",),
        summary=summary,
        default=default,
        minimum=minimum,
        maximum=maximum,
    )
