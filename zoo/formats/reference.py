"""References, which users type to name a model: `[registry/]name[:version][@sha256:digest]`."""

import re
from dataclasses import dataclass

from ..errors import UsageError
from ..names import NAME
from ..system.urls import without_secrets
from ..text import safe_text

_REFERENCE = re.compile(
    rf"(?:(?P<registry>{NAME})/)?(?P<name>{NAME})(?::(?P<version>[1-9][0-9]{{0,8}}))?(?:@sha256:(?P<digest>[0-9a-f]{{64}}))?"
)


@dataclass(frozen=True)
class Reference:
    """`[registry/]name[:version][@sha256:digest]`."""

    name: str
    registry: str | None = None
    version: int | None = None
    digest: str | None = None

    @staticmethod
    def fits(text: str) -> bool:
        """Whether a text is a reference."""
        return _REFERENCE.fullmatch(text) is not None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Parses a reference."""
        if not (match := _REFERENCE.fullmatch(text)):
            given = safe_text(without_secrets(text))[:200]
            raise UsageError(f"'{given}' is not a model reference; use name, name:2, name@sha256:… or registry/name")
        version = match["version"]
        return cls(match["name"], match["registry"], int(version) if version else None, match["digest"])

    def __str__(self) -> str:
        registry = f"{self.registry}/" if self.registry else ""
        version = f":{self.version}" if self.version else ""
        digest = f"@sha256:{self.digest}" if self.digest else ""
        return f"{registry}{self.name}{version}{digest}"
