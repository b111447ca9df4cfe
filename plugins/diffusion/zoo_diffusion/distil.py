"""The stage `distil`: a student that draws in one to four passes of its network what its teacher draws in many.

The teacher draws paths from noise to a picture, guided, with its published graphs. The student starts with the
teacher's weights and learns to name the end of a path from any of its points: f(x_t, t), its own prediction of x_0,
becomes a consistency function (Song et al. 2023, https://arxiv.org/abs/2303.01469, section 3), here by regression on
the ends. `sampling.consistency` draws with it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Batch, TrainRequest
from zoo.settings import read

from .config import DDPMConfig, DistilSettings, DiTConfig
from .ports import PLAN_COLUMNS
from .sampling import Images, Row
from .training import DenoiserTrainer

BLOCK = 256  # paths of a file
AT_ONCE = 64  # paths that are drawn together
HELD_OUT = 256  # paths that are not trained on
OF_A_STEP = {"x", "previous_x0", "row", "index", "seed"}
WHAT_TO_DRAW = {"label", "guidance"}
HUBER = 0.00054  # c of the loss, for a picture of one number: Song and Dhariwal 2023, section 3.3


class Points(NamedTuple):
    """Points of paths, and where those end."""

    x: Images
    row: Row  # of the plan; each float32 [batch, 1, 1, 1], but `t`, float32 [batch]
    label: Int64[Tensor, " batch"]
    end: Images


class Paths:
    """The paths that a teacher drew, in a folder: float16 [paths, points, channels, height, width] in files of `BLOCK`.

    Path k has seed and label from k alone, so that it can be drawn anew.
    """

    def __init__(self, folder: Path, number: int, plan: Float32[Tensor, "steps columns"], classes: int):
        self.blocks = [_opened(_block(folder, i)) for i in range(-(-number // BLOCK))]
        self.number, self.plan, self.classes = number, plan, classes

    def take(self, path: Int64[Tensor, " batch"], step: Int64[Tensor, " batch"]) -> Points:
        """Where the given step of each path starts."""
        places = list(zip(path.tolist(), step.tolist(), strict=True))
        x = np.stack([self.blocks[k // BLOCK][k % BLOCK, i] for k, i in places])
        end = np.stack([self.blocks[k // BLOCK][k % BLOCK, -1] for k, _ in places])
        rows = self.plan[step]
        wide = Row.of(rows.T[:, :, None, None, None])
        label = torch.from_numpy(labels_of(path.numpy(), self.classes))
        return Points(torch.from_numpy(x).float(), wide._replace(t=rows[:, 0]), label, torch.from_numpy(end).float())


def labels_of(path: np.ndarray, classes: int) -> np.ndarray:
    """What each path draws: every class equally often; -1 without classes. int64, like `path`."""
    return path % classes if classes else np.full_like(path, -1)


def _block(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.npy"


def _opened(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as e:
        raise InvalidFileError(f"{file} is damaged; delete it, and its paths are drawn again ({e})") from None


def draw(
    teacher: Any,
    folder: Path,
    number: int,
    steps: int,
    guidance: float | None,
    seed: int,
    classes: int,
    progress: Callable[[Iterator, int], Iterator],
) -> Paths:
    """The paths of a teacher, those that are not in the folder yet drawn first.

    Args:
        teacher: a `zoo.Model` with the tasks `generate_begin` and `generate_step`.
        guidance: None: it has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = teacher.run("generate_begin", seed=np.array([seed]), steps=np.int64(steps))
    plan = torch.from_numpy(begun["plan"][:steps].copy())
    missing = [i for i in range(-(-number // BLOCK)) if not _block(folder, i).is_file()]
    parts = ((i, first) for i in missing for first in range(0, BLOCK, AT_ONCE))
    drawn: list[np.ndarray] = []
    for i, first in progress(parts, len(missing) * (BLOCK // AT_ONCE)):
        path = i * BLOCK + first + np.arange(AT_ONCE, dtype=np.int64)
        drawn.append(_walk(teacher, path + seed, labels_of(path, classes), steps, guidance))
        if first + AT_ONCE == BLOCK:
            unfinished = folder / "unfinished.npy"  # a file with a number is whole
            np.save(unfinished, np.concatenate(drawn))
            unfinished.replace(_block(folder, i))
            drawn = []
    return Paths(folder, number, plan, classes)


def _walk(
    teacher: Any, seed: np.ndarray, label: np.ndarray, steps: int, guidance: float | None
) -> Float[np.ndarray, "batch points channels height width"]:
    """Where the steps start and, last, where they end: float16."""
    own = teacher.manifest.tasks["generate_step"].inputs
    asked = {"seed": seed} if "seed" in own else {}
    asked |= {"label": label} if "label" in own else {}
    asked |= {"guidance": np.full(len(seed), guidance, np.float32)} if guidance is not None else {}
    begun = teacher.run("generate_begin", seed=seed, steps=np.int64(steps))
    x, previous_x0, points = begun["x"], begun["previous_x0"], []
    for i in range(steps):
        points.append(x)
        here = {"row": begun["plan"][i]} | ({"index": np.int64(i)} if "index" in own else {})
        made = teacher.run("generate_step", x=x, previous_x0=previous_x0, **here, **asked)
        x, previous_x0 = made["next_x"], made["x0"]
    return np.stack([*points, x], axis=1).astype(np.float16)


# --- The student ------------------------------------------------------------------------------------------------------


def pseudo_huber(predicted: Images, end: Images) -> Float32[Tensor, ""]:
    """The mean over pictures of sqrt(|predicted - end|^2 + c^2) - c: Song and Dhariwal 2023 (iCT), equation 7.

    The square's gradient for pictures that are nearly right, that of the distance for the others, which would rule the
    batch otherwise. https://arxiv.org/abs/2310.14189
    """
    c = HUBER * end[0].numel() ** 0.5
    distance = (predicted - end).square().flatten(1).sum(1)
    return ((distance + c * c).sqrt() - c).mean()


class DistilTrainer(DenoiserTrainer):
    """Regression on the ends of the teacher's paths; settings: `DistilSettings`. The batch's own pictures are not used.

    `prepare` draws the paths. Without them, a step computes the same on noise, which is enough to time it.
    """

    settings: DistilSettings  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower, and never replaced

    def __init__(self, request: TrainRequest, c: DDPMConfig | DiTConfig):
        super().__init__(request, c.diffusion, read(DistilSettings, request.settings, f"{request.family} distillation"))
        if c.diffusion.sampler != "consistency":
            raise UsageError(
                f"config: diffusion.sampler is {c.diffusion.sampler}; a student draws with consistency: leave it out"
            )
        if not request.parent:
            raise UsageError("a student needs a teacher: give --from MODEL")
        self.open_teacher, self.parent = request.open_parent, request.parent
        self.paths: Paths | None = None

    @property
    def note(self) -> str:
        """What the student learnt from."""
        s = self.settings
        return f"{s.paths:,} paths of {s.path_steps} steps that {self.parent.partition('@')[0]} drew"

    def prepare(self, folder: Path, progress: Callable[[Iterator, int], Iterator]) -> None:
        """Draws the teacher's paths, or finds those of an earlier run."""
        s = self.settings
        assert self.open_teacher is not None, "zoo can open the model of --from"
        teacher = self.open_teacher()
        tasks = teacher.manifest.tasks
        step = tasks.get("generate_step")
        own = set(step.inputs) if step else set()
        if not {"x", "previous_x0", "row"} <= own or "generate_begin" not in tasks:
            raise UsageError(f"{teacher.reference} cannot teach: it has no tasks generate_begin and generate_step")
        if unknown := own - OF_A_STEP - WHAT_TO_DRAW:
            raise UsageError(f"{teacher.reference} cannot teach: its steps need {', '.join(sorted(unknown))}")
        guidance = None
        if step and "guidance" in own:
            guidance = s.guidance if s.guidance is not None else step.inputs["guidance"].default
        name = f"paths-{teacher.digest[:16]}-{s.path_steps}-{s.seed}-{guidance}"
        classes = self.image.num_classes
        number = s.paths + HELD_OUT
        self.paths = draw(teacher, folder / name, number, s.path_steps, guidance, s.seed, classes, progress)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        number, s = len(batch.images), self.settings
        path = torch.randint(s.paths, (number,), generator=generator)
        step = torch.randint(1, s.path_steps, (number,), generator=generator) if s.path_steps > 1 else path * 0
        from_noise = torch.rand(number, generator=generator) < s.noise_share
        return self._regression(path, torch.where(from_noise, 0, step), generator)

    def _regression(
        self, path: Int64[Tensor, " batch"], step: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> dict[str, Tensor]:
        at = self._noise(path, generator) if self.paths is None else self.paths.take(path, step)
        x, end, label = at.x.to(self.device), at.end.to(self.device), at.label.to(self.device)
        row = at.row.map(lambda numbers: numbers.to(self.device))
        x0 = row.from_x * x + row.from_output * self.predict(x, row.t, label)
        return {"loss": pseudo_huber(x0, end)}

    def _noise(self, path: Int64[Tensor, " batch"], generator: torch.Generator) -> Points:
        x = torch.randn(len(path), self.image.image_channels, *self.image.size, generator=generator)
        row = Row.of(torch.ones(PLAN_COLUMNS))
        wide = row.map(lambda number: number.expand(len(path), 1, 1, 1))._replace(t=torch.zeros(len(path)))
        return Points(x, wide, torch.from_numpy(labels_of(path.numpy(), self.image.num_classes)), x)

    @torch.no_grad()
    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss of the averaged weights on paths that are not trained on, from noise."""
        network, self.network = self.network, self.average.module
        try:
            path = self.settings.paths + torch.randint(HELD_OUT, (len(batch.images),), generator=generator)
            return self._regression(path, path * 0, generator)
        finally:
            self.network = network
