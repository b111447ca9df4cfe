"""Loading the one plugin that a command needs, and calling its hooks."""

import contextlib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from ..errors import NotFoundError, PluginError, ZooError
from ..hookspecs import Family, Imported, Target, Tasks
from ..text import did_you_mean, safe_text
from .finding import OFF, Fault, Plugin, brief, enabled, installed, roots
from .probing import probe

_REPORT = "upgrade it (pip install -U {distribution}) or tell its author"


def import_hooks(plugin: Plugin) -> Any:
    """Imports the plugin's module and checks its hooks.

    Returns:
        A fresh pluggy manager that knows this module alone.

    Raises:
        Fault: the module raised, exits, or has hooks that the contract does not know.
    """
    try:
        module = importlib.import_module(plugin.module)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as e:
        raise Fault(
            f"it needs the module '{e.name}', which is not installed",
            "install it again with what it needs: pip install --force-reinstall {distribution}",
        ) from e
    except SystemExit as e:
        raise Fault(f"it calls sys.exit when it is imported{_place(e, plugin)}") from e
    except BaseException as e:
        raise Fault(f"it cannot be imported{_place(e, plugin)}: {brief(e)}") from e
    return _register(plugin, module)


def _register(plugin: Plugin, module: ModuleType) -> Any:
    import pluggy

    from .. import hookspecs

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
            raise Fault(f"its function {name} lacks @hookimpl and would never be called")
    return manager


def hook_names(manager: Any) -> tuple[str, ...]:
    """The hooks that a manager's module implements."""
    return tuple(name for name in vars(manager.hook) if getattr(manager.hook, name).get_hookimpls())


def _place(error: BaseException, plugin: Plugin) -> str:
    """` (file.py:12)`, the innermost line of the plugin's own code that an error went through."""
    places = roots(plugin.module.split(".")[0])
    place, step = "", error.__traceback__
    while step:
        file = Path(step.tb_frame.f_code.co_filename)
        root = next((root for root in places if file.is_relative_to(root)), None)
        if root:
            place = f" ({safe_text(file.relative_to(root.parent))}:{step.tb_lineno})"
        step = step.tb_next
    return place


class Loaded:
    """A family or target whose plugin was imported."""

    def __init__(self, name: str, plugin: Plugin, manager: Any):
        self.name, self.plugin, self._manager = name, plugin, manager

    def call(self, hook: str, request: Any) -> Any:
        """The hook's answer.

        Raises:
            ZooError: as the hook raised it.
            PluginError: the hook is missing, raised anything else, or answered with something else than its contract
                says. The line names distribution, hook, and the place in the plugin's code.
        """
        try:
            return self.ask(hook, request)
        except Fault as fault:
            name = self.plugin.distribution
            raise PluginError(f"{name} {self.plugin.version}: {fault.line(name)}") from fault.__cause__

    def ask(self, hook: str, request: Any) -> Any:
        """`call`, with a Fault where the plugin is to blame."""
        caller = getattr(self._manager.hook, hook)
        if not caller.get_hookimpls():
            raise Fault(f"it does not implement the hook {hook}", f"docs/contract.md#{hook} says what it must return")
        try:
            result = caller(request=request)
        except (ZooError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as e:
            raise Fault(f"its hook {hook} failed{_place(e, self.plugin)}: {brief(e)}", _REPORT) from e
        if not isinstance(result, _RESULTS.get(hook, object)) or (result is None and hook not in _MAY_PASS):
            kind = "None" if result is None else f"a {type(result).__name__}"
            raise Fault(f"its hook {hook} returned {kind}", f"docs/contract.md#{hook} says what it must return")
        return result


# What can be checked without importing torch.
_RESULTS: dict[str, Any] = {
    "describe_family": Family,
    "validate_config": Mapping,
    "list_tasks": Tasks,
    "measure": list,
    "import_checkpoint": (Imported, type(None)),
    "describe_target": Target,
    "write_target": bool,
    "run_target": str,
}
_MAY_PASS = ("import_checkpoint",)  # hooks that may answer None


def load(family: str) -> Loaded:
    """Imports the plugin of one family, after it passed its probe.

    Raises:
        NotFoundError: no plugin makes such a family.
        PluginError: plugins are off, or this one is set aside.
    """
    return _load(family, "families", f"the family '{safe_text(family)}'", "makes")


def load_target(target: str) -> Loaded:
    """As `load`, for a target."""
    return _load(target, "targets", f"the target '{safe_text(target)}'", "writes")


def _load(name: str, brought: str, what: str, does: str) -> Loaded:
    if not enabled():
        raise PluginError(f"{OFF}; {what} needs one: run without")
    plugins = installed()
    candidates = sorted((p for p in plugins if name in getattr(p, brought)), key=lambda p: bool(p.problem))
    if not candidates:
        known = sorted({n for p in plugins if not p.problem for n in getattr(p, brought)})
        raise NotFoundError(
            f"no installed plugin {does} {what}; installed: {', '.join(known) or 'none'}" + did_you_mean(name, known)
        )
    plugin = probe(candidates[0]).plugin
    if plugin.problem:
        raise PluginError(plugin.set_aside)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return Loaded(name, plugin, import_hooks(plugin))
    except Fault as fault:
        plugin = msgspec.structs.replace(plugin, problem=fault.line(plugin.distribution))
        raise PluginError(plugin.set_aside) from fault
