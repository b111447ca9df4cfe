"""docs/dependencies.md says why each dependency is there."""

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

from zoo.system.installation import RUNTIMES

ROOT = Path(__file__).parents[1]


def declared() -> set[str]:
    """The third-party packages of all pyproject.toml files, with every extra."""
    requirements: list[str] = []
    for path in [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text())["project"]
        requirements += project.get("dependencies", [])
        requirements += [one for extra in project.get("optional-dependencies", {}).values() for one in extra]
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}
    return {name for name in names if not name.startswith(("genzoo", "zoo-"))}


def test_every_dependency_has_its_reason():
    rows = re.findall(r"(?m)^\| ([^|]+) \| [^|]+ \|$", (ROOT / "docs" / "dependencies.md").read_text())
    explained = {name for row in rows for name in re.findall(r"[\w.-]+", row)}
    assert len(declared()) > 20 and declared() <= explained, declared() - explained


def test_no_hint_sends_people_to_another_package():
    """`zoo` on the public index is somebody else's; ours is `genzoo`."""
    other = re.compile(r"(?<!un)install (?:-U |--force-reinstall |-e )*['\"]?zoo(?![\w./-])|(?<![\w-])zoo\[[a-z]+\]")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [
        ROOT / name for name in listed.split("\0") if name.endswith((".py", ".md", ".toml", ".jinja", ".in", ".yml"))
    ]
    told = {Path(__file__), ROOT / "docs" / "decisions" / "0018-distribution-name.md"}  # they say which one it is not
    wrong = {path.name: found[0] for path in paths if path not in told and (found := other.search(path.read_text()))}
    assert len(paths) > 200 and wrong == {}


def test_only_two_extras_bring_a_runtime():
    """Two builds of ONNX Runtime overwrite each other's files, so nothing else may require one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"core": project["dependencies"], **project["optional-dependencies"]}
    for path in [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("docs/examples/*/pyproject.toml")]:
        lists[path.parent.name] = tomllib.loads(path.read_text())["project"]["dependencies"]
    bring = re.compile(r"onnxruntime|genzoo\[.*\b(cpu|cuda)\b")
    assert {name for name, lines in lists.items() if any(map(bring.match, lines))} == {"cpu", "cuda"}
    assert {requirement.split(">=")[0] for requirement in lists["cpu"]} == {"onnxruntime"}


def test_no_installed_package_requires_a_runtime():
    """A dependency's dependency would install a second one. Those of extras that zoo does not ask for do not count."""
    names = "|".join(sorted(RUNTIMES, key=len, reverse=True))
    brings = re.compile(rf"({names})(?![\w-])(?!.*extra ==)")
    found = {d.name: line for d in metadata.distributions() for line in d.requires or () if brings.match(line)}
    assert brings.match("onnxruntime>=1.2; python_version > '3'") and found == {}
