"""docs/architecture.md shows the imports as they are: which folder of zoo/ uses which, without circles, ten deep.

Who may import whom is import-linter's to say (`make lint`); this keeps the page true.
"""

import re
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
MOST_FLOORS, MOST_ARROWS = 10, 100


def _room(module: str) -> str:
    """The folder, or the single module, of `zoo/` that a module is in; empty for `zoo` itself."""
    return [*module.split("."), ""][1]


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """What each room imports, imports inside functions included."""
    graph = grimp.build_graph("zoo", exclude_type_checking_imports=True, cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        here = found.setdefault(_room(module), set())
        here |= {_room(other) for other in graph.find_modules_directly_imported_by(module)}
    return {room: others - {room, ""} for room, others in found.items() if room}


def _written() -> str:
    return re.search(r"<!-- arrows -->\n(.*?)<!-- /arrows -->", PAGE.read_text(), re.DOTALL)[1]


def test_the_page_shows_the_imports(arrows):
    @cache
    def floor(room: str) -> int:
        return 1 + max(map(floor, arrows[room]), default=0)

    rooms = sorted(arrows, key=lambda room: (-floor(room), room))
    used = {room: ", ".join(f"`{other}`" for other in sorted(arrows[room])) for room in rooms}
    rows = [f"| `{room}` | {used[room] or 'nothing'} |" for room in rooms]
    table = "\n".join(["| folder or module | imports |", "|---|---|", *rows, ""])
    assert _written() == table, f"the table in docs/architecture.md is out of date; it is now:\n{table}"


def test_the_imports_are_few_and_shallow(arrows):
    @cache
    def floor(room: str, above: tuple[str, ...] = ()) -> int:
        assert room not in above, f"a circle: {' -> '.join((*above, room))}"
        return 1 + max((floor(other, (*above, room)) for other in arrows[room]), default=0)

    assert max(map(floor, arrows)) <= MOST_FLOORS
    assert sum(map(len, arrows.values())) < MOST_ARROWS


def test_the_page_names_every_folder_and_module():
    there = {path.name + "/" if path.is_dir() else path.name for path in (ROOT / "zoo").iterdir()}
    rooms = {name for name in there if not name.startswith(("_", "py.typed", "registry.json"))}
    assert {name for name in rooms if name not in PAGE.read_text()} == set()


def test_the_files_that_it_names_are_there():
    named = re.findall(r"`((?:zoo|plugins)/[\w/.]+\.(?:py|mjs))`", PAGE.read_text())
    assert len(named) > 20 and [name for name in named if not (ROOT / name).exists()] == []
