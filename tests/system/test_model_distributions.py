"""The command that installs a model fits the installation of zoo."""

from pathlib import Path

import pytest

from zoo.system import installation, model_distributions
from zoo.system.model_distributions import model_command

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("tool", "about", "command"),
    [
        ("pip", {}, "pip install genzoo-ddpm-fashion"),
        ("uv pip", {}, "uv pip install genzoo-ddpm-fashion"),
        ("pipx", {}, "pipx inject genzoo genzoo-ddpm-fashion"),
        ("uv tool", {}, "uv tool install --with genzoo-ddpm-fashion 'genzoo[cpu]'"),
        ("pip", {"url": "file:///w/genzoo.whl", "archive_info": {}}, "pip install genzoo-ddpm-fashion"),
        ("pip", {"url": "file:///gone", "dir_info": {}}, "pip install genzoo-ddpm-fashion"),
        (
            "pip",
            {"url": "https://example.org/zoo.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            f"pip install 'genzoo-ddpm-fashion @ git+https://example.org/zoo.git@{COMMIT}#subdirectory=models/ddpm-fashion'",
        ),
    ],
)
def test_the_command_fits_the_installation(monkeypatch, tool: str, about: dict, command: str):
    monkeypatch.setattr(model_distributions, "_tool", lambda: tool)
    monkeypatch.setattr(model_distributions, "direct_url", lambda: about)
    monkeypatch.setattr(installation, "direct_url", lambda: about)
    monkeypatch.setattr(installation, "fitting_runtime", lambda: "cpu")
    assert model_command("ddpm-fashion") == command


def test_a_clone_that_zoo_was_installed_from_has_the_model(monkeypatch, tmp_path: Path):
    folder = tmp_path / "my clone" / "models" / "a.b"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    about = {"url": (tmp_path / "my clone").as_uri(), "dir_info": {}}
    monkeypatch.setattr(installation, "direct_url", lambda: about)
    monkeypatch.setattr(model_distributions, "_tool", lambda: "pip")
    assert model_command("a.b") == f"pip install '{folder}'"
    assert model_command("c") == "pip install genzoo-c"
