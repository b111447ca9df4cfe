"""Starts a training: turns preset, parent and the user's choices into a `Run` and its data."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import NotFoundError, PluginError, UsageError
from ..formats import assets
from ..formats.reference import Reference
from ..hookspecs import (
    AssetsRequest,
    ConfigRequest,
    DataFacts,
    DescribeRequest,
    Family,
    Port,
    Task,
    Tasks,
    TasksRequest,
)
from ..plugins import Loaded
from ..ports import label as labels
from ..ports.image import channels_of, first_image
from ..runtime import require_runtime
from ..store.locate import Bundle, locate
from ..text import did_you_mean, one_line, safe_text
from . import data as datasets
from .augment import Augment
from .bundling import read_weights
from .data import Dataset, size_of
from .train import Run
from .written import lost_in_writing

if TYPE_CHECKING:
    from ..run.model import Model

DEFAULTS = {"steps": 10_000, "batch_size": 64, "learning_rate": 1e-3}
"""Settings of a training that neither the preset nor the user chose."""

COST = "small"
"""The preset of a training without --preset, if the family has it."""

COSTS = ("tiny", COST, "base")
"""Presets that choose a cost: their summary does not say what a model is."""

MOST_NAMED, MOST_SUMMARY = 5, 200
"""The most class names in a summary, and characters."""

MOST_COMMAND = 2000
"""The most characters of a command that a manifest stores."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user requests from a training; the options of `zoo train` have the same names and explain them."""

    family: str
    data: Path
    name: str  # of the model; empty: the parent's, else `default_name`
    default_name: str
    preset: str | None = None
    version: int | None = None
    summary: str = ""
    license: str = "Apache-2.0"
    license_note: str = ""
    data_name: str = ""
    data_license: str = ""
    classes: tuple[str, ...] = ()
    image_size: str = ""  # `48x40`, width x height, or `32`; pictures are cropped and scaled to it
    channels: int | None = None  # 1 or 3: colour is turned grey, grey is repeated
    on_white: bool = False  # transparent pictures are put on white
    limit: int | None = None
    mirror: bool = False  # see `augment.Augment`
    shift: int = 0
    crop: float = 1.0
    accumulate: int = 1  # parts in which a batch is computed
    hold_out: int | None = None  # pictures that are not trained on; see `data.hold_out`
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    assignments: Sequence[str] = ()  # `codec.num_codes=64`
    stage: str = ""
    command: str = ""  # the command that started it, for the card


class Parent:
    """The model that a training starts from."""

    def __init__(self, reference: str):
        self.bundle: Bundle = locate(reference)
        self.manifest = self.bundle.manifest

    def open(self) -> Model:
        """The model in ONNX Runtime."""
        from ..run.model import Model

        return Model(self.bundle)

    def weights(self, parts: Sequence[str] = ()) -> dict[str, torch.Tensor]:
        """Its `state_dict`, or those tensors of it that belong to some of its parts."""
        found = read_weights(self.bundle.folder, self.manifest)
        starts = tuple(f"{part}." for part in parts)
        return {name: tensor for name, tensor in found.items() if name.startswith(starts)} if parts else found

    def __str__(self) -> str:
        return f"{self.manifest.name}:{self.manifest.version}@sha256:{self.bundle.digest}"


@dataclass(frozen=True)
class Begun:
    """A training that can start."""

    run: Run
    data: Dataset
    held_out: Dataset | None  # pictures of the same kind that are not trained on
    preset: str  # its name; empty: none
    taken: tuple[str, ...] = ()  # parts of a parent of another family that it starts from; empty: the whole parent


def begin(loaded: Loaded, asked: Asked, parent: Parent | None = None) -> Begun:
    """The requested run and its data: what preset, parent and user leave open comes from the data.

    Raises:
        NotFoundError: no such preset, or no data.
        UsageError: an invalid value, a parent of another family, or data that does not fit.
        InvalidFileError: the data cannot be read.
        PluginError: ONNX Runtime, which checks the bundle after the training, is not installed.
    """
    require_runtime()
    card = loaded.call("describe_family", DescribeRequest(family=asked.family))
    preset = _preset(card, asked, parent)
    config, settings, summary = _chosen(card, asked, parent, preset)
    _assigned(
        loaded, asked.family, config, asked.assignments, {}, asked.stage
    )  # a mistake is found before data is read
    kin = parent is not None and parent.manifest.family == asked.family
    name = asked.name or (parent.manifest.name if parent and kin else asked.default_name)
    check_name(name)
    same = parent is not None and kin and parent.manifest.name == name
    augment = Augment(mirror=asked.mirror, shift=asked.shift, crop=asked.crop)
    values = {
        "family": asked.family,
        "config": {},
        "settings": settings,
        "name": name,
        "version": asked.version or (parent.manifest.version + 1 if parent and same else 1),
        "summary": summary or f"a {asked.family} model",  # if empty, what the data is replaces it below
        "license": asked.license,
        "license_note": asked.license_note,
        "stage": asked.stage,
        "command": asked.command[: MOST_COMMAND - 1] + "…" if len(asked.command) > MOST_COMMAND else asked.command,
        "data_license": asked.data_license,
        "parent": str(parent or ""),
        "augment": asdict(augment) if augment else {},
    }
    run = Run.asked(values)
    data, held_out = _read(asked, parent, settings["seed"])
    settings["batch_size"] = min(settings["batch_size"], asked.batch_size or len(data))
    config = choose(loaded, asked.family, config, asked.assignments, settings, asked.stage, data.facts)
    if parent:
        what, advice = f"{parent.manifest.name}:{parent.manifest.version}", "another --from"
    else:
        what = f"the preset '{preset}'" if preset else f"this {asked.family}"
        advice = f"--preset {COST}" if COST in card.presets and preset != COST else "other --set values"
    tasks = loaded.call("list_tasks", TasksRequest(family=asked.family, config=config, classes=data.classes))
    _refuse_misfit(tasks, asked.family, data, what, advice)
    data, held_out = data.take(tasks.example), held_out and held_out.take(tasks.example)
    found = {"classes": list(data.classes), "data": f"{data.name} {data.split}", "data_sha256": data.sha256}
    found |= {} if summary else {"summary": _summary(data)}
    run = replace(run, config=config, settings=settings, **found)
    return Begun(run, data, held_out, preset, () if kin or not parent else shared_parts(card, parent))


def _preset(card: Family, asked: Asked, parent: Parent | None) -> str:
    """The preset's name; with a stage, `small` means `small-prior`. By default `small`, if the parent has no config."""
    if asked.preset:
        name = _named(card, asked.preset, asked.stage)
        if name not in card.presets:
            raise NotFoundError(
                f"{asked.family} has no preset '{asked.preset}'; it has {', '.join(card.presets)}"
                + did_you_mean(asked.preset, card.presets)
            )
        return name
    name = _named(card, COST, asked.stage)
    kin = parent is not None and parent.manifest.family == asked.family
    inherited = parent and kin and (not asked.stage or asked.stage in parent.manifest.config)
    return name if name in card.presets and not inherited else ""


def _named(card: Family, preset: str, stage: str) -> str:
    of_stage = f"{preset}-{stage}"
    return of_stage if of_stage in card.presets else preset


def _read(asked: Asked, parent: Parent | None, seed: int) -> tuple[Dataset, Dataset | None]:
    """The pictures to train on and those held out; refuses what would change them without being asked for."""
    # A model's own labels stay what they are; the classes of a codec, which has no labels, name those of nameless data.
    inherited = parent.manifest.classes if parent else ()
    fixed = inherited if parent and labels.highest(_ports(parent.manifest.tasks)) is not None else ()
    how = {
        "channels": asked.channels,
        "image_size": size_of(asked.image_size) if asked.image_size else None,
        "classes": asked.classes or fixed,
        "default_classes": inherited,
        "name": asked.data_name,
    }
    data = datasets.read(asked.data, split="train", limit=asked.limit, **how)
    if (number := data.changes.get(datasets.ON_WHITE)) and not asked.on_white:
        raise UsageError(
            f"{safe_text(asked.data)} has {_count(number, 'picture')} with transparent parts:"
            " give --on-white to put them on white"
        )
    if data.split == "all":
        return datasets.hold_out(data, asked.hold_out, seed)
    if asked.hold_out == 0:
        return data, None
    try:
        most = asked.hold_out or datasets.MAX_HELD_OUT
        how |= {"channels": data.images.shape[-1], "image_size": data.images.shape[1:3], "classes": data.classes}
        return data, datasets.read(asked.data, split="test", limit=most, **how)
    except NotFoundError:  # only a part to train on
        return datasets.hold_out(data, asked.hold_out, seed)


def _count(number: int, what: str, ending: str = "s") -> str:
    return f"{number:,} {what}{'' if number == 1 else ending}"


def with_assets(loaded: Loaded, begun: Begun, parent: Parent | None = None) -> Begun:
    """The training with the assets of its model: those of the parent, and those that the family makes from the data.

    Raises:
        UsageError: the family made some that a bundle cannot contain.
        IntegrityError: the parent's were changed.
    """
    inherited = assets.read(parent.bundle.folder, parent.manifest) if parent and not begun.taken else {}
    if not loaded.implements("make_assets"):
        return replace(begun, run=replace(begun.run, assets=inherited))
    run, data = begun.run, begun.data
    request = AssetsRequest(
        family=run.family,
        config=run.config,
        images=data.images,
        labels=data.labels,
        classes=data.classes,
        arrays=data.arrays,
        assets=inherited,
    )
    made = {**loaded.call("make_assets", request), **inherited}
    return replace(begun, run=replace(run, assets=assets.check(made, "make_assets")))


def _refuse_misfit(tasks: Tasks, family: str, data: Dataset, what: str, advice: str) -> None:
    """Refuses data of another shape, or with other classes, than the config's tasks have.

    Args:
        what: the origin of the config, for the message.
        advice: the option that gives another config.
    """
    ports = _ports(tasks.tasks)
    channels = channels_of(ports)
    if channels is None:
        raise UsageError(f"no task of this {family} takes or gives pictures, so there is nothing to train on")
    facts, name = data.facts, safe_text(data.name)
    size = _size(tasks.tasks["generate"].outputs.values() if "generate" in tasks.tasks else ports)
    options = [f"--channels {channels}"] if channels != facts.channels else []
    if size and size != (facts.height, facts.width):
        options.append(f"--image-size {size[1]}x{size[0]}")
    if options:
        raise UsageError(
            f"{what} is for {_shape(channels, size)}, and {name} has"
            f" {_shape(facts.channels, (facts.height, facts.width))}: give {' '.join(options)} to change the pictures,"
            f" or {advice} to keep them as they are"
        )
    top = labels.highest(_ports(tasks.tasks, but=tasks.example))  # a named label has its own range
    if top is not None and top + 1 != len(facts.classes):
        has = f"{_count(len(facts.classes), 'class', 'es')}" if facts.classes else "no labels"
        listed = f" ({safe_text(', '.join(facts.classes[: labels.MOST_LISTED]))})" if facts.classes else ""
        raise UsageError(
            f"{what} is for {top + 1:,} classes, and {name} has {has}{listed}: give {advice}, or --classes with all"
            " names"
        )


def shared_parts(card: Family, parent: Parent) -> tuple[str, ...]:
    """The parts that a family and a model of another one both have."""
    return tuple(part for part in card.weights if part in parent.manifest.config)


def _ports(tasks: Mapping[str, Task], but: Collection[str] = ()) -> list[Port]:
    """All ports except those with certain names."""
    named = [(n, p) for task in tasks.values() for n, p in (*task.inputs.items(), *task.outputs.items())]
    return [port for name, port in named if name not in but]


def _size(ports: Iterable[Port]) -> tuple[int, int] | None:
    """Height and width of the first image, if they are fixed."""
    image = first_image(ports)
    if image is None or not all(isinstance(side, int) for side in image.shape[1:3]):
        return None
    return int(image.shape[1]), int(image.shape[2])


def _shape(channels: int, size: tuple[int, int] | None) -> str:
    return f"{'grey' if channels == 1 else 'colour'} pictures" + (f" of {size[1]}x{size[0]}" if size else "")


def _summary(data: Dataset) -> str:
    """`colour 48x40 emoji: food, people, symbols`: what a model of these pictures is."""
    facts = data.facts
    names = ", ".join(facts.classes[:MOST_NAMED]) + (", …" if len(facts.classes) > MOST_NAMED else "")
    kind = "grey" if facts.channels == 1 else "colour"
    said = f"{kind} {facts.width}x{facts.height} {data.name}" + (f": {names}" if names else "")
    return one_line(said)[:MOST_SUMMARY]


def _chosen(
    card: Family, asked: Asked, parent: Parent | None, preset_name: str
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Config, settings and summary: the parent's, overridden by the preset's, overridden by what was requested.

    The config is as partial as they are.
    """
    config: dict[str, Any] = {}
    settings: dict[str, Any] = dict(DEFAULTS)
    summary = asked.summary
    taken: dict[str, Any] = {}
    if parent is None and card.parents:
        raise UsageError(
            f"{asked.family} trains on a part of a model that was made before: give --from MODEL, of the family"
            f" {' or '.join(card.parents)}"
        )
    if parent:
        family = parent.manifest.family
        if family == asked.family:
            config, summary = dict(parent.manifest.config), summary or parent.manifest.summary
        elif family in card.parents:
            config = taken = {part: parent.manifest.config[part] for part in shared_parts(card, parent)}
        else:
            others = f", nor to {' or '.join(card.parents)}" if card.parents else ""
            raise UsageError(f"{parent} belongs to the family '{family}', not to '{asked.family}'{others}")
    if preset_name:
        preset = card.presets[preset_name]
        config = _merge(config, preset.config) | taken  # a preset's own may be of another shape
        settings |= preset.training
        if preset_name.removesuffix(f"-{asked.stage}") not in COSTS:  # else it says what the training costs
            summary = summary or preset.summary
    settings |= {name: value for name in DEFAULTS if (value := getattr(asked, name)) is not None}
    settings["seed"] = asked.seed
    settings |= {"accumulate": asked.accumulate} if asked.accumulate > 1 else {}
    return config, settings, summary


def choose(
    loaded: Loaded,
    family: str,
    config: Mapping[str, Any],
    assignments: Sequence[str],
    settings: dict[str, Any] | None = None,
    stage: str = "",
    data: DataFacts | None = None,
    trained: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The completed config with `KEY=VALUE` assignments applied; keys that are not its fields go into `settings`.

    Without `settings`, every assignment must be a field of the config. With `data`, fields that are left open come from
    it. `trained` is the config of weights that there are already.
    """
    config = _assigned(loaded, family, config, assignments, settings, stage)
    request = ConfigRequest(family=family, config=config, stage=stage, data=data, trained=trained)
    config = dict(loaded.call("validate_config", request))
    if lost := lost_in_writing(config):
        raise PluginError(f"the config that {family} made cannot be written to a manifest: {safe_text(lost)}")
    return config


def _assigned(
    loaded: Loaded,
    family: str,
    config: Mapping[str, Any],
    assignments: Sequence[str],
    settings: dict[str, Any] | None,
    stage: str,
) -> dict[str, Any]:
    """The partial config with the assignments applied; it may only be valid with what comes from the data.

    Raises:
        UsageError: an assignment to something that is not a field.
    """
    # An assignment is checked against the completed config, which has every field, and applied to the partial one, so
    # that the other fields stay open for the data. Copied, since it may be the plugin's own preset.
    request = ConfigRequest(family=family, config=config, stage=stage)
    config, complete = deepcopy(dict(config)), deepcopy(dict(loaded.call("validate_config", request)))
    for assignment in assignments:
        assign(assignment, complete, complete if settings is None else settings)
        key = assignment.partition("=")[0]
        if settings is None or "." in key or key in complete:
            assign(assignment, config, config)
    return config


def refuse_other(begun: Run, run: Run, folder: Path) -> None:
    """Checks that a resumed run is the same run: the request must equal that of the checkpoint's training."""
    # As JSON, in which a checkpoint stores it: a family's config may have tuples.
    before, now = (_flat(json.loads(json.dumps(replace(r, command="", note="").plain()))) for r in (begun, run))
    for key in before.keys() | now.keys():
        if before.get(key) != now.get(key):
            raise UsageError(
                f"the run in {folder} started with {key} {before.get(key)!r}, not {now.get(key)!r}: --resume needs"
                " the same command; to start again, use another --checkpoints"
            )


def assign(assignment: str, config: dict[str, Any], settings: dict[str, Any]) -> None:
    """Puts `codec.num_codes=64` into the config; a key without a dot goes into the config if it is a field of it, else
    into the settings.

    The value is JSON, or else plain text: 64, 1e-3, true, [16,32], loss.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise UsageError(f"--set '{assignment}' must look like KEY=VALUE")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    *path, last = key.split(".")
    target = settings if not path and last not in config else config
    for part in path:
        if target.get(part) is None:  # an optional part that is not there yet
            target[part] = {}
        target = target[part]
        if not isinstance(target, dict):
            raise UsageError(f"--set {key}: '{part}' has no fields of its own")
    target[last] = value


def check_name(name: str) -> None:
    """Refuses an invalid model name, in one line."""
    if str(Reference.parse(name).name) != name:
        raise UsageError(f"'{name}' is not a model name: use lower-case letters, digits, dots and dashes; give --name")


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings as a flat one, with keys like `config.codec.num_codes`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{rest}".rstrip("."): item for rest, item in inner.items()}
    return flat


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, merged mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
