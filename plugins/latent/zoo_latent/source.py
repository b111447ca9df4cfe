"""A folder of a diffusers pipeline: its configs, and its tensors by part."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor
from zoo_diffusion.layouts.common import read_json
from zoo_diffusion.layouts.scheduler import require

from zoo.errors import InvalidFileError
from zoo.text import safe_text

INDEX = "model_index.json"


@dataclass(frozen=True)
class Source:
    """What was read of a folder."""

    folder: Path
    index: Mapping[str, Any]  # its model_index.json
    every: Mapping[str, Tensor]  # `part.name`: tensor

    @property
    def layout(self) -> str:
        return f"diffusers {safe_text(self.index.get('_class_name'))}"

    def check(self, parts: Mapping[str, tuple[str, ...]]) -> None:
        """Refuses a pipeline without one of some parts, or where it is of another class than these."""
        for part, classes in parts.items():
            said = self.index.get(part)
            kind = said[1] if isinstance(said, list) and len(said) == 2 else None
            if kind is None or not (self.folder / part).is_dir():
                raise InvalidFileError(f"{self.layout}: {part} is missing; it must be a folder with a {classes[0]}")
            require({part: kind}, INDEX, **{part: classes})

    def tensors(self, part: str) -> dict[str, Tensor]:
        """A part's tensors, by their own names."""
        found = {n.removeprefix(f"{part}."): t for n, t in self.every.items() if n.startswith(f"{part}.")}
        if not found:
            raise InvalidFileError(f"{self.layout}: {part} is missing: its folder contains no weights")
        return found

    def config(self, part: str, classes: tuple[str, ...] = (), file: str = "config.json") -> dict[str, Any]:
        """A part's config, whose class is one of `classes`, if it names one."""
        config = read_json(self.folder / part / file)
        if config is None:
            raise InvalidFileError(f"{self.layout}: {part}/{file} is missing")
        if classes:
            require(config, f"{part}/{file}", _class_name=classes)
        return config


def converted(fields: Mapping[str, Any], schema: Any, where: str) -> Any:
    """The fields as a config of ours. InvalidFileError if one has a value that ours does not allow."""
    try:
        return msgspec.convert(fields, schema)
    except msgspec.ValidationError as e:
        raise InvalidFileError(f"{where} is one that this family does not support: {e}") from None
