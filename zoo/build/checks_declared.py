"""Checks of what a plugin declares: module, hooks, card, presets, configs, commands and registry.

Each returns what it checked, or raises a Finding.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import click
import msgspec
from click.testing import CliRunner

from ..errors import UsageError, ZooError
from ..formats import manifest as manifests
from ..formats import registry as registry_files
from ..graph.check import check as check_graphs
from ..hookspecs import Task, Tasks
from ..names import MANIFEST
from ..plugins import Plugin, places
from ..plugins.finding import brief, commands_of, for_author, project_of, registries_of
from ..ports.kind import BATCH
from ..ports.kinds import problem as problem_of
from ..settings import TrainingSettings, read
from ..system.urls import path_of, split
from .golden import check_golden
from .subject import Finding, Subject, count
from .written import first_change, lost_in_writing

LOAD_SECONDS = 1.0
"""Time limit for importing a plugin's module: every command that lists families may have to wait for it."""

REQUIRED = ("describe_family", "validate_config", "list_tasks", "build_module", "build_task")


def loads(s: Subject) -> str:
    if problem := s.probe.plugin.problem:
        raise Finding(for_author(problem), read="docs/contract.md")
    seconds = s.probe.import_seconds or 0.0
    if seconds > LOAD_SECONDS:
        raise Finding(
            f"importing {s.plugin.module} takes {seconds:.2f} s of processor time,"
            f" at most {LOAD_SECONDS:g} s are allowed:"
            " import heavy modules inside the hooks",
            read="docs/contract.md",
        )
    return f"in {seconds * 1000:.0f} ms, without torch and onnxruntime"


def contract(s: Subject) -> str:
    for hook in REQUIRED:
        if not s.loaded.implements(hook):
            raise Finding(f"it does not implement the hook {hook}", read=f"docs/contract.md#{hook}")
    return f"contract {s.plugin.contract}, {len(s.probe.hooks)} hooks with their signatures"


def family_card(s: Subject) -> str:
    if not s.described.paper.startswith("https://"):
        s.fail(f"the link to its paper is '{s.described.paper}'; it must start with https://", "describe_family")
    if not s.described.presets:
        s.fail("it has no preset; it needs at least one, so that it can be trained and tested", "describe_family")
    if not (licence := _licence(s.plugin)):
        raise Finding(
            'its distribution names no licence; add it to pyproject.toml, e.g. license = "Apache-2.0"',
            read="docs/writing-a-plugin.md",
        )
    return f"{count(len(s.described.presets), 'preset')}, paper, licence of the code {licence}"


def _licence(plugin: Plugin) -> str:
    if plugin.folder:
        return project_of(Path(plugin.folder)).license
    about = metadata.metadata(plugin.distribution)
    return next(iter(about.get_all("License-Expression") or about.get_all("License") or [""]))


def presets(s: Subject) -> str:
    for name, preset in s.described.presets.items():
        config = s.validated(preset.config)
        if lost := lost_in_writing(config):
            s.fail(f"preset {name}: its config cannot be written to a manifest: {lost}", "validate_config")
        if change := first_change(config, s.validated(config)):
            s.fail(
                f"preset {name}: validating a complete config again must change nothing: {change}", "validate_config"
            )
        if change := first_change(config, s.validated(msgspec.json.decode(msgspec.json.encode(config)))):
            s.fail(f"preset {name}: its config changes when it is written and read again: {change}", "validate_config")
        if s.loaded.implements("build_trainer"):
            try:
                read(TrainingSettings, preset.training, f"the training of the preset {name}")
            except UsageError as e:
                s.fail(str(e), "describe_family")
        _check_tasks(s, name, s.tasks_of(config))
    return ", ".join(s.described.presets)


def _check_tasks(s: Subject, preset: str, tasks: Tasks) -> None:
    for array, port in tasks.example.items():
        if wrong := problem_of(port) or ("" if port.shape[:1] == (BATCH,) else f"its first dimension must be {BATCH}"):
            s.fail(f"preset {preset}: the array '{array}' of an example: {wrong}", "list_tasks")
    if unknown := tasks.golden.keys() - tasks.tasks.keys():
        s.fail(f"preset {preset}: golden names '{min(unknown)}', which is not a task", "list_tasks")
    check_golden(tasks.golden, tasks)
    if tasks.default not in tasks.tasks:
        s.fail(
            f"preset {preset}: the default task '{tasks.default}' is not one of {', '.join(tasks.tasks)}", "list_tasks"
        )
    for name, task in tasks.tasks.items():
        if shared := task.inputs.keys() & task.outputs.keys():
            s.fail(
                f"preset {preset}: '{min(shared)}' is both input and output of {name}; rename one of them",
                "list_tasks",
            )
        for port_name, port in (task.inputs | task.outputs).items():
            if wrong := problem_of(port):
                s.fail(f"preset {preset}: the port '{port_name}' of {name}: {wrong}", "list_tasks")
        if task.part_of and task.part_of not in tasks.tasks:
            s.fail(f"preset {preset}: {name} is part of '{task.part_of}', which is not a task", "list_tasks")
        try:
            msgspec.convert(msgspec.to_builtins(task), Task)
        except msgspec.ValidationError as e:
            s.fail(f"preset {preset}: the task {name} cannot be written in a manifest: {e}", "list_tasks")


def config_errors(s: Subject) -> str:
    wrong = list(_wrong_values(s.config))
    for path, value in wrong:
        config = deepcopy(s.config)
        *parents, last = path.split(".")
        target = config
        for parent in parents:
            target = target[parent]
        target[last] = value
        try:
            s.validated(config)
        except UsageError as e:
            if last not in str(e) or "\n" in str(e):
                s.fail(
                    f"a wrong {path} is refused with '{e}', not with one line that names the field", "validate_config"
                )
        else:
            s.fail(
                f"a config with {path} = {value} was accepted; refuse it with a UsageError that names it",
                "validate_config",
            )
    return f"{count(len(wrong), 'wrong config')} refused, each with a line that names the field"


def _wrong_values(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """A field too many for each mapping of a config, and a value of another type for each field, by their paths."""
    yield f"{path}no_such_field", 1
    for name, value in config.items():
        if not isinstance(value, Mapping):
            yield f"{path}{name}", {"wrong": ["type"]}
        elif value:
            yield from _wrong_values(value, f"{path}{name}.")


def commands(s: Subject) -> str:
    found = commands_of(s.plugin, s.commands)
    for command in found:
        if command.problem:
            raise Finding(for_author(command.problem), read="docs/writing-a-plugin.md#commands")
        where = f"{command.module}:{command.attribute}"
        try:
            value = getattr(import_module(command.module), command.attribute)
        except (Exception, SystemExit) as e:
            why = f"the command '{command.name}' cannot be imported from {where}: {brief(e)}"
            raise Finding(why, places.of_error(e, s.plugin.module), "docs/writing-a-plugin.md#commands") from e
        if not isinstance(value, click.Command):
            why = (
                f"the command '{command.name}', {where}, is not a click command, but of the type {type(value).__name__}"
            )
            raise Finding(why, read="docs/writing-a-plugin.md#commands")
        for words in _helps(value):
            shown = " ".join(["zoo", command.name, *words])
            result = CliRunner().invoke(value, words)
            if result.exit_code:
                e = result.exception
                why = f"`{shown}` failed: {brief(e) if e else result.output.strip()}"
                raise Finding(why, places.of_error(e, s.plugin.module), "docs/writing-a-plugin.md#commands")
    return ", ".join(f"zoo {command.name} --help" for command in found) or "it has no commands"


def _helps(command: click.Command) -> Iterator[list[str]]:
    """The arguments that print the help of a command, and of those inside of a group."""
    yield ["--help"]
    if isinstance(command, click.Group):
        for name in command.commands:
            yield [name, "--help"]


def registry(s: Subject) -> str:
    models = []
    for found in registries_of(s.plugin):
        read = "docs/writing-a-plugin.md#a-registry-of-its-own-models"
        if found.folder is None:
            raise Finding(f"the package of its registry '{found.name}' does not exist", read=read)
        try:
            document = registry_files.read(found.folder, found.name)
            for name, model in document.document.models.items():
                for version in model.versions:
                    if wrong := _wrong_files(registry_files.Entry(document, name, version)):
                        raise Finding(f"{name}:{version} of its registry '{found.name}': {wrong}", read=read)
                    models.append(f"{found.name}/{name}:{version}")
        except ZooError as e:
            raise Finding(f"its registry '{found.name}': {e}", read=read) from e
    return ", ".join(models) or "it has no registry with models"


def _wrong_files(entry: registry_files.Entry) -> str:
    """What is wrong with a model that a plugin brings; empty if nothing is. Files elsewhere are not fetched."""
    manifest_url = entry.registry.file_url(entry.files[MANIFEST])
    if split(manifest_url).scheme != "file":
        return ""
    folder = path_of(manifest_url).parent
    data = manifests.read_bytes(folder)
    if manifests.digest(data) != entry.digest:
        return f"{MANIFEST} does not have the digest that the registry names; publish the model again"
    manifest = manifests.parse(data, str(folder / MANIFEST))
    findings = manifests.check_files(folder, manifest) or check_graphs(folder, manifest)
    return "; ".join(findings)
