"""The tasks of a diffusion model and their ports. Does not import torch."""

import msgspec

from zoo.hookspecs import Port, Task

from .config import DiffusionConfig, Picture

PLAN_COLUMNS = 10
"""Of a sampler's plan, one row per step: the fields of `sampling.Row` (which needs torch), without `earlier`."""
MEMORY = {"unipc": 2, "plms": 5}
"""Images that a step hands to the next one, of samplers that need more than the predicted one, which is the first."""

SAMPLERS = {
    "dpm++2m": "DPM-Solver++(2M)",
    "ddim": "DDIM",
    "ddpm": "ancestral sampling (DDPM)",
    "euler": "Euler's method",
    "euler_ancestral": "Euler's method with fresh noise",
    "heun": "Heun's method",
    "dpm++2m_sde": "SDE-DPM-Solver++(2M)",
    "plms": "pseudo linear multistep (PNDM)",
    "unipc": "UniPC",
    "lcm": "latent consistency",
    "consistency": "a consistency function",
}
"""Their common names."""


def tasks_of(network: Picture, c: DiffusionConfig, classes: tuple[str, ...]) -> dict[str, Task]:
    """Every task of a config, `generate` first."""
    height, width = network.size
    channels = network.image_channels
    walk = _walk_ports(network, c, classes)

    def image(shrink: int = 1, *, channels: int = channels, summary: str = "") -> Port:
        shape = ("batch", height // shrink, width // shrink, channels)
        return Port(kind="image", dtype="uint8", shape=shape, summary=summary)

    def restoring(summary: str, output: str, **inputs: Port) -> Task:
        return Task(summary=summary, inputs=inputs | walk, outputs={output: image()})

    pictures = network.pictures
    latents = Port(kind="tensor", dtype="float32", shape=("batch", channels, height, width), summary="latents")
    tasks = {
        "generate": Task(
            summary="Draw a picture from noise",
            inputs=walk,
            outputs={"image": image()} if pictures else {"latents": latents},
        ),
        **_parts(network, c, walk),
    }
    if not pictures:
        return tasks
    mask = Port(
        kind="mask", dtype="uint8", shape=("batch", height, width, 1), summary="pixels of 128 or more are redrawn"
    )
    sigma = _number("standard deviation of the picture's noise, in levels of 0 to 255", default=25.0, maximum=255.0)
    strength = _number("0 returns the picture, 1 keeps almost nothing of it", default=0.5, maximum=1.0)
    tasks["inpaint"] = restoring("Redraw the masked part of a picture", "inpainted", image=image(), mask=mask)
    for factor in (2, 4):
        if height % factor == width % factor == 0:
            tasks[f"upscale{factor}"] = restoring(
                f"Upscale a picture to {factor} times its height and width"
                if factor > 2
                else "Upscale a picture to twice its height and width",
                "upscaled",
                image=image(factor),
            )
    tasks["denoise"] = restoring("Remove Gaussian noise from a picture", "denoised", image=image(), sigma=sigma)
    if channels == 3:
        tasks["colorize"] = restoring("Colour a grey picture", "colorized", image=image(channels=1, summary="grey"))
    tasks["variations"] = restoring("Draw pictures like a given one", "variation", image=image(), strength=strength)
    return tasks


def walk_ports(c: DiffusionConfig) -> dict[str, Port]:
    """The inputs of every sampler, whatever it draws."""
    return {
        "seed": Port(
            kind="seed", dtype="int64", shape=("batch",), summary="one per picture", minimum=0, maximum=2**53 - 1
        ),
        "steps": Port(
            kind="count",
            dtype="int64",
            shape=(),
            summary=f"of {SAMPLERS[c.sampler]}; more take longer and come closer to the model's own distribution",
            default=c.default_steps,
            minimum=1,
            maximum=c.most_steps,
        ),
    }


def _walk_ports(network: Picture, c: DiffusionConfig, classes: tuple[str, ...]) -> dict[str, Port]:
    """The inputs of every sampler of this network."""
    ports = walk_ports(c)
    if network.num_classes:
        ports["label"] = Port(
            kind="label",
            dtype="int64",
            shape=("batch",),
            summary="what to draw; -1: anything" if network.null_label else "what to draw",
            default=-1 if network.null_label else None,
            minimum=-1 if network.null_label else 0,
            maximum=network.num_classes - 1,
            classes=classes if len(classes) == network.num_classes else (),
        )
        if network.null_label and c.sampler != "consistency":  # whose guidance is that of its teacher
            ports["guidance"] = _number(
                "0 ignores the label, 1 is plain, more exaggerates it",
                default=c.default_guidance,
                maximum=20.0,
            )
    return ports


def _number(summary: str, *, default: float, maximum: float) -> Port:
    """One number per image, from 0."""
    return Port(
        kind="scalar",
        dtype="float32",
        shape=("batch",),
        summary=summary,
        default=default,
        minimum=0.0,
        maximum=maximum,
    )


def _parts(network: Picture, c: DiffusionConfig, walk: dict[str, Port]) -> dict[str, Task]:
    """`generate` in three graphs, for hosts that run the loop themselves."""
    height, width = network.size
    shape = ("batch", network.image_channels, height, width)
    latents = Port(kind="tensor", dtype="float32", shape=shape)
    image = Port(kind="image", dtype="uint8", shape=("batch", height, width, network.image_channels))
    condition = {name: port for name, port in walk.items() if name in ("label", "guidance")}
    parts = parts_of_walk(c, latents, walk, image if network.pictures else None)
    step = parts["generate_step"]
    parts["generate_step"] = msgspec.structs.replace(step, inputs=step.inputs | condition)
    return parts


def parts_of_walk(c: DiffusionConfig, latents: Port, walk: dict[str, Port], image: Port | None) -> dict[str, Task]:
    """The parts, without what says what to draw.

    Args:
        latents: what the steps work on.
        image: the picture at the end; None: `latents` is what the task gives.
    """
    images = MEMORY.get(c.sampler, 1)
    columns = PLAN_COLUMNS + images - 1
    _, channels, *sides = latents.shape
    memory = latents
    if images > 1 and isinstance(channels, int):
        summary = "the image that the step before predicted, then what the sampler remembers"
        memory = msgspec.structs.replace(latents, shape=("batch", images * channels, *sides), summary=summary)
    plan = Port(
        kind="tensor",
        dtype="float32",
        shape=(c.most_steps, columns),
        summary="one row per step, zeros after the last",
    )
    row = Port(kind="tensor", dtype="float32", shape=(columns,), summary="this step's row of the plan")
    index = Port(kind="count", dtype="int64", shape=(), summary="this step's number, from 0", minimum=0)
    noisy = {"seed": walk["seed"], "index": index} if adds_noise(c) else {}
    parts = {
        "generate_begin": Task(
            summary="The noise that generate starts from, and the plan of its steps",
            inputs={"seed": walk["seed"], "steps": walk["steps"]},
            outputs={"x": latents, "previous_x0": memory, "plan": plan},
            part_of="generate",
        ),
        "generate_step": Task(
            summary="One step of generate",
            inputs={"x": latents, "previous_x0": memory, "row": row, **noisy},
            outputs={"next_x": latents, "x0": memory},
            part_of="generate",
        ),
    }
    if image:
        parts["generate_end"] = Task(
            summary="The picture after generate's last step",
            inputs={"x": latents},
            outputs={"image": image},
            part_of="generate",
        )
    return parts


def adds_noise(c: DiffusionConfig) -> bool:
    """Whether the sampler adds fresh noise in its steps."""
    if c.sampler == "ddim":
        return c.eta > 0
    return c.sampler in ("ddpm", "euler_ancestral", "dpm++2m_sde", "lcm", "consistency")
