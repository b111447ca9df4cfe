"""How zoo is installed here: which ONNX Runtime it has, and which command adds an extra to it."""

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..text import one_line, warn
from .gpus import nvidia_gpus

DISTRIBUTION = "genzoo"
"""The name under which zoo itself is installed."""

RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)
"""Distributions that all install the module `onnxruntime`: one overwrites the other's files."""

_RUNTIME_OF = {"cpu": "onnxruntime", "cuda": "onnxruntime-gpu"}


# --- Extras -----------------------------------------------------------------------------------------------------------


def missing_module(error: ModuleNotFoundError) -> str | None:
    """The line for a module that an extra of zoo would bring, with the command that installs it; None for others."""
    package = (error.name or "").partition(".")[0]
    if package == "onnxruntime":
        return ": ".join(runtime_problem(error))
    extra = _extra_with(package)
    return f"this needs {package}, which is not installed: {install_command(extra)}" if extra else None


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation: of pipx, uv or pip, from where zoo itself came.

    It adds the extra with ONNX Runtime if there would be none afterwards: pipx and `uv tool` install everything anew.
    """
    tool, extras = _tool(), [extra]
    if tool == "uv tool":
        return uv_tool_command(extra)
    if extra not in _RUNTIME_OF and (tool == "pipx" or not runtimes()):
        extras.append(fitting_runtime())
    return f"{tool} install {'--force ' if tool == 'pipx' else ''}{shlex.join(_zoo(extras))}"


def uv_tool_command(extra: str = "", package: str = "") -> str:
    """The command that adds an extra of zoo, or another package, to an environment of `uv tool`.

    uv removes what a command does not name, so it names everything that was asked for before: uv-receipt.toml has it.
    """
    asked = _uv_receipt()
    kept = [e for item in asked if item["name"] == DISTRIBUTION for e in item.get("extras", ())]
    if extra in _RUNTIME_OF:
        kept = [e for e in kept if e not in _RUNTIME_OF]  # one replaces the other
    extras = list(dict.fromkeys([extra, *kept] if extra else kept))
    if not _RUNTIME_OF.keys() & extras:
        extras.append(fitting_runtime())
    others = [word for item in asked if item["name"] != DISTRIBUTION for word in _with(item)]
    words = [*(["--with", package] if package else []), *others, *_zoo(extras)]
    return f"uv tool install {shlex.join(words)}"


def _uv_receipt() -> list[dict[str, Any]]:
    """The packages that `uv tool` was asked for in this environment, as uv wrote them down."""
    import tomllib

    with suppress(OSError, ValueError, KeyError, TypeError):
        asked = tomllib.loads((Path(sys.prefix) / "uv-receipt.toml").read_text("utf-8"))["tool"]["requirements"]
        return [item for item in asked if isinstance(item, dict) and isinstance(item.get("name"), str)]
    return []


def _with(item: dict[str, Any]) -> list[str]:
    """The option of `uv tool install` that asks for a package of the receipt again."""
    extras = f"[{','.join(item['extras'])}]" if item.get("extras") else ""
    if folder := item.get("editable"):
        return ["--with-editable", folder + extras]
    if path := item.get("directory") or item.get("path"):
        return ["--with", path + extras]
    if url := item.get("url"):
        return ["--with", f"{item['name']}{extras} @ {url}"]
    if git := item.get("git"):
        from urllib.parse import parse_qsl

        address, _, query = git.partition("#")[0].partition("?")
        given = dict(parse_qsl(query))
        at = next((f"@{given[name]}" for name in ("rev", "tag", "branch") if name in given), "")
        inside = f"#subdirectory={given['subdirectory']}" if "subdirectory" in given else ""
        return ["--with", f"{item['name']}{extras} @ git+{address}{at}{inside}"]
    return ["--with", f"{item['name']}{extras}{item.get('specifier', '')}"]


def _zoo(extras: Iterable[str]) -> list[str]:
    """What an installer takes for zoo with extras: the folder, file or repository that it was installed from, else its
    name, which stands for an index."""
    from urllib.parse import urlsplit

    about, more = direct_url(), f"[{','.join(extras)}]"
    if folder := source_folder():
        return [*(["-e"] if about["dir_info"].get("editable") else []), f"{folder}{more}"]
    if about.get("vcs_info", {}).get("vcs") == "git":
        return [f"{DISTRIBUTION}{more} @ git+{about['url']}@{about['vcs_info']['commit_id']}"]
    if "archive_info" in about and (urlsplit(about["url"]).scheme != "file" or _path(about["url"]).is_file()):
        return [f"{DISTRIBUTION}{more} @ {about['url']}"]
    return [DISTRIBUTION + more]


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
    from importlib import metadata  # takes as long to import as click

    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires(DISTRIBUTION) or ():
            found = re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", line)
            if found and found[1].replace("-", "_").lower() == package.replace("-", "_").lower():
                return found[2]
    return None


def direct_url() -> dict[str, Any]:
    """What an installer wrote down about an installation from a folder, file or repository; empty for an index."""
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError, ValueError, OSError):
        about = json.loads(metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
        if isinstance(about, dict) and isinstance(about.get("url"), str):
            return about
    return {}


def source_folder() -> Path | None:
    """The folder that zoo was installed from, such as a clone, editable or not; None if there is none any more."""
    about = direct_url()
    folder = _path(about["url"]) if "dir_info" in about else None
    return folder if folder and folder.is_dir() else None


def _path(url: str) -> Path:
    from urllib.parse import urlsplit
    from urllib.request import url2pathname  # with all of HTTP: not for every run

    return Path(url2pathname(urlsplit(url).path))


# --- ONNX Runtime: one of two extras brings it ------------------------------------------------------------------------


def runtimes() -> dict[str, str]:
    """The installed distributions of ONNX Runtime with their versions: one, if all is well."""
    from importlib import metadata

    found = ((name, next(iter(metadata.distributions(name=name)), None)) for name in RUNTIMES)
    return {name: distribution.version for name, distribution in found if distribution}


def fitting_runtime() -> str:
    """The extra with the ONNX Runtime for this machine: `cuda` where an NVIDIA driver offers a GPU, else `cpu`.

    `cpu` as well where there is no onnxruntime-gpu for the system.
    """
    return "cuda" if has_cuda_build() and nvidia_gpus() else "cpu"


def has_cuda_build() -> bool:
    """Whether there is an onnxruntime-gpu for this system."""
    import platform

    return sys.platform in ("linux", "win32") and platform.machine().lower() in ("x86_64", "amd64")


def runtime_to_add() -> str:
    """The extra to install here, for scripts: the one that fits, or an empty text to keep another build that is there.

    Installing one never removes another, and two overwrite each other's files.
    """
    fitting = fitting_runtime()
    return fitting if runtimes().keys() <= {_RUNTIME_OF[fitting]} else ""


def runtime_command(extra: str = "") -> str:
    """The command after which one ONNX Runtime is installed: that of `cpu` or `cuda`, by default the one that fits.

    Uninstalling one build also removes files of any other, so all of them go if one has to.
    """
    extra = extra or fitting_runtime()
    found, tool, install = runtimes(), _tool(), install_command(extra)
    if found.keys() <= {_RUNTIME_OF[extra]} or tool == "pipx":
        return install
    if tool == "uv tool":
        return install.replace("install", "install --reinstall", 1)
    return f"{tool} uninstall {'-y ' if tool == 'pip' else ''}{' '.join(found)} && {install}"


def reinstall_command() -> str:
    """The command that installs the files of the installed ONNX Runtime again; of several, one stays."""
    found, tool = runtimes(), _tool()
    if len(found) != 1 or tool in ("pipx", "uv tool"):
        return runtime_command()
    again = "uv pip install --reinstall" if tool == "uv pip" else "pip install --force-reinstall"
    return f"{again} --no-deps {' '.join(found)}"


def runtime_problem(error: Exception | None = None) -> tuple[str, str]:
    """What is wrong with the installed ONNX Runtime, and the command that fixes it; two empty texts if nothing is.

    Args:
        error: of the import of `onnxruntime`, if it failed.
    """
    found = runtimes()
    named = " and ".join(f"{name} {version}" for name, version in found.items())
    if len(found) > 1:
        return f"{named} are both installed and overwrite each other's files", runtime_command()
    if not found and (error or not importlib.util.find_spec("onnxruntime")):
        return "this needs ONNX Runtime, which is not installed", runtime_command()
    if error:
        return f"{named} cannot be imported ({type(error).__name__}: {one_line(error)})", reinstall_command()
    return "", ""


@cache
def warn_of_mixed_runtimes() -> None:
    """Says once per process that several builds of ONNX Runtime overwrite each other's files, with the command.

    It looks at the names in one folder, which takes less than a millisecond: `zoo run` calls it.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec and spec.origin:
        found = Path(spec.origin).parents[1].glob("onnxruntime*.dist-info")
        if sum(path.name.partition("-")[0].replace("_", "-") in RUNTIMES for path in found) > 1:
            warn("%s: %s", *runtime_problem())
