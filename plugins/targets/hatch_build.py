"""Fetches the browser's runtime before the package is built. An editable install only warns if that fails."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        spec = importlib.util.spec_from_file_location("browser_runtime", Path(self.root, "browser_runtime.py"))
        assert spec and spec.loader  # it is a file
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        try:
            module.fetch()
        except RuntimeError as e:
            if version != "editable":
                raise
            print(f"warning: {e}; the target web will not work", file=sys.stderr)
