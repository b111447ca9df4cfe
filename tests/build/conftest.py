"""New plugins with faults, for the tests of the conformance kit."""

import itertools
import sys
from collections.abc import Callable

import pytest

from zoo.build.conformance import Examination, Subject
from zoo.plugins import in_folder, scaffold

NUMBERS = itertools.count()

Fault = tuple[str, str, str]
"""A file, with `{package}` for the package's folder; what stands there, empty to append; and what to write instead."""


@pytest.fixture
def make_plugin(tmp_path, monkeypatch) -> Callable[..., Examination]:
    """Writes a new plugin, with faults if some are given, and gives its examination."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))

    def make(*faults: Fault, template: str = "minimal") -> Examination:
        family = f"fault{next(NUMBERS)}"  # a module is imported once a process
        folder = scaffold.write(family, template, tmp_path / "plugin")
        for name, sound, fault in faults:
            path = folder / name.format(package=f"zoo_{family}")
            path.parent.mkdir(exist_ok=True)
            text = path.read_text() if path.exists() else ""
            sound, fault = (
                part.replace("{package}", f"zoo_{family}").replace("{title}", family.title()) for part in (sound, fault)
            )
            assert not sound or text.count(sound) == 1
            path.write_text(text.replace(sound, fault) if sound else text + fault)
        [plugin] = in_folder(folder)
        return Examination(Subject(family, plugin, tmp_path / "bundles", commands=("list", "run")))

    return make
