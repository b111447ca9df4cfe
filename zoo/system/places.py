"""Standard folders on this machine: the store, and that of the default registry's list."""

import os
import re
from pathlib import Path

from ..errors import StoreError
from .paths import user_path

DEFAULT = "default"
"""The name of the default registry: the models that zoo itself lists."""

LIST = "registry.json"
"""Its list in an installed package; in a checkout it is the registry.yaml that models are published into."""


def distribution_of(model: str) -> str:
    """The distribution that brings a model of the default registry: `genzoo-ddpm-fashion`."""
    return f"genzoo-{re.sub('[-_.]+', '-', model)}"


def home() -> Path:
    """`$ZOO_HOME`, else `$XDG_DATA_HOME/zoo`, else `~/.local/share/zoo`."""
    if home := os.environ.get("ZOO_HOME"):
        return user_path(home, out=True)
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "zoo"
    except RuntimeError:
        raise StoreError("there is no home folder to keep models in; set ZOO_HOME to a folder") from None


def default_folder() -> Path:
    """The folder that contains the default registry's list: an installed package, or the root of a checkout."""
    package = Path(__file__).parents[1]
    return package if (package / LIST).is_file() else package.parent
