"""What is seen of a training while it runs: sheets of pictures, held-out losses, the loss curve."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from ..errors import UsageError
from ..hookspecs import Task, TaskModuleRequest, TasksRequest, Trainer
from ..media.pictures import encode_png
from ..media.sheet import View, interleave
from ..names import PORT_NAME
from ..plugins import Loaded
from ..ports.image import first_image
from ..ports.inputs import complete
from ..ports.kind import shape_text
from ..ports.kinds import drawn
from ..ports.label import highest
from ..system.files import write_atomically
from ..text import safe_text
from .batching import batch_of
from .data import Dataset
from .evaluate import psnr
from .log import LOG, read_log

if TYPE_CHECKING:
    from .train import Run

FIRST_LOOK = 25  # steps; then after twice as many, and so on
SHEET = 16  # pictures
SHEET_PIXELS = SHEET * 128 * 128  # of larger pictures there are fewer
COLUMNS = 8
VALIDATED = 256  # pictures
CURVE = "loss.png"


def is_due(step: int, steps: int) -> bool:
    """Whether to look after this number of steps: 25, 50, 100, …, and at the end."""
    times, rest = divmod(step, FIRST_LOOK)
    return step == steps or (rest == 0 and times & (times - 1) == 0)


def looks_after(step: int, steps: int) -> int:
    """How many looks are due after this step."""
    return sum(
        is_due(later, steps)
        for later in {steps, *(FIRST_LOOK << n for n in range(steps.bit_length()))}
        if step < later <= steps
    )


@dataclass(frozen=True)
class Look:
    """What was seen after a step."""

    held_out: Mapping[str, float]  # losses and figures by name
    sheet: Path | None
    pictures: np.ndarray | None  # of the sheet, uint8 [height, width, channels]
    seconds: float = 0.0  # that it took
    own: Mapping[str, float] = field(default_factory=dict)  # the trainer's own figures
    own_pictures: Mapping[str, np.ndarray] = field(default_factory=dict)  # the trainer's own sheets, as `pictures`


class Watch:
    """Looks at a trainer's model, in torch: draws pictures, or reconstructs those that were held out."""

    def __init__(self, loaded: Loaded, run: "Run", data: Dataset, held_out: Dataset | None, device: torch.device):
        self.loaded, self.run, self.device = loaded, run, device
        self.held_out = held_out
        shown = held_out if held_out is not None else data
        request = TasksRequest(family=run.family, config=run.config, classes=tuple(run.classes))
        self.task, self.shown = _seen(loaded.call("list_tasks", request).tasks)
        number = max(2, min(SHEET, SHEET_PIXELS // (shown.images.shape[1] * shown.images.shape[2])))
        self.examples = shown.part(np.arange(min(number, len(shown))), shown.split)
        self.pictures = self.examples.images

    def look(self, trainer: Trainer, step: int, folder: Path) -> Look:
        """Figures of held-out pictures, and a sheet in the folder; changes nothing of the trainer."""
        began = time.monotonic()
        module = trainer.trained_module()
        modes = {part: part.training for part in module.modules()}
        try:
            with torch.no_grad():
                figures = self._validate(trainer)
                own, sheets = self._examine(trainer)
                sheet, more = self._sheet(module.eval())
        finally:
            for part, mode in modes.items():
                part.training = mode
        paths = {name: folder / f"{name}-{step:06}.png" for name in ("sheet", *sheets)}
        for name, pixels in sheets.items():
            write_atomically(paths[name], encode_png(pixels))
        if sheet is not None:
            write_atomically(paths["sheet"], encode_png(sheet))
        seen = paths["sheet"] if sheet is not None else None
        return Look(figures | more, seen, sheet, time.monotonic() - began, own, sheets)

    def _validate(self, trainer: Trainer) -> dict[str, float]:
        validate = getattr(trainer, "validate", None)
        if validate is None or self.held_out is None:
            return {}
        size = self.run.settings["batch_size"]
        generator = torch.Generator().manual_seed(0)
        sums: dict[str, float] = {}
        starts = range(0, min(len(self.held_out), VALIDATED), size)
        number = 0
        for start in starts:
            batch = batch_of(self.held_out, slice(start, min(start + size, VALIDATED)), self.device)
            number += len(batch.images)
            losses = validate(batch, generator)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch.images)
        return {name: value / number for name, value in sums.items()}

    def _examine(self, trainer: Trainer) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The trainer's own figures and sheets."""
        examine = getattr(trainer, "examine", None)
        if examine is None:
            return {}, {}
        batch = batch_of(self.examples, slice(None), self.device)
        figures, sheets = {}, {}
        for name, value in examine(batch, torch.Generator().manual_seed(0)).items():
            if not PORT_NAME.fullmatch(name) or name in ("sheet", "checkpoint"):
                raise UsageError(f"the trainer's examine gives '{safe_text(name)}': lower-case letters, digits and _")
            array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            if array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] in (1, 3):
                sheets[name] = _joined([array])
            elif array.ndim == 0 and array.dtype.kind in "iuf":
                figures[name] = float(array)
            else:
                raise UsageError(
                    f"the trainer's examine gives {name} as {array.dtype} {shape_text(array.shape)}; it must be a"
                    " number or images, uint8 [number, height, width, 1 or 3]"
                )
        return figures, sheets

    def _sheet(self, module: nn.Module) -> tuple[np.ndarray | None, dict[str, float]]:
        """The pictures as one, and the figures that they give."""
        if self.task is None:
            return None, {}
        run = self.run
        request = TaskModuleRequest(
            family=run.family, config=run.config, task=self.shown, module=module, assets=run.assets
        )
        graph = self.loaded.call("build_task", request).to(self.device).eval()
        takes_images = first_image(self.task.inputs.values()) is not None
        number = len(self.pictures)
        ports = self.task.inputs
        values: dict[str, np.ndarray | None] = dict.fromkeys(drawn(ports), np.arange(number))
        for name, port in ports.items():
            array = self.examples.arrays.get(name)
            if array is not None and array.ndim == len(port.shape) and _fits(array.shape[1:], port.shape[1:]):
                values[name] = array
            elif first_image([port]):
                values[name] = self.pictures
            elif (most := highest([port])) is not None:
                values[name] = np.arange(number) % (most + 1)
        if any(port.default is None and values.get(name) is None for name, port in ports.items()):
            return None, {}  # it needs something that the data do not have
        inputs = complete(self.shown, self.task, {name: value for name, value in values.items() if value is not None})
        output = graph(*(torch.from_numpy(array).to(self.device) for array in inputs.values()))
        made = (output[0] if isinstance(output, (tuple, list)) else output).cpu().numpy()
        if not takes_images:
            return _joined([made]), {}
        figures = {"psnr": float(psnr(made, self.pictures).mean())} if self.held_out is not None else {}
        return _joined([self.pictures, made]), figures


def _seen(tasks: Mapping[str, Task]) -> tuple[Task | None, str]:
    """The task that shows what a model can: it draws pictures, or gives back one as it was."""
    if "generate" in tasks and _gives_images(tasks["generate"]):
        return tasks["generate"], "generate"
    for name, task in tasks.items():
        needed = [port for port in task.inputs.values() if port.default is None]
        alone = len(needed) == 1 and first_image(needed) is not None
        if alone and _gives_images(task) and name == "reconstruct":
            return task, name
    return None, ""


def _fits(shape: Sequence[int], port: Sequence[int | str]) -> bool:
    """Whether an array has a port's fixed sides; a training's captions, say, may be longer than a task's text."""
    return all(isinstance(wanted, str) or side == wanted for side, wanted in zip(shape, port, strict=True))


def _gives_images(task: Task) -> bool:
    return first_image([next(iter(task.outputs.values()))]) is not None


def _joined(batches: Sequence[np.ndarray]) -> np.ndarray:
    """Batches of equal length as one picture: under each row of the first, that of the second."""
    columns = min(COLUMNS, len(batches[0]))
    return View(columns=columns).draw(interleave(batches, columns))


def draw_curve(folder: Path) -> Path | None:
    """The curve of the first loss in a training's log, with its held-out values, as a PNG; None without a log."""
    lines = read_log(folder / LOG)
    names = [name for name in (lines[-1] if lines else {}) if name != "step" and not name.startswith("held_out_")]
    if not names:
        return None
    name = names[0]
    curves = {
        name: [(line["step"], line[name]) for line in lines if name in line],
        f"held out {name}": [(line["step"], line[f"held_out_{name}"]) for line in lines if f"held_out_{name}" in line],
    }
    path = folder / CURVE
    write_atomically(path, encode_png(np.asarray(_plot({k: v for k, v in curves.items() if v}))))
    return path


def _plot(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Image.Image:
    """Curves over steps, from the lowest to the highest value but for the first tenth's peak."""
    width, height, left, top, right, bottom = 640, 360, 70, 30, 20, 40
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    points = [point for curve in curves.values() for point in curve]
    last = max(step for step, _ in points)
    late = [value for step, value in points if step >= last / 50] or [value for _, value in points]
    low, high = min(late), max(late)
    if high == low:
        low, high = low - 1, high + 1

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + (width - left - right) * step / max(last, 1)
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return x, height - bottom - (height - top - bottom) * share

    for i in range(5):
        value, step = low + (high - low) * i / 4, last * i / 4
        y, x = place(0, value)[1], place(step, low)[0]
        draw.line([(left, y), (width - right, y)], fill="#dddddd")
        draw.text((6, y - 6), f"{value:.4g}", fill="black")
        draw.text((x - 10, height - bottom + 6), f"{step:,.0f}", fill="black")
    for number, (name, curve) in enumerate(curves.items()):
        colour = ("#1f77b4", "#d62728")[number % 2]
        draw.line([place(*point) for point in curve], fill=colour, width=2)
        for point in curve if number else ():
            x, y = place(*point)
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        draw.text((left + 180 * number, 8), name, fill=colour)
    draw.text((width // 2 - 15, height - 16), "step", fill="black")
    return image
