"""A family under test: what the checks of `zoo.build.conformance` look at, made once."""

import re
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from ..errors import PluginError, UsageError, ZooError
from ..formats import assets
from ..formats import manifest as manifests
from ..formats.golden import Case
from ..formats.manifest import Manifest, Training
from ..hookspecs import (
    AssetsRequest,
    Batch,
    BuildRequest,
    ConfigRequest,
    DataFacts,
    DescribeRequest,
    Family,
    Golden,
    TaskModuleRequest,
    Tasks,
    TasksRequest,
    Trainer,
    TrainRequest,
)
from ..names import graph_file
from ..plugins import Loaded, Plugin, Probe, load_from, places, probe
from ..ports.image import first_image
from ..ports.kinds import kind_of
from ..ports.label import highest
from ..run.comparison import Comparison, compare_task
from ..runtime import Session, open_session
from . import checkpoint as checkpoints
from .checkpoint import CHECKPOINT, Checkpoint
from .diagnosis import causes
from .export import TorchTasks, export_bundle
from .golden import Plan, draw_cases
from .losses import named_losses
from .train import seeded

PLANS = (Plan(3, 28, 28), Plan(4, 17, 23))
"""Batches and picture sizes of the cases."""

DATA = tuple(
    DataFacts(height=side, width=side, channels=channels, classes=tuple("0123456789"), number=1_000)
    for channels in (1, 3)
    for side in (28, 32, 64, 256)
)
"""What the presets are completed for, where they leave it open: pictures of ten classes, grey if the family takes them,
of the smallest size that a preset takes."""

ASSETS_FROM = 16
"""Examples in the data from which assets are made."""

MAX_STEPS = 20
"""Training steps, all on one batch with the same random numbers."""

RESUMED_STEPS = 2
"""Training steps with a checkpoint in the middle, and as many without."""


class Finding(Exception):
    """What is wrong, the line of the plugin's code if known, and the section of the docs to read."""

    def __init__(self, why: str, where: str = "", read: str = ""):
        super().__init__(why)
        self.why, self.where, self.read = why, where, read


class Subject:
    """A family under test. Whatever several checks need is made once, when the first of them asks for it."""

    def __init__(
        self,
        family: str,
        plugin: Plugin,
        folder: Path,
        *,
        preset: str | None = None,
        seed: int = 0,
        commands: Collection[str] = (),
    ):
        """`folder` is for bundles; `preset` replaces the smallest one; `seed` is for the weights and all inputs;
        `commands` are the names of zoo's own."""
        self.family, self.plugin, self.folder = family, plugin, folder
        self.chosen, self.seed, self.commands = preset, seed, commands
        self.channels = 1  # of the made-up pictures that the family took last

    @cached_property
    def probe(self) -> Probe:
        return probe(self.plugin)

    def presets(self) -> list[str]:
        """Their names, as reported by the probe."""
        return list(self.probe.families[self.family].presets) if self.family in self.probe.families else []

    @cached_property
    def loaded(self) -> Loaded:
        return load_from(self.probe.plugin, self.family)

    def fail(self, why: str, hook: str, where: str = "") -> NoReturn:
        """Ends a check: `hook` is at fault, in the line `where` if that is known."""
        raise Finding(why, where or self.loaded.place(hook), f"docs/contract.md#{hook}")

    @cached_property
    def described(self) -> Family:
        return self.loaded.call("describe_family", DescribeRequest(family=self.family))

    @cached_property
    def preset(self) -> str:
        """The preset that is exported: the chosen one, else `tiny`, else the first."""
        return self.chosen or ("tiny" if "tiny" in self.presets() else self.presets()[0])

    def validated(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config completed for the first of `DATA` that it takes; those like the last that was taken come first."""
        error: UsageError | None = None
        for data in sorted(DATA, key=lambda data: data.channels != self.channels):
            request = ConfigRequest(family=self.family, config=deepcopy(dict(config)), data=data)
            try:
                completed = dict(self.loaded.call("validate_config", request))
            except UsageError as e:
                error = e if data.channels == self.channels else error
            else:
                self.channels = data.channels
                return completed
        assert error, "there is no data"
        raise error

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.validated(self.described.presets[self.preset].config)

    def tasks_of(self, config: Mapping[str, Any]) -> Tasks:
        return self.loaded.call("list_tasks", TasksRequest(family=self.family, config=config))

    @cached_property
    def tasks(self) -> Tasks:
        return self.tasks_of(self.config)

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        torch.manual_seed(self.seed)
        request = BuildRequest(family=self.family, config=config, assets=self.assets)
        return self.loaded.call("build_module", request).eval()

    def modules_of(self, module: nn.Module, config: Mapping[str, Any], tasks: Tasks) -> dict[str, nn.Module]:
        requests = {
            name: TaskModuleRequest(family=self.family, config=config, task=name, module=module, assets=self.assets)
            for name in tasks.tasks
        }
        return {name: self.loaded.call("build_task", request).eval() for name, request in requests.items()}

    @cached_property
    def module(self) -> nn.Module:
        return self.build(self.config)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """The torch module of each task."""
        return self.modules_of(self.module, self.config, self.tasks)

    def code_of(self, task: str) -> str:
        module = self.modules[task]
        return places.of_code(type(module).forward, self.plugin.module)

    def export(
        self, folder: Path, module: nn.Module, config: Mapping[str, Any], golden: Mapping[str, Golden] | None = None
    ) -> Manifest:
        return export_bundle(
            out=folder,
            name=self.family,
            version=1,
            family=self.family,
            loaded=self.loaded,
            config=config,
            module=module,
            summary=f"{self.family} with random weights",
            license="Apache-2.0",
            training=Training(),
            assets=self.assets,
            golden=golden or {},
        )

    @cached_property
    def bundle(self) -> Path:
        """The exported bundle's folder."""
        self.export(self.folder / "first", self.module, self.config)
        return self.folder / "first"

    @cached_property
    def manifest(self) -> Manifest:
        return manifests.read(self.bundle)

    @cached_property
    def sessions(self) -> dict[str, Session]:
        return {task: open_session(self.bundle / graph_file(task), "cpu") for task in self.tasks.tasks}

    @cached_property
    def cases(self) -> dict[str, list[Case]]:
        """Inputs of each task, one case per plan, and torch's outputs for them."""
        return self.draw(PLANS)

    def draw(self, plans: Sequence[Plan]) -> dict[str, list[Case]]:
        in_torch = TorchTasks(self.modules, self.tasks)
        costs = {task: self.tasks.golden.get(task, Golden()) for task in self.tasks.tasks}
        whole = {task: Golden(cases=len(plans), values=cost.values) for task, cost in costs.items()}
        return draw_cases(self.tasks, in_torch.call, in_torch.margins, plans=plans, seed=self.seed, golden=whole)

    def compare(self, task: str, case: Case, result: Mapping[str, np.ndarray]) -> list[Comparison]:
        """Compares ONNX Runtime's outputs with torch's; fails the check if they differ by more than the tolerance."""
        outputs, tolerance = self.tasks.tasks[task].outputs, self.tasks.tolerance
        compared = compare_task(outputs, case.outputs, result, tolerance, case.margins)
        for output, comparison in compared.items():
            if comparison.verdict == "differs":
                sizes = ", ".join(f"{port} {list(array.shape)}" for port, array in case.inputs.items())
                why = f"{output} of {task} at {sizes} compared with torch: {comparison.text}"
                why += "".join(f"\n{cause}" for cause in causes(self.modules[task], case.inputs))
                self.fail(why, "build_task", self.code_of(task))
        return list(compared.values())

    @cached_property
    def results(self) -> dict[str, list[dict[str, np.ndarray]]]:
        """ONNX Runtime's outputs for the same inputs."""
        return {task: [self.sessions[task].run(case.inputs) for case in cases] for task, cases in self.cases.items()}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Of a training."""
        return {"seed": self.seed} | dict(self.described.presets[self.preset].training)

    def trainer(self) -> Trainer:
        """The family's trainer at its first step."""
        request = TrainRequest(
            family=self.family,
            config=self.config,
            settings=self.settings,
            module=self.build(self.config).train(),
            device=torch.device("cpu"),
            distribute=lambda module: module,
            assets=self.assets,
        )
        return self.loaded.call("build_trainer", request)

    def step(self, trainer: Trainer, step: int, generator: torch.Generator) -> Mapping[str, float | torch.Tensor]:
        """One step of a training, on the same batch each time."""
        try:
            return named_losses(trainer.step(self.batch, step, generator), "step")
        except PluginError as e:
            method = getattr(type(trainer), "losses", type(trainer).step)
            raise Finding(str(e), places.of_code(method, self.plugin.module), "docs/contract.md#trainer") from e
        except ZooError:
            raise
        except Exception as e:
            where = places.of_error(e, self.plugin.module)
            why = f"step {step} of its trainer raised {type(e).__name__}: {e}"
            raise Finding(why, where, "docs/contract.md#trainer") from e

    @cached_property
    def trained(self) -> tuple[nn.Module, str, list[float]]:
        """The module after a few steps on one batch; the name of the first loss, and its value at each step."""
        trainer, losses, name = self.trainer(), [], ""
        for step in range(min(MAX_STEPS, int(self.settings["steps"]))):
            given = self.step(trainer, step, torch.Generator().manual_seed(self.seed))
            name, loss = next(iter(given.items()))
            losses.append(float(loss))
        return trainer.trained_module().eval(), name, losses

    def trained_briefly(self, *, resumed: bool) -> dict[str, torch.Tensor]:
        """The weights after a few steps as `zoo train` takes them, with or without a checkpoint in the middle."""
        trainer, folder = self.trainer(), self.folder / "resumed"
        for step in range(RESUMED_STEPS):
            if resumed and step == RESUMED_STEPS // 2:
                checkpoints.save(folder / CHECKPOINT, Checkpoint({}, step, 0.0, trainer.state_dict()))
                trainer = self.trainer()
                trainer.load_state_dict(checkpoints.load(folder).state)
            torch.manual_seed(step)  # dropout draws from torch's own generator; see train.train
            self.step(trainer, step, seeded(self.seed, step, 0))
        return {name: tensor.clone() for name, tensor in trainer.trained_module().state_dict().items()}

    @cached_property
    def batch(self) -> Batch:
        """A training batch."""
        return self.draw_batch(int(self.settings["batch_size"]))

    @cached_property
    def assets(self) -> dict[str, bytes]:
        """The files that the family makes from a batch drawn by code."""
        if not self.loaded.implements("make_assets"):
            return {}
        batch = self.draw_batch(ASSETS_FROM)
        request = AssetsRequest(
            family=self.family,
            config=self.config,
            images=batch.images.numpy(),
            labels=batch.labels.numpy(),
            classes=DATA[0].classes,
            arrays={name: array.numpy() for name, array in batch.arrays.items()},
        )
        made, again = (assets.check(self.loaded.call("make_assets", request), "make_assets") for _ in range(2))
        if made != again:
            self.fail("two calls with the same data give different files", "make_assets")
        return made

    def draw_batch(self, number: int) -> Batch:
        """Examples drawn by code, of the sizes that the tasks take."""
        ports = [port for task in self.tasks.tasks.values() for port in (*task.inputs.values(), *task.outputs.values())]
        image = first_image(ports)
        if image is None:
            self.fail("no task takes or gives pictures, so there is nothing to train on", "list_tasks")
        sizes = [16 if isinstance(dim, str) else dim for dim in image.shape[1:3]]
        rng = np.random.default_rng(self.seed)
        pictures = kind_of(image).draw_case(image, [number, *sizes, int(image.shape[3])], rng)
        most = highest(ports) or 1
        labels = torch.from_numpy(rng.integers(0, most, number, endpoint=True))
        return Batch(images=torch.from_numpy(pictures), labels=labels, arrays=self._arrays(number, sizes, rng))

    def _arrays(self, number: int, sizes: Sequence[int], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The arrays of `Tasks.example`."""
        known = {"batch": number, "height": sizes[0], "width": sizes[1]}
        arrays = {}
        for name, port in self.tasks.example.items():
            shape = [known.setdefault(dim, 3 + len(known)) if isinstance(dim, str) else dim for dim in port.shape]
            arrays[name] = torch.from_numpy(kind_of(port).draw_case(port, shape, rng))
        return arrays


_PLACE = re.compile(r"\(([\w./-]+\.py:\d+)\)")


def place_in(text: str) -> str:
    """The file and line of code that an error names; empty if it names none."""
    found = _PLACE.search(text)
    return found[1] if found else ""


def count(number: int, unit: str) -> str:
    """`1 preset`, `2 presets`."""
    return f"{number} {unit}" + ("" if number == 1 else "s")
