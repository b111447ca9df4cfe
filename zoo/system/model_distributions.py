"""The command that installs a model of the default registry here. The core contains none (docs/registry.md)."""

import shlex

from .installation import DISTRIBUTION, _tool, direct_url, source_folder, uv_tool_command
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
        return uv_tool_command(package=source)
    return f"{tool} install {what}"


def _source(model: str) -> str:
    """What an installer takes for a model: of the folder or repository that zoo was installed from, else its name."""
    about, zoo = direct_url(), source_folder()
    if zoo and (zoo / "models" / model / "pyproject.toml").is_file():
        return str(zoo / "models" / model)
    if about.get("vcs_info", {}).get("vcs") == "git":
        at = f"{about['url']}@{about['vcs_info']['commit_id']}"
        return f"{distribution_of(model)} @ git+{at}#subdirectory=models/{model}"
    return distribution_of(model)
