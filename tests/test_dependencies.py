"""docs/dependencies.md says why each dependency is there."""

import re
import subprocess
import tomllib
from pathlib import Path

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
