"""Softens pictures by a learned share. Uses what contract 1 had, and all of it that a family needs."""

from dataclasses import asdict, dataclass

from zoo.errors import UsageError
from zoo.hookspecs import Family, Metric, Port, Preset, Task, Tasks, Tolerance, hookimpl

ZOO_CONTRACT = 1


@dataclass(frozen=True)
class Config:
    channels: int = 1


def read(config):
    for name, value in config.items():
        if name != "channels":
            raise UsageError(f"softener config: there is no '{name}'; there is channels")
        if value not in (1, 3):
            raise UsageError(f"softener config: channels is {value!r}; it must be 1 or 3")
    return Config(**config)


@hookimpl
def describe_family(request):
    training = {"steps": 10, "batch_size": 4, "learning_rate": 0.1}
    tiny = Preset(summary="grey pictures", config={"channels": 1}, training=training)
    return Family(
        name="softener",
        summary="Softens pictures",
        paper="https://example.org",
        presets={"tiny": tiny},
        weights=("model",),
    )


@hookimpl
def validate_config(request):
    return asdict(read(request.config))


@hookimpl
def list_tasks(request):
    shape = ("batch", "height", "width", read(request.config).channels)
    image = Port(kind="image", dtype="uint8", shape=shape, summary="a picture", minimum_size=4, maximum_pixels=1 << 20)
    soften = Task(summary="Soften a picture", inputs={"image": image}, outputs={"soft": image})
    return Tasks(tasks={"soften": soften}, default="soften", tolerance=Tolerance(pixel_levels=1))


@hookimpl
def build_module(request):
    from .model import Softener

    return Softener()


@hookimpl
def build_task(request):
    from .model import Soften

    return Soften(request.module)


@hookimpl
def build_trainer(request):
    from .model import SoftenerTrainer

    return SoftenerTrainer(request)


@hookimpl
def measure(request):
    soft = request.model.run("soften", image=request.images)["soft"]
    return [Metric(name="mean_level", value=float(soft.mean()), unit="levels", better="")]


@hookimpl
def import_checkpoint(request):
    return None
