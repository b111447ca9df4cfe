"""Makes the distribution of a model, `genzoo-<name>`: the newest version that registry.yaml lists, with its files.

The pyproject.toml next to a model's versions is the same for all but for two lines: the distribution's name, and the
first zoo that lists the newest version. Its number is the model's: genzoo-gan-fashion 2.0 contains gan-fashion:2.
"""

import hashlib
from pathlib import Path
from typing import Any

import yaml
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).resolve().parents[1]


def read(folder: str) -> tuple[dict[str, Any], str]:
    """What registry.yaml says about the model of a folder `models/<name>`, and its newest version."""
    listed = yaml.safe_load((ROOT / "registry.yaml").read_text(encoding="utf-8"))["models"]
    model = listed[Path(folder).name]
    return model, max(model["versions"], key=int)


class Metadata(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        model, newest = read(self.root)
        metadata["version"] = f"{newest}.0"
        metadata["description"] = f"{Path(self.root).name}, a model for zoo: {model['summary']}"
        metadata["readme"] = f"{newest}/README.md"
        metadata["license"] = model["license"]
        metadata["entry-points"] = {"zoo.registry": {"default": metadata["name"].replace("-", "_")}}


class Files(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        model, newest = read(self.root)
        package = self.metadata.name.replace("-", "_")
        for file in model["versions"][newest]["files"].values():
            path = ROOT / file["url"]
            if hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
                raise ValueError(f"{path} is not the file that registry.yaml lists")
            build_data["force_include"][str(path)] = f"{package}/{file['url']}"
        if model["license"] == "Apache-2.0":
            build_data["force_include"][str(ROOT / "LICENSE")] = f"{package}/LICENSE"
