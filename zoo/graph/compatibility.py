"""The old home of names that moved: to `zoo.graph.walk` (reading a graph) and `zoo.ship.compatibility` (reports).

Kept for plugins written for contract 1 and 2, with a warning.
"""

import warnings
from importlib import import_module
from typing import Any

_HOMES = dict.fromkeys(("graphs_of", "nodes_of", "weight_files"), "zoo.graph.walk") | dict.fromkeys(
    ("CONTROL_FLOW", "TaskReport", "report_on", "running_parts"), "zoo.ship.compatibility"
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo.graph.compatibility' has no attribute '{name}'")
    message = f"zoo.graph.compatibility.{name} is now {_HOMES[name]}.{name}"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(import_module(_HOMES[name]), name)
