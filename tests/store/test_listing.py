from pathlib import Path

import pytest

import zoo
from tests import tiny
from tests.http_server import FaultServer
from zoo.formats.registry import Entry
from zoo.store import catalogue
from zoo.store.listing import Models
from zoo.store.store import Store


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tiny.registry(tmp_path / "lab", tiny.bundle(tmp_path / "tiny"))


def test_the_default_registry_is_listed_with_what_people_choose_by():
    found = {model.name: model for model in zoo.models() if model.registry == "default"}
    model = found["ddpm-fashion"]
    assert (model.version, model.family, model.where) == (2, "ddpm", "in package")
    assert "generate" in model.tasks and "clothing" in model.summary and model.size > 10**6
    assert model.seconds and 0.01 < model.seconds < 10
    assert zoo.load(model.reference).reference == model.reference
    older = [m.version for m in zoo.models(all_versions=True) if m.name == "gan-fashion"]
    assert older == [3, 2, 1] and found["gan-fashion"].version == 3


def test_models_are_shown_as_a_table(registry: Path):
    text = repr(Models(model for model in zoo.models([str(registry)]) if model.name == "tiny"))
    assert len(text.splitlines()) == 1 and "/tiny:1  " in text and "  folder  " in text
    assert repr(Models()) == "no models"


def test_it_uses_no_network_unless_it_is_asked_to(registry: Path, caplog: pytest.LogCaptureFixture):
    with FaultServer(registry) as server:
        catalogue.add("lab", server.url("", "normal"))
        before = len(server.requests)
        assert "tiny" in [model.name for model in zoo.models()]
        assert len(server.requests) == before
        zoo.models(refresh=True)
        assert len(server.requests) > before

        before = len(server.requests)
        for copy in (Path(catalogue.home()) / "registries").glob("lab-*.yaml"):
            copy.unlink()
        assert "tiny" not in [model.name for model in zoo.models()]
        assert "skipping the registry 'lab': it was not read yet; `zoo list` reads it" in caplog.text
        assert len(server.requests) == before


def test_pulled_models_stay_when_their_registry_is_gone(registry: Path):
    catalogue.add("lab", str(registry))
    lab = next(found for found in catalogue.registries() if found.name == "lab")
    Store().pull(Entry(lab, "tiny", 1))
    catalogue.remove("lab")
    assert [(m.name, m.where) for m in zoo.models() if m.name == "tiny"] == [("tiny", "pulled")]


def test_a_registry_that_cannot_be_read_is_one_line(tmp_path: Path):
    with pytest.raises(zoo.ZooError) as caught:
        zoo.models([str(tmp_path / "none")])
    assert "\n" not in str(caught.value)
