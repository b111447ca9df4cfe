"""The command that installs a model of the default registry here. The core contains none (docs/registry.md)."""

import json
import shlex
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .installation import DISTRIBUTION, _checkout, _tool, fitting_runtime
from .places import distribution_of


def model_command(model: str, version: int | None = None) -> str:
    """The command that adds a model to this installation: of pipx, uv or pip, from where zoo itself came.

    Args:
        version: an older version of the model, which only an index has: empty if zoo came from elsewhere.
    """
    source = _source(model)
    if version is not None:
        if source != distribution_of(model):
            return ""
        source += f"=={version}.0"
    tool, what = _tool(), shlex.quote(source)
    if tool == "pipx":
        return f"pipx inject {DISTRIBUTION} {what}"
    if tool == "uv tool":
        zoo = f"{_checkout() or DISTRIBUTION}[{fitting_runtime()}]"  # installed anew, without what was asked for before
        return f"uv tool install --with {what} {shlex.quote(zoo)}"
    return f"{tool} install {what}"


def _source(model: str) -> str:
    """What an installer takes for a model: of the folder or repository that zoo was installed from, else its name."""
    about = _direct_url()
    if "dir_info" in about:
        folder = Path(url2pathname(urlsplit(about["url"]).path), "models", model)
        if (folder / "pyproject.toml").is_file():
            return str(folder)
    if about.get("vcs_info", {}).get("vcs") == "git":
        at = f"{about['url']}@{about['vcs_info']['commit_id']}"
        return f"{distribution_of(model)} @ git+{at}#subdirectory=models/{model}"
    return distribution_of(model)


def _direct_url() -> dict[str, Any]:
    """What an installer wrote down about an installation from a folder or a repository; empty for one from an index."""
    with suppress(metadata.PackageNotFoundError, ValueError, OSError):
        about = json.loads(metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
        if isinstance(about, dict) and isinstance(about.get("url"), str):
            return about
    return {}
