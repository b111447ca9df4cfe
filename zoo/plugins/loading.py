"""Loads the one plugin that a command needs, and calls its hooks."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, overload

import msgspec
import pluggy

from .. import hookspecs
from ..errors import NotFoundError, PluginError, ZooError
from ..system.installation import missing_module
from ..text import did_you_mean, safe_text
from . import places
from .finding import OFF, Fault, Plugin, PluginCommand, brief, enabled, installed
from .probing import probe

if TYPE_CHECKING:
    import click
    import torch

_REPORT = "upgrade it (pip install -U {distribution}) or report it to its author"


def import_hooks(plugin: Plugin) -> pluggy.PluginManager:
    """Imports the plugin's module and checks its hooks.

    Returns:
        A new pluggy manager that only knows this module.

    Raises:
        Fault: the module raised, exits, or has hooks that are not in the contract.
    """
    try:
        module = importlib.import_module(plugin.module)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as e:
        raise Fault(
            f"it needs the module '{e.name}', which is not installed",
            "reinstall it with its dependencies: pip install --force-reinstall {distribution}",
        ) from e
    except SystemExit as e:
        raise Fault(f"it calls sys.exit when it is imported{_place(e, plugin)}") from e
    except BaseException as e:
        raise Fault(f"it cannot be imported{_place(e, plugin)}: {brief(e)}") from e
    return _register(plugin, module)


def _register(plugin: Plugin, module: ModuleType) -> pluggy.PluginManager:
    manager = pluggy.PluginManager("zoo")
    manager.add_hookspecs(hookspecs)
    known = [name for name in vars(manager.hook) if getattr(manager.hook, name).has_spec()]
    try:
        manager.register(module, name=plugin.distribution)
    except pluggy.PluginValidationError as e:
        definition, reason = str(e).splitlines()[1:3]
        raise Fault(f"wrong signature, {definition}: a hook takes one argument, request ({reason})") from e
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as e:
        name = next(name for name in vars(manager.hook) if name not in known)
        raise Fault(f"the contract has no hook '{name}'{did_you_mean(name, known)}") from e
    for name in known:
        function = vars(module).get(name)
        ours = getattr(function, "__module__", None) == module.__name__
        if ours and callable(function) and not hasattr(function, "zoo_impl"):
            raise Fault(f"its function {name} has no @hookimpl and would never be called")
    return manager


def hook_names(manager: pluggy.PluginManager) -> tuple[str, ...]:
    """The hooks that a manager's module implements."""
    return tuple(name for name in vars(manager.hook) if getattr(manager.hook, name).get_hookimpls())


def _place(error: BaseException, plugin: Plugin) -> str:
    """` (file.py:12)`, the innermost line of the plugin's own code in an error's traceback."""
    place = places.of_error(error, plugin.module)
    return place and f" ({place})"


class Loaded:
    """A family or target whose plugin was imported."""

    def __init__(self, name: str, plugin: Plugin, manager: pluggy.PluginManager):
        self.name, self.plugin, self._manager = name, plugin, manager

    def implements(self, hook: str) -> bool:
        """Whether the plugin implements the hook."""
        return hook in hook_names(self._manager)

    def place(self, hook: str) -> str:
        """`zoo_tiny/plugin.py:12`, where a hook that the plugin implements begins."""
        return places.of_code(getattr(self._manager.hook, hook).get_hookimpls()[0].function, self.plugin.module)

    @overload
    def call(self, hook: Literal["describe_family"], request: hookspecs.DescribeRequest) -> hookspecs.Family: ...
    @overload
    def call(self, hook: Literal["validate_config"], request: hookspecs.ConfigRequest) -> Mapping[str, Any]: ...
    @overload
    def call(self, hook: Literal["list_tasks"], request: hookspecs.TasksRequest) -> hookspecs.Tasks: ...
    @overload
    def call(self, hook: Literal["make_assets"], request: hookspecs.AssetsRequest) -> Mapping[str, bytes]: ...
    @overload
    def call(self, hook: Literal["build_module"], request: hookspecs.BuildRequest) -> torch.nn.Module: ...
    @overload
    def call(self, hook: Literal["build_task"], request: hookspecs.TaskModuleRequest) -> torch.nn.Module: ...
    @overload
    def call(self, hook: Literal["build_trainer"], request: hookspecs.TrainRequest) -> hookspecs.Trainer: ...
    @overload
    def call(self, hook: Literal["measure"], request: hookspecs.MeasureRequest) -> list[hookspecs.Metric]: ...
    @overload
    def call(
        self, hook: Literal["import_checkpoint"], request: hookspecs.ImportRequest
    ) -> hookspecs.Imported | None: ...
    @overload
    def call(self, hook: Literal["describe_target"], request: hookspecs.TargetRequest) -> hookspecs.Target: ...
    @overload
    def call(self, hook: Literal["write_target"], request: hookspecs.WriteTargetRequest) -> bool: ...
    @overload
    def call(self, hook: Literal["run_target"], request: hookspecs.RunTargetRequest) -> str: ...
    def call(self, hook: str, request: object) -> Any:
        """The hook's answer.

        Raises:
            ZooError: as the hook raised it.
            PluginError: the hook is missing, raised anything else, or returned something that breaks the contract. The
                line names distribution, hook, and the line of the plugin's code.
        """
        try:
            return self.ask(hook, request)
        except Fault as fault:
            name = self.plugin.distribution
            raise PluginError(f"{name} {self.plugin.version}: {fault.line(name)}") from fault.__cause__

    def failed(self, what: str, error: Exception) -> PluginError:
        """One line for an error in the plugin's code outside of its hooks, with the line of the code.

        Args:
            what: `its trainer failed at step 3`.
        """
        name = self.plugin.distribution
        fault = Fault(f"{what}{_place(error, self.plugin)}: {brief(error)}", _REPORT)
        return PluginError(f"{name} {self.plugin.version}: {fault.line(name)}")

    def ask(self, hook: str, request: object) -> Any:
        """Like `call`, but raises a Fault if the plugin is at fault."""
        caller = getattr(self._manager.hook, hook)
        if not caller.get_hookimpls():
            raise Fault(f"it does not implement the hook {hook}", f"docs/contract.md#{hook} says what it must return")
        try:
            result = caller(request=request)
        except (ZooError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as e:
            if isinstance(e, ModuleNotFoundError) and (line := missing_module(e)):
                raise PluginError(line) from None
            raise Fault(f"its hook {hook} failed{_place(e, self.plugin)}: {brief(e)}", _REPORT) from e
        if not isinstance(result, _RESULTS.get(hook, object)) or (result is None and hook not in _MAY_PASS):
            kind = "None" if result is None else f"a {type(result).__name__}"
            raise Fault(f"its hook {hook} returned {kind}", f"docs/contract.md#{hook} says what it must return")
        return result


def load_command(command: PluginCommand) -> click.Command:
    """Imports a command that a plugin provides: a click command or group.

    Raises:
        PluginError: it is set aside, or cannot be imported.
    """
    import click

    where = f"{command.distribution} {command.version}"
    aside = next((p.set_aside for p in installed() if p.problem and p.distribution == command.distribution), "")
    if command.problem or aside:
        raise PluginError(aside or f"{where}: {command.problem}")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = getattr(importlib.import_module(command.module), command.attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        raise PluginError(f"{where}: {command_fault(command, e)}") from e
    if not isinstance(found, click.Command):
        reason = f"{command.module}:{command.attribute} is a {type(found).__name__}, not a click command"
        raise PluginError(f"{where}: {reason}; {_REPORT.replace('{distribution}', command.distribution)}")
    return found


def command_fault(command: PluginCommand, error: BaseException) -> str:
    """One line with what a plugin's command raised, where, and what to do."""
    place = places.of_error(error, command.module)
    reason = f"its command '{command.name}' failed{place and f' ({place})'}: {brief(error)}"
    return f"{reason}; {_REPORT.replace('{distribution}', command.distribution)}"


# What can be checked without importing torch.
_RESULTS: dict[str, Any] = {
    "describe_family": hookspecs.Family,
    "validate_config": Mapping,
    "list_tasks": hookspecs.Tasks,
    "make_assets": Mapping,
    "measure": list,
    "import_checkpoint": (hookspecs.Imported, type(None)),
    "describe_target": hookspecs.Target,
    "write_target": bool,
    "run_target": str,
}
_MAY_PASS = ("import_checkpoint",)  # hooks that may return None


def load(family: str) -> Loaded:
    """Imports the plugin of one family, after it passed its probe.

    Raises:
        NotFoundError: no plugin provides such a family.
        PluginError: plugins are off, or this one is set aside.
    """
    return load_from(probe(candidate(family)).plugin, family)


def load_target(target: str) -> Loaded:
    """Like `load`, for a target."""
    return load_from(probe(candidate(target, "targets")).plugin, target)


def candidate(name: str, brought: str = "families") -> Plugin:
    """The installed plugin of a family, or of a target; one that is set aside only if there is no other.

    Raises:
        NotFoundError: no plugin provides it.
        PluginError: plugins are off.
    """
    what, does = ("family", "makes") if brought == "families" else ("target", "writes")
    what = f"the {what} '{safe_text(name)}'"
    if not enabled():
        raise PluginError(f"{OFF}; {what} needs them: run without")
    plugins = installed()
    candidates = sorted((p for p in plugins if name in getattr(p, brought)), key=lambda p: bool(p.problem))
    if not candidates:
        known = sorted({n for p in plugins if not p.problem for n in getattr(p, brought)})
        there = (
            f"installed: {', '.join(known)}"
            if known
            else f"no plugin with {brought} is installed: zoo's are in plugins/"
        )
        raise NotFoundError(f"no installed plugin {does} {what}; {there}" + did_you_mean(name, known))
    return candidates[0]


def load_from(plugin: Plugin, name: str) -> Loaded:
    """Imports a probed plugin, for one of its families or targets.

    Raises:
        PluginError: it is set aside.
    """
    if plugin.problem:
        raise PluginError(plugin.set_aside)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return Loaded(name, plugin, import_hooks(plugin))
    except Fault as fault:
        plugin = msgspec.structs.replace(plugin, problem=fault.line(plugin.distribution))
        raise PluginError(plugin.set_aside) from fault
