"""The conformance kit as a pytest plugin: a plugin's own tests are three lines.

    import pytest

    @pytest.mark.zoo("tiny")
    def test_it_keeps_the_contract(zoo_check):
        zoo_check()

Each check of each family named in the mark becomes a separate test. pytest finds this module automatically, through
zoo's entry point for it. The checks are those of `zoo plugin check`; they are in zoo/build/conformance.py.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .build.conformance import Examination


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "zoo(*families): run zoo's conformance kit on these installed families")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per family and check."""
    if "zoo_check" not in metafunc.fixturenames:
        return
    from .build.conformance import CHECKS

    families = [family for mark in metafunc.definition.iter_markers("zoo") for family in mark.args]
    if not families:
        raise pytest.UsageError(f"{metafunc.definition.nodeid} uses zoo_check: name a family with @pytest.mark.zoo")
    cases = [(family, check.name) for family in families for check in CHECKS]
    metafunc.parametrize("zoo_check", cases, indirect=True, ids=[f"{f}-{name.replace(' ', '-')}" for f, name in cases])


@pytest.fixture(scope="session")
def _zoo_examination() -> "Iterator[Callable[[str], Examination]]":
    """The examination of a family, shared by all its tests."""
    from .build.conformance import Examination, Subject
    from .plugins import candidate

    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        yield cache(lambda family: Examination(Subject(family, candidate(family), Path(folder, family))))


@pytest.fixture
def zoo_check(request: pytest.FixtureRequest, _zoo_examination: "Callable[[str], Examination]") -> Callable[[], None]:
    """Call it to run the check: a failure shows the finding, the line of the plugin's code, and the docs section."""
    family, name = request.param

    def check() -> None:
        outcome = _zoo_examination(family).outcome(name)
        if outcome.verdict != "pass":
            pytest.fail(f"{family}, {name}: {outcome.line}", pytrace=False)

    return check
