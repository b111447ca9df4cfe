"""The tasks of a VQ codec and their ports. Read without torch."""

from zoo.hookspecs import Port, Task


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
    *, channels: int, downsampling: int, num_codes: int, maximum_pixels: int, label: Port | None = None
) -> dict[str, Task]:
    """`reconstruct`, `encode` and `decode`; all take a label where the codec does."""
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
    return {
        "reconstruct": Task(
            summary="Encode a picture and decode it again",
            inputs={"image": image, **told},
            outputs={"reconstruction": image},
        ),
        "encode": Task(
            summary="A picture to tokens", inputs={"image": image, **told}, outputs={"tokens": tokens, "size": size}
        ),
        "decode": Task(
            summary="Tokens to a picture",
            inputs={"tokens": tokens, "size": size, **told},
            outputs={"image": image},
        ),
    }
