"""Puts the default registry inside the wheel: the newest version of each model, and a registry.yaml that says so.

An editable install reads the registry at the checkout's root instead.
"""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MAX_BYTES = 60_000_000
INSIDE = "zoo/default_registry"


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        registry = yaml.safe_load((root / "registry.yaml").read_text())
        total = 0
        for model in registry["models"].values():
            newest = max(model["versions"], key=int)
            model["versions"] = {newest: model["versions"][newest]}
            for file in model["versions"][newest]["files"].values():
                path = root / file["url"]
                total += path.stat().st_size
                build_data["force_include"][str(path)] = f"{INSIDE}/{file['url']}"
        if total > MAX_BYTES:
            raise ValueError(f"the default registry has {total:,} bytes; a wheel embeds at most {MAX_BYTES:,}")
        self.folder = tempfile.TemporaryDirectory()
        pruned = Path(self.folder.name, "registry.yaml")
        pruned.write_text(yaml.safe_dump(registry, sort_keys=False, allow_unicode=True))
        build_data["force_include"][str(pruned)] = f"{INSIDE}/registry.yaml"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.folder.cleanup()
