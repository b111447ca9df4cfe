"""THE CONTRACT: the hooks of a plugin, and the types they exchange. The one file that a plugin author needs.

A plugin is a pip-installable package with an entry point and a module of hooks:

    # pyproject.toml
    [project.entry-points.zoo]
    tiny = "zoo_tiny.plugin"            # family name = module

    # zoo_tiny/plugin.py: imports neither torch nor onnxruntime at its top
    from zoo.hookspecs import DescribeRequest, Family, hookimpl
    ZOO_CONTRACT = 1                    # the version of this contract that the plugin was written for

    @hookimpl
    def describe_family(request: DescribeRequest) -> Family:
        return Family(name="tiny", summary="A tiny model", paper="https://example.org", presets={})

Every hook takes one `request`, so a new field never breaks an old plugin; a plugin ignores fields that it does not
know. A module may serve several families: `request.family` says which one is meant. An error in a hook ends the command
with one line that names the distribution and the hook; raise a `zoo.errors.ZooError` to choose the message yourself.
Running a published model never calls a plugin: these hooks make models, and export them to other stacks. A target's
entry point is in the group `zoo.target` (target name = module); its module only has the three hooks for targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import msgspec
import pluggy
from msgspec import UNSET, Meta, UnsetType

from .names import Line, PortName

if TYPE_CHECKING:
    import numpy as np
    import torch

CHANGES = {
    1: ("the hooks describe_family to import_checkpoint; the entry points zoo and zoo.registry",),
    2: (
        "the entry point zoo.commands: commands of the CLI",
        "the entry point zoo.target and the hooks describe_target, write_target, run_target: other stacks",
        "MeasureRequest.judged_by, training_images, samples, options and inception: metrics of models that draw",
        "the first loss that Trainer.step returns is the one that training minimises",
        "ConfigRequest.stage, TrainRequest.classes and parent: families that train in stages",
        "Task.tile: tasks that hosts can run in tiles",
        "Trainer.note: a line for the card",
        "Imported.notes: what an import assumes and what is missing in the model",
        "the module zoo.build.loop",
        "Port.noise and the module zoo.noise: noise that a host draws, for targets with int64_bits 32",
        "Target.half: stacks that compute in half precision",
    ),
    3: (
        "the module zoo.graph.walk; zoo.graph.compatibility only forwards to it, with a warning",
        "Port.kind: a name from zoo.ports, no longer a closed list",
        "trace_once: a network that every task calls is traced only once at export",
        "ImportRequest.layout: --layout, for tensors that fit several layouts",
        "the module zoo.build.classes: refuses checkpoints of classes that an importer does not know",
        "ConfigRequest.data, a DataFacts: a config's open fields come from the training's data",
        "Trainer.validate and Trainer.accumulates, both optional: held-out losses, batches in parts",
        "TrainingSettings.accumulate, and zoo.build.optim.parts_of",
        "the kind text and Port.examples; the module zoo.build.tokenizers",
        "Target.installed: dependencies that a host's tools put next to it",
        "Keys.move_tensor(more=…): an embedding with more rows; Keys.finish takes patterns for unused names",
        "the kind of port map: float maps, kept as .npy and shown as pictures",
        "Target.single_files: graphs on their own, with sizes and values that the user fixes",
        "the hook make_assets, Imported.assets, and assets in BuildRequest, TaskModuleRequest and TrainRequest: files"
        " of a model besides its weights",
        "Tasks.example, Batch.arrays and DataFacts.arrays, ArrayFacts: training examples of named arrays",
        "Tasks.golden, a Golden for each task: what its golden cases cost; by default as many as take a few seconds",
        "margins of tasks that draw pixels, or anything else by chance",
        "Trainer.augment and Trainer.examine, both optional: own augmentation; own figures and pictures of a look",
        "MeasureRequest.arrays and assets: named arrays of the data to measure on, and the model's files",
        "Family.parents: a training that starts from a part of another family's model",
        "Family.import_options, ImportRequest.extras and ImportRequest.options: options of `zoo import` that only some"
        " families take",
        "ConfigRequest.trained: a new config for weights that another one was trained with",
        "the kind audio with WAV files, Port.sample_rate and Port.maximum_samples",
        "the kind video with files, Port.frame_rate and Port.maximum_frames",
        "Tolerance.log_mel: sounds that are compared by their log-mel spectrograms",
    ),
}
"""What each version of the contract added. A module says `ZOO_CONTRACT = 2`, which is read without running the module.
docs/decisions/0007-contract-versions.md says what raises the version."""

CONTRACT_VERSION = max(CHANGES)

OLDEST_CONTRACT = 1
"""The oldest version whose plugins still work. Raised when something is removed."""

ENTRY_POINTS = {
    "zoo": "family name = module of hooks",
    "zoo.target": "target name = module of hooks",
    "zoo.registry": "registry name = package whose folder contains a registry.yaml",
    "zoo.commands": "command name = module:attribute, a click command or group",
}
"""How a distribution declares what it provides."""

PUBLIC_MODULES = (
    "zoo",
    "zoo.hookspecs",
    "zoo.errors",
    "zoo.settings",
    "zoo.text",
    "zoo.media",
    "zoo.noise",
    "zoo.runtime",
    "zoo.site",
    "zoo.testing",
    "zoo.graph.compatibility",
    "zoo.graph.walk",
    "zoo.build.classes",
    "zoo.build.evaluate",
    "zoo.build.keys",
    "zoo.build.loop",
    "zoo.build.optim",
    "zoo.build.random",
    "zoo.build.tokenizers",
)
"""What a plugin may import. Their public names change as the contract does; the rest of zoo may change at any time."""

hookspec = pluggy.HookspecMarker("zoo")
hookimpl = pluggy.HookimplMarker("zoo")

# --- What graphs and hosts agree on: ports, tasks, sameness -----------------------------------------------------------

Kind = PortName
"""The name of a kind of port. `zoo.ports.kinds` lists the known kinds; docs/bundle.md has the table."""

DType = Literal["uint8", "int64", "float32"]


class Port(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One input or output of a task.

    Shapes: `image` uint8 [batch, height, width, 1 or 3]; `mask` uint8 [batch, height, width, 1], redrawn where 128 or
    more; `tokens` int64 [batch, rows, columns]; `size` int64 [2], height and width; `label` int64 [batch], -1: no
    label; `seed` int64 [batch], 0 .. 2^53 - 1; `count` int64 []; `scalar` float32 [batch]; `map` float32 [batch,
    height, width], and channels if there are several; `tensor` float32, any shape; `text` uint8 [batch, N], UTF-8 of at
    most N bytes, padded with zeros, optional if its default is 0; `audio` float32 [batch, samples, 1 or 2], -1 .. 1;
    `video` uint8 [batch, frames, height, width, 1 or 3].
    """

    kind: Kind
    dtype: DType
    shape: tuple[Annotated[int, Meta(ge=1)] | PortName, ...]  # a name is a dynamic dimension, a number a fixed one
    summary: Annotated[str, Meta(max_length=300)] = ""
    default: int | float | None = None  # hosts fill it in; None: the caller must give a value
    minimum: int | float | None = None  # of the values; inclusive
    maximum: int | float | None = None
    minimum_size: Annotated[int, Meta(ge=1)] | None = None  # image, mask, video: smallest height and width, pixels
    maximum_pixels: Annotated[int, Meta(ge=1)] | None = None  # image, mask, video: largest height x width
    classes: tuple[Annotated[str, Meta(max_length=100)], ...] = ()  # label: the name of each value from 0
    noise: Literal["", "normal", "uniform"] = ""  # tensor: stream 0 of docs/noise.md; hosts draw it from a seed
    examples: tuple[
        Annotated[str, Meta(max_length=300)], ...
    ] = ()  # text: what people see to try; golden cases use them
    sample_rate: Annotated[int, Meta(ge=1_000, le=1_000_000)] | None = None  # audio: Hz; every audio port states it
    maximum_samples: Annotated[int, Meta(ge=1)] | None = None  # audio: the longest, per channel, if `samples` varies
    frame_rate: Annotated[int, Meta(ge=1, le=240)] | None = None  # video: frames a second; every video port states it
    maximum_frames: Annotated[int, Meta(ge=2)] | None = None  # video: the longest, if `frames` varies


class Tolerance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What "the same" means for a model's outputs. docs/bundle.md gives the reasons."""

    pixel_levels: Annotated[int, Meta(ge=0, le=255)] = 1  # pixels may differ by this many levels
    pixel_share: Annotated[float, Meta(ge=0, le=1)] = 0.999  # for at least this share of the pixels,
    pixel_levels_worst: Annotated[int, Meta(ge=0, le=255)] = 2  # and by this many for all others
    token_margin: Annotated[float, Meta(ge=0)] = 1e-3  # tokens may differ only if two codes tie within this
    absolute: Annotated[float, Meta(ge=0)] = 1e-4  # floats: |a - b| <= absolute + relative |b|
    relative: Annotated[float, Meta(ge=0)] = 1e-4
    log_mel: Annotated[float, Meta(ge=0)] | UnsetType = UNSET  # sounds may differ by sample if this close, nats; rarely


class Tile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The receptive field of a task for images of any size, so that hosts can work in tiles."""

    multiple: Annotated[int, Meta(ge=1)]  # tiles start at multiples of this many pixels: those of a token
    context: Annotated[int, Meta(ge=0)]  # pixels in each direction that a position can depend on


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A named graph with typed inputs and outputs; the graph's inputs and outputs have these names and this order."""

    summary: Line
    inputs: dict[PortName, Port]
    outputs: dict[PortName, Port]
    tile: Tile | None = None  # None: every position depends on the whole image
    part_of: PortName | None = None  # a part of that task's loop, for hosts that run the loop themselves; not listed


# --- What a family declares -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named config with the training settings that suit it."""

    summary: str
    config: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)  # steps, batch_size, learning_rate, the family's own


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of model, as `zoo families` shows it."""

    name: str
    summary: str  # one line
    paper: str  # link
    presets: Mapping[str, Preset]
    sampler: str = ""  # the config field that names it, as `diffusion.sampler`; `zoo build --sampler` sets it
    weights: tuple[str, ...] = ("model",)
    """One safetensors file per name. With several names, or a name other than `model`, each is a submodule of the built
    module: `codec` contains the tensors `codec.*` of its `state_dict` and becomes `codec.safetensors`."""
    parents: tuple[str, ...] = ()
    """Other families. If there are any, a training needs --from: a model of one of them, or of its own family. From
    another family's model it takes what both have of `weights`: the config's field of that name, and the tensors. A
    latent diffusion model gets its codec this way."""
    import_options: tuple[Literal["lora", "vae", "tokenizer", "prediction", "prior"], ...] = ()
    """The options of `zoo import` that its importer takes besides those of every family; others are refused."""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What the golden cases of a task cost: at export, in every `zoo verify --replay`, in every exported host.

    What is left open is chosen by the time that a case takes: a task gets up to four cases, fewer if they take more
    than some seconds, and a loop is compared with torch for up to 50 iterations, fewer if they take as long.
    """

    cases: int = 0  # 1 .. 4; 0: chosen by time
    size: tuple[int, int] | None = None  # height and width, pixels, of all cases but the first, if dynamic
    values: Mapping[str, int | float] = field(default_factory=dict)  # of inputs, e.g. steps=2; else drawn
    counts: tuple[int, ...] | None = None
    """Iterations after which a loop is compared with torch; empty: only its golden cases are. None: chosen by time."""


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """The tasks of a config."""

    tasks: Mapping[str, Task]
    default: str  # what `zoo run MODEL` does
    tolerance: Tolerance = Tolerance()
    golden: Mapping[str, Golden] = field(default_factory=dict)  # by task, for those whose cases take long
    example: Mapping[str, Port] = field(default_factory=dict)
    """What a training example has besides image and label: an array by name, as a port whose first dimension is
    `batch`. `height` and `width` are those of the image. The data must have all of them; the trainer finds them in
    `Batch.arrays`. docs/data.md says where they come from."""


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A measured metric of a model; see `measure` for who fills in what."""

    name: PortName
    value: float
    unit: Annotated[str, Meta(max_length=20)] = ""
    better: Literal["higher", "lower", ""] = ""
    data: Annotated[str, Meta(max_length=200)] = ""  # data set and part, e.g. `fashion-mnist test`
    samples: int = 0
    judge: Annotated[str, Meta(max_length=200)] = ""  # name@sha256:digest of the model that judged
    command: Annotated[str, Meta(max_length=1000)] = ""  # the command that measured it


@dataclass(frozen=True, kw_only=True)
class Target:
    """Another stack that models are exported to, and what its runtime supports."""

    name: str
    summary: str  # one line
    runtime: str  # the runtime, with the version that was tested: `onnxruntime-node 1.30.0`
    ir_version: int = 10  # newest that the runtime supports
    opset: int = 20
    file_bytes: int = 2**31 - 1  # largest file that it opens
    missing_operators: tuple[str, ...] = ()  # ONNX operators without a kernel there
    loops: bool = True  # False: it has no control flow; a sampler is shipped as its parts `begin`, `step` and `end`
    parts: bool = False  # also ship those parts, for hosts that run the loop themselves
    initializers: Literal["inside", "outside"] = "inside"  # where a loop's own weights are
    half: bool = False  # `--precision fp16` computes in half precision there; otherwise it only stores weights in it
    single_files: bool = False  # one self-contained <task>.onnx each; takes --shape, --constant, --opset, --no-loop
    int64_bits: Literal[32, 64] = 64  # 32: it truncates 64-bit integers; tasks take noise, not a seed: docs/targets.md
    installed: tuple[str, ...] = ()  # what its own tools put next to the host, as `node_modules`: never compared or run


# --- Requests: one per hook -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DescribeRequest:
    """Which family `describe_family` is asked about."""

    family: str


@dataclass(frozen=True, kw_only=True)
class ArrayFacts:
    """What a named array of a training's data is like."""

    dtype: str  # as numpy names it: uint8, int64, float32; of texts: str
    shape: tuple[int, ...]  # of one example; empty: a number
    classes: tuple[str, ...] = ()  # names of its values, if they are labels with names


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What the images of a training are like."""

    height: int  # pixels
    width: int
    channels: int  # 1 grey, 3 RGB
    classes: tuple[str, ...] = ()  # names of the labels, from 0; empty: the images have no labels
    number: int = 0  # images
    arrays: Mapping[str, ArrayFacts] = field(default_factory=dict)  # what the data have besides, one entry per image

    def nearest(self, multiple: int, *, square: bool = False) -> str:
        """The size nearest to the data's whose sides are multiples of `multiple`, as `--image-size` takes it: 48x40."""

        def rounded(side: int) -> int:
            return max(1, (2 * side + multiple) // (2 * multiple)) * multiple

        height, width = rounded(self.height), rounded(self.width)
        return f"{min(height, width)}" if square else f"{width}x{height}"


@dataclass(frozen=True, kw_only=True)
class ConfigRequest:
    """A config to check and complete: `validate_config`."""

    family: str
    config: Mapping[str, Any]  # partial, as the user or a preset gave it
    stage: str = ""  # of the training: --stage
    data: DataFacts | None = None  # of `zoo train`: fields that `config` lacks come from it, never those that it has
    trained: Mapping[str, Any] | None = None  # of `zoo build`: the config that the weights were trained with


@dataclass(frozen=True, kw_only=True)
class TasksRequest:
    """A config whose tasks to list: `list_tasks`."""

    family: str
    config: Mapping[str, Any]  # complete, as `validate_config` returned it; also in all requests below
    classes: tuple[str, ...] = ()  # class names of the data that the model was or will be trained on


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """A config whose module to build: `build_module`."""

    family: str
    config: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    assets: Mapping[str, bytes] = field(default_factory=dict)  # the model's files besides its weights, by name


@dataclass(frozen=True, kw_only=True)
class AssetsRequest:
    """The data of a training whose assets to make: `make_assets`."""

    family: str
    config: Mapping[str, Any]
    images: np.ndarray  # to train on, uint8 [number, height, width, channels]
    labels: np.ndarray  # int64 [number], -1: no label
    classes: tuple[str, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)  # by name; see `Tasks.example`
    assets: Mapping[str, bytes] = field(default_factory=dict)  # those of the model of --from, which stay as they are


@dataclass(frozen=True, kw_only=True)
class TaskModuleRequest:
    """A task whose module to build, for export as its graph: `build_task`."""

    family: str
    config: Mapping[str, Any]
    task: str
    module: torch.nn.Module  # what `build_module` returned, weights loaded, in eval mode
    assets: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What a training starts from: `build_trainer`."""

    family: str
    config: Mapping[str, Any]
    settings: Mapping[str, Any]  # steps, batch_size, learning_rate, seed, and the family's own; from preset and user
    module: torch.nn.Module  # what `build_module` returned, on `device`; with the weights of --from or --resume
    device: torch.device
    distribute: Callable[[torch.nn.Module], torch.nn.Module]  # DDP under torchrun, otherwise the identity
    stage: str = ""  # --stage, for families that train in stages
    classes: tuple[str, ...] = ()  # class names of the data
    parent: str = ""  # the model of --from
    assets: Mapping[str, bytes] = field(default_factory=dict)
    open_parent: Callable[[], Any] | None = None  # opens that model in ONNX Runtime, a zoo.Model; None: there is none


@dataclass(frozen=True, kw_only=True)
class MeasureRequest:
    """A bundle to measure, and the data to measure it on: `measure`."""

    family: str
    config: Mapping[str, Any]
    model: Any  # zoo.Model: the bundle in ONNX Runtime
    images: np.ndarray  # uint8 [number, height, width, channels]
    labels: np.ndarray  # int64 [number], -1: no label
    judge: Any | None  # zoo.Model with the tasks `classify` and `features`, or None
    progress: Callable[[Iterator, int], Iterator]  # wraps an iterator with a known length
    judged_by: str = ""  # name:version@sha256:digest of the judge, for the metrics that depend on it
    training_images: np.ndarray | None = None  # also real images, none of them in `images`; for families that draw
    samples: int = 0  # number of images to draw; 0: as many as `images`
    options: Mapping[str, Any] = field(default_factory=dict)  # values for ports that have a default, e.g. `steps`
    inception: Path | None = None  # weights of the Inception network for FID, if the user has them
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)  # those of `Tasks.example` that the data have
    assets: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Extra:
    """Weights that an option of `zoo import` names besides the checkpoint: --lora, --vae, --prior."""

    path: Path  # the file, or the one in the folder
    tensors: Mapping[str, torch.Tensor]  # flat
    config: Mapping[str, Any] | None  # its config.json or config.yaml, if there is one
    weight: float = 1.0  # of `--lora FILE:WEIGHT`


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """A foreign checkpoint: `import_checkpoint`."""

    family: str
    path: Path  # the file or folder, for names and config files next to it
    tensors: Mapping[str, torch.Tensor]  # the checkpoint, flat
    config: Mapping[str, Any] | None  # its config.json or config.yaml, if there is one
    layout: str = ""  # --layout, if the user gave it
    extras: Mapping[str, tuple[Extra, ...]] = field(
        default_factory=dict
    )  # by option: lora, vae, prior; only those given
    options: Mapping[str, str] = field(default_factory=dict)  # tokenizer (a folder), prediction; only those given


@dataclass(frozen=True, kw_only=True)
class TargetRequest:
    """Which target `describe_target` is asked about."""

    target: str


@dataclass(frozen=True, kw_only=True)
class WriteTargetRequest:
    """A folder to which a target adds its host program: `write_target`."""

    target: str
    folder: Path  # contains model/ (a bundle), model.json (its manifest) and golden/ (raw cases); see docs/targets.md
    manifest: Any  # zoo.formats.manifest.Manifest of model/
    digest: str  # of model/model.yaml


@dataclass(frozen=True, kw_only=True)
class RunTargetRequest:
    """A folder whose host program must run every golden case: `run_target`."""

    target: str
    folder: Path  # as `write_target` wrote it
    out: Path  # an empty folder, for the outputs


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A foreign checkpoint, translated."""

    layout: str  # its name, e.g. `rosinality/vq-vae-2-pytorch`
    config: Mapping[str, Any]
    state_dict: Mapping[str, torch.Tensor]  # of `build_module(config)`
    unused: tuple[str, ...] = ()  # tensors of the file that the model does not use
    notes: tuple[str, ...] = ()  # what the user should know: assumptions, what the model does not have; one line each
    assets: Mapping[str, bytes] = field(default_factory=dict)  # files for the bundle; see `make_assets`


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A training batch, on the device of the request."""

    images: torch.Tensor  # uint8 [batch, height, width, channels]
    labels: torch.Tensor  # int64 [batch], -1: no label
    arrays: Mapping[str, torch.Tensor] = field(default_factory=dict)  # by name, as `Tasks.example` declares them


class Trainer(Protocol):
    """One family's training: what happens in a step. zoo provides the loop, data, checkpoints, logs and resuming.

    These are optional:

    - `note`: one line for the card, what else went into the training.
    - `accumulates`: if it is true, `step` computes the batch in `settings["accumulate"]` parts, one after the other,
      and updates the weights once.
    - `prepare(folder, progress)`: what the steps need and what takes long to make, such as what a teacher draws. Called
      before the first step, of a resumed run too, by one process after the other under torchrun. `folder` is that of
      the checkpoint: what is kept there is found again. `progress(iterator, length)` gives the iterator's items and
      shows how far it is. Some steps are taken without it, on a few pictures, to find out what a step costs.
    - `augment(batch, generator)`: the batch that `step` gets instead of this one, which `--mirror`, `--shift` and
      `--crop` may have changed. All randomness comes from `generator`, so that a resumed run gives the same result.
      Held-out data are never augmented.
    - `validate(batch, generator)`: the losses of a held-out batch by name, as `step` returns them; their mean over the
      held-out data is logged. Changes nothing.
    - `examine(batch, generator)`: what else to see of the model after 25, 50, 100, … steps, by name: a number is a
      figure for the log; images, uint8 [number, height, width, 1 or 3], become the sheet `NAME-000025.png` next to the
      log. The batch is held-out data, if there are any, of at most 16 images. Changes nothing.
    """

    def step(self, batch: Batch, step: int, generator: torch.Generator) -> Mapping[str, float | torch.Tensor]:
        """One update of the weights; `step` counts from 0. All randomness comes from `generator` (CPU, seeded by run
        seed, step and process), so that a resumed run gives the same result. Returns named losses for the log; the
        first is the one that training minimises."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that `step` changes, including the module's weights: optimisers, averages."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a `state_dict`."""
        ...

    def trained_module(self) -> torch.nn.Module:
        """The module to publish, e.g. with averaged weights; with the same structure as `build_module`'s."""
        ...


# --- Hooks ------------------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def describe_family(request: DescribeRequest) -> Family:
    """Name, summary, paper, presets. Called by `zoo families`, `zoo train`, `zoo plugin list`. Must be instant."""
    ...


@hookspec(firstresult=True)
def validate_config(request: ConfigRequest) -> Mapping[str, Any]:
    """The config completed with defaults: plain dicts, lists, text and numbers, enough to rebuild the module.

    Called before anything is built. Raise a `UsageError` that names the field, its value and what is allowed.

    In a training, `request.data` says what the images are like. Then the fields that depend on it and that the config
    leaves open, such as image size, channels and number of classes, come from the data. If no config of the family fits
    the data, raise a `UsageError` with the option to type (`DataFacts.nearest` gives the nearest size). A family that
    ignores `request.data` can be trained on images that fit its config; zoo refuses the others.
    """
    ...


@hookspec(firstresult=True)
def list_tasks(request: TasksRequest) -> Tasks:
    """The tasks of a config, their ports, and the tolerance of their outputs. Called at export; does not need torch."""
    ...


@hookspec(firstresult=True)
def make_assets(request: AssetsRequest) -> Mapping[str, bytes]:
    """Files that the model needs besides its weights, such as a vocabulary made from the captions; by name.

    Optional. Called by `zoo train`, in every process under torchrun, before `build_module`: the same data must give the
    same bytes. The bundle contains them, and its manifest lists them with size and digest; every later hook gets them
    as `request.assets`, in `zoo build` and `--from` too. Running a model does not read them, so what a graph needs must
    be in the graph. At most 16 files of at most 16 MiB; names end in .txt, .json, .jsonl, .csv, .tsv, .npy, .vocab or
    .model, and are not those of other files that people or programs look for (config.json, LICENSE.txt, model.json).
    """
    ...


@hookspec(firstresult=True)
def build_module(request: BuildRequest) -> torch.nn.Module:
    """The torch module with fresh weights. Called to train, to export and to import."""
    ...


@hookspec(firstresult=True)
def build_task(request: TaskModuleRequest) -> torch.nn.Module:
    """A module whose `forward` *is* the task: takes and returns the ports of `list_tasks` in order, pixels as uint8.

    Called once per task at export, and traced with a batch of 2. It must contain the tensors of `request.module`
    themselves, not copies, so that the graph can point into the model's safetensors.

    A task that chooses (the nearest code; a pixel drawn from a distribution) turns a rounding error into another choice
    where two are close. Its module may define `margins(*inputs)`: float32 [batch, ...], how far each choice is from
    another one: the gap between the best code and the next, or between a random number and the nearest edge of its
    interval. Golden cases then avoid ties if possible; in elements of the batch where one remains, any output may
    differ, unless all elements of the case tie: then most must agree. A margin is a tie up to `Tolerance.token_margin`.

    If the class of `request.module`, or of one of its parts, says `trace_once = True`, its `forward` is traced once
    instead of in every task: it takes tensors whose first axis is the batch, or None, and returns one, whose other axes
    do not depend on sizes.
    """
    ...


@hookspec(firstresult=True)
def build_trainer(request: TrainRequest) -> Trainer:
    """The training of a config. Called by `zoo train`, in every process under torchrun."""
    ...


@hookspec(firstresult=True)
def measure(request: MeasureRequest) -> list[Metric]:
    """The metrics of the model's card, measured in ONNX Runtime. Called by `zoo eval`.

    Set `name`, `value`, `unit` and `better`; set `judge` to `request.judged_by` if the judge was used, and `samples` if
    not all of `request.images` were used. zoo adds data and command.
    """
    ...


@hookspec(firstresult=True)
def import_checkpoint(request: ImportRequest) -> Imported | None:
    """A foreign checkpoint as this family's config and weights; None if the layout is not supported.

    Called by `zoo import`. Raise an `InvalidFileError` that names each missing, extra or misshapen tensor.
    """
    ...


@hookspec(firstresult=True)
def describe_target(request: TargetRequest) -> Target:
    """The target and what its runtime supports. Called by `zoo export` and `zoo plugin list`. Must be instant."""
    ...


@hookspec(firstresult=True)
def write_target(request: WriteTargetRequest) -> bool:
    """Adds the host program and everything it needs, including README.md, to an export's folder; returns True.

    The same request must give the same bytes, since `zoo verify --run-host` compares. What a model says about itself is
    foreign text: it must reach the host as data (model.json), never pasted into code, configuration or pages.
    """
    ...


@hookspec(firstresult=True)
def run_target(request: RunTargetRequest) -> str:
    """Runs the host program on every golden case, in its own stack; returns the runtime that ran it, with its version.

    Each output becomes `<task>.<case>.<port>.bin` in `request.out`, raw like the cases in golden/. Called by `zoo
    verify --run-host`. Raise `NotFoundError` if the stack is not installed, `ExportError` if the program fails.
    """
    ...
