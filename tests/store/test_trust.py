"""Which models run in a worker process: all but those built in, of a marked registry, or made here."""

import pytest

from tests import tiny
from zoo.errors import UsageError
from zoo.formats import manifest
from zoo.store import catalogue, trust
from zoo.store.locate import locate


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    from zoo.graph import check
    from zoo.store import check_apart as apart

    default = tiny.registry(tmp_path / "default", tiny.bundle(tmp_path / "b" / "inside", name="inside"))
    monkeypatch.setattr("zoo.system.places.default_folder", lambda: default)
    monkeypatch.setattr("zoo.plugins.registries", list, raising=False)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ZOO_ISOLATE")
    monkeypatch.setattr(apart, "check_apart", lambda folder: check.check(folder, manifest.read(folder)))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path):
    return tiny.bundle(tmp_path / "b" / "one")


@pytest.fixture
def lab(tmp_path, folder):
    return tiny.registry(tmp_path / "lab", folder)


def apart(text: str, **options: object) -> bool:
    return locate(text, **options).worker is not None


def test_built_in_models_run_here(home):
    assert not apart("inside") and not home.exists()


def test_a_folder_of_a_stranger_runs_apart_until_it_was_made_here(folder, home):
    assert apart(str(folder))
    digest = manifest.digest((folder / "model.yaml").read_bytes())
    trust.remember(digest)
    assert not apart(str(folder)) and [path.name for path in (home / "made").iterdir()] == [digest]
    (folder / "model.yaml").write_text((folder / "model.yaml").read_text().replace("Doubles", "Doubled"))
    assert apart(str(folder))  # another digest: another model


def test_a_store_that_cannot_be_written_is_said_in_one_line(home, caplog):
    home.write_text("a file")
    trust.remember("0" * 64)
    assert [r.getMessage().count("this model will run in a worker process") for r in caplog.records] == [1]


def test_pulled_models_run_apart_unless_their_registry_is_marked(lab):
    catalogue.add("lab", str(lab))
    assert apart("lab/tiny")
    catalogue.add("lab", str(lab), in_process=True)
    assert not apart("lab/tiny")
    catalogue.add("lab", str(lab))  # takes the mark away again
    assert apart("lab/tiny")


def test_the_mark_ends_with_the_registry_and_holds_for_its_url_only(lab, tmp_path):
    catalogue.add("lab", str(lab), in_process=True)
    assert not apart("lab/tiny")
    assert catalogue.in_process("lab", catalogue.place_url(str(lab)))
    assert not catalogue.in_process("lab", catalogue.place_url(str(tmp_path)))
    catalogue.remove("lab")
    assert apart("lab/tiny")  # the model is still in the store
    catalogue.add("lab", str(lab))
    assert apart("lab/tiny")


def test_marks_of_other_registries_stay(lab, tmp_path):
    catalogue.add("lab", str(lab), in_process=True)
    catalogue.add("more", str(tmp_path / "default"))
    catalogue.remove("more")
    assert not apart("lab/tiny")


def test_a_registry_given_with_the_call_is_a_stranger(lab):
    assert apart("tiny", registries=[str(lab)])


def test_the_caller_decides_before_the_environment(folder, monkeypatch):
    for value, expected in (("1", True), ("0", False)):
        monkeypatch.setenv("ZOO_ISOLATE", value)
        assert apart("inside") == apart(str(folder)) == expected
        assert apart("inside", isolated=True) and not apart(str(folder), isolated=False)
    monkeypatch.setenv("ZOO_ISOLATE", "yes")
    with pytest.raises(UsageError, match="^ZOO_ISOLATE is 'yes'; it must be 1 "):
        locate("inside")
