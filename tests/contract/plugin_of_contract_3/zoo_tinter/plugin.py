"""Learns pairs of pictures: how bright each style makes a picture. Uses what contract 3 added for authors."""

from zoo.errors import UsageError
from zoo.hookspecs import Family, Golden, Metric, Port, Preset, Task, Tasks, Tolerance, hookimpl

ZOO_CONTRACT = 3


@hookimpl
def describe_family(request):
    training = {"steps": 10, "batch_size": 4, "learning_rate": 0.1}
    tiny = Preset(summary="grey pictures", config={}, training=training)
    return Family(name="tinter", summary="Tints pictures", paper="https://example.org", presets={"tiny": tiny})


@hookimpl
def validate_config(request):
    for name, value in request.config.items():
        if name != "styles":
            raise UsageError(f"tinter config: there is no '{name}'; there is styles")
        if not isinstance(value, int) or not 1 <= value <= 100:
            raise UsageError(f"tinter config: styles is {value!r}; it must be 1 .. 100")
    found = request.data.arrays.get("style") if request.data else None
    return {"styles": len(found.classes) if found else 2} | dict(request.config)


@hookimpl
def list_tasks(request):
    image = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 1), minimum_size=4)
    style = Port(kind="label", dtype="int64", shape=("batch",), minimum=0, maximum=request.config["styles"] - 1)
    seed = Port(kind="seed", dtype="int64", shape=("batch",))
    drawn = Port(kind="image", dtype="uint8", shape=("batch", 16, 16, 1))
    times = Port(kind="count", dtype="int64", shape=(), default=9, minimum=1, maximum=20)
    tint = Task(summary="Tint a picture", inputs={"image": image, "style": style}, outputs={"tinted": image})
    speckle = Task(
        summary="Draw pixels by chance", inputs={"seed": seed, "style": style, "times": times}, outputs={"drawn": drawn}
    )
    return Tasks(
        tasks={"tint": tint, "speckle": speckle},
        default="tint",
        tolerance=Tolerance(token_margin=1e-5),
        golden={"speckle": Golden(cases=2, values={"times": 3}, counts=(1, 4))},
        example={"after": image, "style": style},
    )


@hookimpl
def make_assets(request):
    styles = request.arrays["style"]
    levels = [request.images[styles == number].mean() if (styles == number).any() else 0 for number in range(100)]
    return {"levels.csv": "".join(f"{level:.3f}\n" for level in levels[: request.config["styles"]]).encode()}


@hookimpl
def build_module(request):
    from .model import Tinter

    levels = [float(line) for line in request.assets["levels.csv"].decode().split()]
    return Tinter(levels)


@hookimpl
def build_task(request):
    from .model import Speckle, Tint

    assert "levels.csv" in request.assets
    return {"tint": Tint, "speckle": Speckle}[request.task](request.module)


@hookimpl
def build_trainer(request):
    from .model import TinterTrainer

    return TinterTrainer(request)


@hookimpl
def measure(request):
    levels = request.assets["levels.csv"].decode().split()
    metrics = [Metric(name="styles", value=len(levels))]
    if {"after", "style"} <= request.arrays.keys():
        tinted = request.model.run("tint", image=request.images, style=request.arrays["style"])["tinted"]
        error = abs(tinted.astype(float) - request.arrays["after"]).mean()
        metrics.append(Metric(name="mean_error", value=float(error), unit="levels", better="lower"))
    return metrics
