"""Plugins: finds, checks, sets aside, lists and loads them.

A plugin is read before it is run. What is installed comes from the distributions' metadata; the contract's version
comes from the module's source; the first import happens in a child process with a time limit (`zoo.plugins.child`), and
its result is cached. Only a plugin that passed all of that is imported here, by the command that needs it. A plugin
that fails is set aside with one line that names its distribution and the fix, and everything else keeps working.

Entry points of a plugin's distribution; docs/contract.md has an example of each:
    zoo             family name = module of hooks
    zoo.target      target name = module of hooks
    zoo.registry    registry name = package whose folder contains a registry.yaml; `default` is for zoo's own models
    zoo.commands    command name = module:attribute, a click command or group, `zoo NAME`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .finding import OFF, Plugin, PluginCommand, PluginRegistry, commands, enabled, in_folder, installed, registries
    from .loading import Loaded, candidate, command_fault, load, load_command, load_from, load_target
    from .probing import Probe, probe, probe_all, set_aside

__all__ = [
    "OFF",
    "Loaded",
    "Plugin",
    "PluginCommand",
    "PluginRegistry",
    "Probe",
    "candidate",
    "command_fault",
    "commands",
    "enabled",
    "in_folder",
    "installed",
    "load",
    "load_command",
    "load_from",
    "load_target",
    "probe",
    "probe_all",
    "registries",
    "set_aside",
]

_LOADING = ("Loaded", "candidate", "command_fault", "load", "load_command", "load_from", "load_target")
_PROBING = ("Probe", "probe", "probe_all", "set_aside")
_HOME: dict[str, str] = {**dict.fromkeys(_LOADING, "loading"), **dict.fromkeys(_PROBING, "probing")}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used (PEP 562): `zoo list` only needs `registries`, and must be fast."""
    if name in __all__:
        return getattr(import_module(f".{_HOME.get(name, 'finding')}", __name__), name)
    raise AttributeError(f"module 'zoo.plugins' has no attribute '{name}'")
