"""The tasks of a latent diffusion model and their ports. Does not import torch."""

from zoo_diffusion.ports import parts_of_walk, walk_ports

from zoo.hookspecs import Golden, Port, Task

from .config import Codec, DenoiserConfig, LatentConfig

TEXT, NEGATIVE, GUIDANCE = "text", "negative", "guidance"

LARGE_PIXELS = 256 * 256
"""Pictures of this size and larger have fewer golden cases: a step takes a processor several seconds."""


def condition_ports(c: LatentConfig, classes: tuple[str, ...]) -> dict[str, Port]:
    """What to draw: text, label, guidance, as far as the model has them."""
    ports: dict[str, Port] = {}
    if c.text:

        def text(summary: str, examples: tuple[str, ...] = ()) -> Port:
            shape = ("batch", c.text.bytes if c.text else 1)
            return Port(kind="text", dtype="uint8", shape=shape, summary=summary, default=0, examples=examples)

        ports[TEXT] = text("what to draw, in words", c.text.examples)
        ports[NEGATIVE] = text("what to keep away from, in words; needs guidance over 1")
    if c.network.num_classes:
        name = c.labels.name if c.labels else "label"
        names = (c.labels.classes if c.labels else ()) or classes
        what = "" if name == "label" else f"{name}: "
        ports[name] = Port(
            kind="label",
            dtype="int64",
            shape=("batch",),
            summary=f"{what}what to draw; -1: anything" if c.network.null_label else f"{what}what to draw",
            default=-1 if c.network.null_label else None,
            minimum=-1 if c.network.null_label else 0,
            maximum=c.network.num_classes - 1,
            classes=names if len(names) == c.network.num_classes else (),
        )
    if c.text or (c.network.num_classes and c.network.null_label):
        ports[GUIDANCE] = Port(
            kind="scalar",
            dtype="float32",
            shape=("batch",),
            summary="0 ignores what to draw, 1 is plain, more exaggerates it",
            default=c.diffusion.default_guidance,
            minimum=0.0,
            maximum=20.0,
        )
    return ports


def tasks_of(c: LatentConfig, codec: Codec, classes: tuple[str, ...]) -> dict[str, Task]:
    """Every task of a config, `generate` first, if the model can draw without a picture."""
    height, width = (side * codec.downsampling for side in c.network.size)
    channels = codec.image_channels
    condition = condition_ports(c, classes)
    walk = walk_ports(c.diffusion) | condition
    image = Port(kind="image", dtype="uint8", shape=("batch", height, width, channels))
    mask = Port(
        kind="mask", dtype="uint8", shape=("batch", height, width, 1), summary="pixels of 128 or more are redrawn"
    )
    strength = Port(
        kind="scalar",
        dtype="float32",
        shape=("batch",),
        summary="0 returns the picture, 1 keeps almost nothing of it",
        default=0.5,
        minimum=0.0,
        maximum=1.0,
    )
    latents = Port(
        kind="tensor",
        dtype="float32",
        shape=("batch", c.network.image_channels, *c.network.size),
        summary="latents as the denoiser sees them, about -3 .. 3",
    )
    what = "words" if c.text else "noise"
    inpaint = Task(
        summary="Redraw the masked part of a picture",
        inputs={"image": image, "mask": mask, **walk},
        outputs={"inpainted": image},
    )
    codec_tasks = {
        "encode": Task(summary="Encode a picture as latents", inputs={"image": image}, outputs={"latents": latents}),
        "decode": Task(summary="Decode latents to a picture", inputs={"latents": latents}, outputs={"image": image}),
    }
    if isinstance(c.network, DenoiserConfig) and c.network.inpaints:
        return {"inpaint": inpaint, **codec_tasks}
    return {
        "generate": Task(summary=f"Draw a picture from {what}", inputs=walk, outputs={"image": image}),
        **_parts(c, walk, condition, latents, image),
        "variations": Task(
            summary="Draw pictures like a given one",
            inputs={"image": image, "strength": strength, **walk},
            outputs={"variation": image},
        ),
        "inpaint": inpaint,
        **codec_tasks,
    }


def golden_of(c: LatentConfig, codec: Codec, tasks: dict[str, Task]) -> dict[str, Golden]:
    """What the golden cases of large pictures cost: one case of one picture at two steps, which also is the loop that
    is compared with torch. Four cases would take an hour on a processor, and more memory than the weights."""
    height, width = (side * codec.downsampling for side in c.network.size)
    if height * width < LARGE_PIXELS:
        return {}
    return {
        name: Golden(cases=1, values={"steps": min(2, c.diffusion.most_steps)}, counts=())
        if "steps" in task.inputs
        else Golden(cases=1)
        for name, task in tasks.items()
    }


def _parts(
    c: LatentConfig, walk: dict[str, Port], condition: dict[str, Port], latents: Port, image: Port
) -> dict[str, Task]:
    """`generate` in three graphs, for hosts that run the loop; the first also reads the text."""
    parts = parts_of_walk(c.diffusion, latents, walk, image)
    begin, step = parts["generate_begin"], parts["generate_step"]
    read = read_ports(c)
    rest = {name: port for name, port in condition.items() if name not in (TEXT, NEGATIVE)}
    texts = {name: port for name, port in condition.items() if name in (TEXT, NEGATIVE)}
    return {
        "generate_begin": Task(
            summary=begin.summary, inputs=begin.inputs | texts, outputs=begin.outputs | read, part_of="generate"
        ),
        "generate_step": Task(
            summary=step.summary, inputs=step.inputs | read | rest, outputs=step.outputs, part_of="generate"
        ),
        "generate_end": parts["generate_end"],
    }


def read_ports(c: LatentConfig) -> dict[str, Port]:
    """What the text encoder makes of the text and of the negative text, one after the other."""
    if c.text is None:
        return {}
    c_text = c.text

    def tensor(*shape: int, summary: str) -> Port:
        return Port(kind="tensor", dtype="float32", shape=("batch", 2, *shape), summary=summary)

    return {
        "context": tensor(c_text.length, c_text.width, summary="the tokens of the text, and of the negative one"),
        "there": tensor(c_text.length, summary="1: a token, 0: padding"),
        "pooled": tensor(c_text.pooled, summary="the whole text, and the negative one"),
    }
