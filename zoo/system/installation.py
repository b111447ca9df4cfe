"""How zoo is installed here, and so which command adds an extra to it."""

import json
import re
import shlex
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "genzoo"
"""The name under which zoo itself is installed."""


def missing_module(error: ModuleNotFoundError) -> str | None:
    """The line for a module that an extra of zoo would bring, with the command that installs it; None for others."""
    package = (error.name or "").partition(".")[0]
    extra = _extra_with(package)
    return f"this needs {package}, which is not installed: {install_command(extra)}" if extra else None


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation: of pipx, uv or pip, for a package or for a checkout."""
    tool, what = _tool(), shlex.quote(f"{_checkout() or DISTRIBUTION}[{extra}]")
    if tool == "pipx":
        return f"pipx install --force {what}"
    return f"{tool} install {'-e ' if _checkout() and tool != 'uv tool' else ''}{what}"


def _tool() -> str:
    """What made this environment: `pipx`, `uv tool`, `uv pip` or `pip`."""
    environment = Path(sys.prefix)
    if "pipx" in environment.parts:
        return "pipx"
    if environment.parent.parts[-2:] == ("uv", "tools"):
        return "uv tool"
    with suppress(OSError):  # no virtual environment
        if re.search(r"(?m)^uv = ", (environment / "pyvenv.cfg").read_text()):
            return "uv pip"
    return "pip"


def _extra_with(package: str) -> str | None:
    """The first extra that requires a package, which is called like its module but for `_` and `-`."""
    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires(DISTRIBUTION) or ():
            found = re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", line)
            if found and found[1].replace("-", "_").lower() == package.replace("-", "_").lower():
                return found[2]
    return None


def _checkout() -> str:
    """The folder of an editable installation; empty for others."""
    with suppress(metadata.PackageNotFoundError, ValueError, AttributeError, OSError):
        about = json.loads(metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
        if about.get("dir_info", {}).get("editable"):
            return url2pathname(urlsplit(about["url"]).path)
    return ""
