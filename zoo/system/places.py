"""Standard folders on this machine: the store and the default registry; and the paths of file URLs."""

import os
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import InvalidFileError, StoreError
from ..text import safe_text


def home() -> Path:
    """`$ZOO_HOME`, else `$XDG_DATA_HOME/zoo`, else `~/.local/share/zoo`."""
    if home := os.environ.get("ZOO_HOME"):
        return Path(home).expanduser()
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "zoo"
    except RuntimeError:
        raise StoreError("there is no home folder to keep models in; set ZOO_HOME to a folder") from None


def default_folder() -> Path:
    """The default registry's folder: inside an installed package, or the root of a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "default_registry"
    return inside if inside.is_dir() else package.parent


def split_url(url: str) -> SplitResult:
    """A URL's parts.

    Raises:
        InvalidFileError: it is not a URL: brackets that do not match, a port that is not one, characters that become
            separators.
    """
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError:
        raise InvalidFileError(f"'{safe_text(url)[:200]}' is not a URL") from None
    return parts


def path_of(url: str) -> Path:
    """The path of a file:// URL."""
    parts = split_url(url)
    if parts.netloc not in ("", "localhost"):
        raise InvalidFileError(f"{safe_text(url)}: a file URL must not name a host")
    path = unquote(parts.path)
    if "\0" in path:
        raise InvalidFileError(f"{safe_text(url)}: a path cannot contain a NUL")
    return Path(path)
