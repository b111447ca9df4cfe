import shutil
from pathlib import Path

import pytest

import zoo
from tests import tiny
from tests.http_server import serving
from zoo.store import catalogue


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
