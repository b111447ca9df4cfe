"""Starts a training: turns preset, parent and the user's choices into a `Run` and its data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import NotFoundError, UsageError
from ..formats.reference import Reference
from ..hookspecs import ConfigRequest, DescribeRequest, TasksRequest
from ..media.files import Note
from ..plugins import Loaded
from ..ports.image import channels_of
from ..store.locate import Bundle, locate
from ..text import did_you_mean
from . import data as datasets
from .bundling import read_weights
from .data import Dataset
from .train import Run

DEFAULTS = {"steps": 10_000, "batch_size": 64, "learning_rate": 1e-3}
"""Settings of a training that neither the preset nor the user chose."""

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
    image_size: int | None = None
    limit: int | None = None
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

    def weights(self) -> dict[str, torch.Tensor]:
        """Its `state_dict`."""
        return read_weights(self.bundle.folder, self.manifest)

    def __str__(self) -> str:
        return f"{self.manifest.name}:{self.manifest.version}@sha256:{self.bundle.digest}"


def begin(
    loaded: Loaded, asked: Asked, parent: Parent | None = None, note: Note = lambda line: None
) -> tuple[Run, Dataset]:
    """The requested run and its data.

    Args:
        note: called with one line about what was read.

    Raises:
        NotFoundError: no such preset, or no data.
        UsageError: an invalid value, or a parent of another family.
        InvalidFileError: the data cannot be read.
    """
    config, settings, summary = _chosen(loaded, asked, parent)
    name = asked.name or (parent.manifest.name if parent else asked.default_name)
    check_name(name)
    same = parent is not None and parent.manifest.name == name
    run = Run(
        family=asked.family,
        config=config,
        settings=settings,
        name=name,
        version=asked.version or (parent.manifest.version + 1 if parent and same else 1),
        summary=summary or f"a {asked.family} model",
        license=asked.license,
        license_note=asked.license_note,
        stage=asked.stage,
        command=asked.command[: MOST_COMMAND - 1] + "…" if len(asked.command) > MOST_COMMAND else asked.command,
        data_license=asked.data_license,
        parent=str(parent or ""),
    )
    run = Run.asked(asdict(run))
    data = datasets.read(
        asked.data,
        split="train",
        channels=_channels(loaded, asked.family, config),
        image_size=asked.image_size,
        classes=asked.classes or (parent.manifest.classes if parent else ()),
        name=asked.data_name,
        limit=asked.limit,
        note=note,
    )
    found = {"classes": list(data.classes), "data": f"{data.name} {data.split}", "data_sha256": data.sha256}
    return replace(run, **found), data


def _chosen(loaded: Loaded, asked: Asked, parent: Parent | None) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Config, settings and summary: the parent's, overridden by the preset's, overridden by what was requested."""
    card = loaded.call("describe_family", DescribeRequest(family=asked.family))
    config: dict[str, Any] = {}
    settings: dict[str, Any] = dict(DEFAULTS)
    summary = asked.summary
    if parent:
        if parent.manifest.family != asked.family:
            raise UsageError(f"{parent} belongs to the family '{parent.manifest.family}', not '{asked.family}'")
        config, summary = dict(parent.manifest.config), summary or parent.manifest.summary
    if asked.preset:
        if asked.preset not in card.presets:
            raise NotFoundError(
                f"{asked.family} has no preset '{asked.preset}'; it has {', '.join(card.presets)}"
                + did_you_mean(asked.preset, card.presets)
            )
        preset = card.presets[asked.preset]
        config = _merge(config, preset.config)
        settings |= preset.training
        summary = summary or preset.summary
    settings |= {name: value for name in DEFAULTS if (value := getattr(asked, name)) is not None}
    settings["seed"] = asked.seed
    config = choose(loaded, asked.family, config, asked.assignments, settings, asked.stage)
    return config, settings, summary


def choose(
    loaded: Loaded,
    family: str,
    config: Mapping[str, Any],
    assignments: Sequence[str],
    settings: dict[str, Any] | None = None,
    stage: str = "",
) -> dict[str, Any]:
    """The completed config with `KEY=VALUE` assignments applied; keys that are not its fields go into `settings`.

    Without `settings`, every assignment must be a field of the config.
    """

    def validated(config: Mapping[str, Any]) -> dict[str, Any]:
        request = ConfigRequest(family=family, config=config, stage=stage)
        return dict(loaded.call("validate_config", request))

    # Completed first, so that an assignment finds every field; copied, since it may be the plugin's own preset.
    config = deepcopy(validated(config))
    for assignment in assignments:
        assign(assignment, config, config if settings is None else settings)
    return validated(config)


def refuse_other(begun: Run, run: Run, folder: Path) -> None:
    """Checks that a resumed run is the same run: the request must equal that of the checkpoint's training."""
    before, now = (_flat(asdict(replace(r, command="", note=""))) for r in (begun, run))
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
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise UsageError(f"--set {key}: '{part}' has no fields of its own")
    target[last] = value


def check_name(name: str) -> None:
    """Refuses an invalid model name, in one line."""
    if str(Reference.parse(name).name) != name:
        raise UsageError(f"'{name}' is not a model name: use lower-case letters, digits, dots and dashes; give --name")


def _channels(loaded: Loaded, family: str, config: dict[str, Any]) -> int:
    """1 or 3: the channels of the pictures that the config's tasks take or give."""
    tasks = loaded.call("list_tasks", TasksRequest(family=family, config=config)).tasks.values()
    channels = channels_of(port for task in tasks for port in (*task.inputs.values(), *task.outputs.values()))
    if channels is None:
        raise UsageError(f"no task of this {family} takes or gives pictures, so there is nothing to train on")
    return channels


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
