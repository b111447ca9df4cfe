"""Standard folders on this machine: the store and the default registry."""

import os
from pathlib import Path

from ..errors import StoreError
from .paths import user_path


def home() -> Path:
    """`$ZOO_HOME`, else `$XDG_DATA_HOME/zoo`, else `~/.local/share/zoo`."""
    if home := os.environ.get("ZOO_HOME"):
        return user_path(home, out=True)
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "zoo"
    except RuntimeError:
        raise StoreError("there is no home folder to keep models in; set ZOO_HOME to a folder") from None


def default_folder() -> Path:
    """The default registry's folder: inside an installed package, or the root of a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "default_registry"
    return inside if inside.is_dir() else package.parent
