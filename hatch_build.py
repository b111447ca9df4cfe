"""Puts the list of the default registry into the wheel, as JSON, which is read 20 times as fast as YAML.

The models themselves are distributions of their own: models/hatch_build.py. An editable install reads the registry.yaml
and the models at the checkout's root instead.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = "zoo/registry.json"


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        listed = yaml.safe_load(Path(self.root, "registry.yaml").read_text(encoding="utf-8"))
        self.folder = tempfile.TemporaryDirectory()
        as_json = Path(self.folder.name, "registry.json")
        as_json.write_text(json.dumps(listed, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        build_data["force_include"][str(as_json)] = INSIDE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.folder.cleanup()
