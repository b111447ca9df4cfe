"""The default registry: a list in the core, and the models that distributions of their own bring."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from tests import tiny
from tests.cli.commands import zoo
from zoo.errors import IntegrityError, InvalidFileError, NotFoundError
from zoo.formats import registry
from zoo.plugins import PluginRegistry
from zoo.store import catalogue, default, listing
from zoo.store.locate import locate
from zoo.system import installation, places


@pytest.fixture
def lab(tmp_path) -> Path:
    """A checkout with two models, one of them in two versions."""
    bundles = tmp_path / "bundles"
    return tiny.registry(
        tmp_path / "checkout",
        tiny.bundle(bundles / "1", name="cat"),
        tiny.bundle(bundles / "2", name="cat", version=2, seed=1),
        tiny.bundle(bundles / "3", name="dog.big"),
    )


@pytest.fixture
def brought(monkeypatch) -> list[PluginRegistry]:
    """What installed distributions bring; tests add to it."""
    found: list[PluginRegistry] = []
    monkeypatch.setattr("zoo.plugins.registries", lambda: found, raising=False)
    return found


@pytest.fixture(autouse=True)
def core(tmp_path, lab, brought, monkeypatch) -> Path:
    """An installed core: it has the list as JSON, and no model."""
    core = tmp_path / "core"
    core.mkdir()
    (core / "registry.json").write_bytes(msgspec.json.encode(registry.read(lab, "x").document))
    monkeypatch.setattr(places, "default_folder", lambda: core)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ZOO_ISOLATE")
    return core


def distribution(lab: Path, site: Path, name: str, version: int, distribution: str = "") -> PluginRegistry:
    """A model's distribution, with the files of one version."""
    distribution = distribution or f"genzoo-{name.replace('.', '-')}"
    folder = site / distribution.replace("-", "_")
    place = f"models/{name}/{version}"
    shutil.copytree(lab / place, folder / place)
    return PluginRegistry(name="default", distribution=distribution, version=f"{version}.0", folder=folder)


def test_a_distribution_brings_its_model_and_it_runs_in_process(lab, brought, tmp_path):
    brought += [distribution(lab, tmp_path, "cat", 2), distribution(lab, tmp_path, "dog.big", 1)]
    assert [model.reference for model in listing.models()] == ["cat:2", "dog.big:1"]
    bundle = locate("cat")
    assert (bundle.reference, bundle.worker) == ("cat:2", None)
    assert bundle.folder == tmp_path / "genzoo_cat" / "models" / "cat" / "2"
    assert locate("default/dog.big").worker is None
    assert not (tmp_path / "home").exists()


def test_an_older_version_can_be_installed_instead(lab, brought, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.system.installation.direct_url", dict)
    monkeypatch.setattr("zoo.system.model_distributions._tool", lambda: "pip")
    brought.append(distribution(lab, tmp_path, "cat", 1))
    assert locate("cat").reference == "cat:1"
    with pytest.raises(NotFoundError, match=r"^cat is not installed; run: pip install genzoo-cat$"):
        locate("cat:2")
    with pytest.raises(NotFoundError, match=r"cat has no version 3 in registry 'default'; versions there: 1$"):
        locate("cat:3")


def test_verify_checks_a_model_once_that_is_in_a_checkout_and_installed(lab, brought, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "default_folder", lambda: lab)
    brought.append(distribution(lab, tmp_path, "cat", 2))
    done = zoo("verify", "--json")
    assert done.code == 0, done.err
    assert sorted(row["model"] for row in json.loads(done.out)) == ["cat:1", "cat:2", "dog.big:1"]


def test_a_model_that_is_not_installed_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr("zoo.system.installation.direct_url", dict)
    monkeypatch.setattr("zoo.system.model_distributions._tool", lambda: "pip")
    for text in ("cat", "cat:2", "default/cat"):
        with pytest.raises(NotFoundError) as caught:
            locate(text)
        assert str(caught.value) == "cat is not installed; run: pip install genzoo-cat"
    with pytest.raises(NotFoundError, match="^cat:1 is not installed; run: pip install genzoo-cat==1.0$"):
        locate("cat:1")
    with monkeypatch.context() as patch:  # a clone has only the newest
        patch.setattr("zoo.system.model_distributions._source", lambda model: f"/clone/models/{model}")
        with pytest.raises(NotFoundError, match="^cat of registry 'default' is not installed$"):
            locate("cat:1")
    with pytest.raises(NotFoundError, match="run: pip install genzoo-dog-big"):
        locate("dog.big")
    for text in ("cow", "lab/cat"):
        with pytest.raises(NotFoundError, match="no model 'cow'|no registry 'lab'"):
            locate(text)


def test_a_list_without_models_says_how_to_install_one(lab, brought, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.system.installation.direct_url", dict)
    monkeypatch.setattr("zoo.system.model_distributions._tool", lambda: "pip")
    done = zoo("list")
    assert (done.code, done.out) == (0, "")
    assert done.err == "not installed: cat, dog.big; to install one: pip install genzoo-cat\n"
    assert zoo("list", "--json").out == "[]\n"
    brought.append(distribution(lab, tmp_path, "cat", 2))
    done = zoo("list")
    assert [line.split()[0] for line in done.out.splitlines()] == ["model", "cat:2"]
    assert done.err == "not installed: dog.big; to install one: pip install genzoo-dog-big\n"
    assert zoo("list", "cat").err == ""
    brought.append(distribution(lab, tmp_path, "dog.big", 1))
    assert zoo("list").err == ""


def test_another_distribution_cannot_claim_a_model(lab, brought, tmp_path, caplog):
    brought += [
        distribution(lab, tmp_path, "cat", 2, "evil"),
        PluginRegistry(name="default", distribution="genzoo-cow", version="1.0", folder=tmp_path),
        PluginRegistry(name="default", distribution="genzoo-cat", version="3.0", folder=tmp_path / "empty"),
        PluginRegistry(name="default", distribution="genzoo-dog-big", version="1.0", folder=None),
    ]
    assert listing.models() == []
    assert [record.getMessage() for record in caplog.records] == [
        *(
            f"skipping the model of {name} {version}, which this zoo does not list: upgrade it and zoo"
            f" (pip install -U {name} genzoo) or remove it (pip uninstall {name})"
            for name, version in (("evil", "2.0"), ("genzoo-cow", "1.0"), ("genzoo-cat", "3.0"))
        ),
        "skipping the model of genzoo-dog-big 1.0, whose files are missing: reinstall it"
        " (pip install --force-reinstall --no-deps genzoo-dog-big)",
    ]


@pytest.mark.parametrize("name", ["model.yaml", "double.onnx", "model.safetensors"])
def test_other_bytes_under_the_name_of_a_model_do_not_run(lab, brought, tmp_path, name):
    """A distribution of the right name is not enough: what it brings must have the digest that the core lists."""
    other = tiny.bundle(tmp_path / "other", name="dog.big", seed=7)
    brought.append(distribution(lab, tmp_path, "dog.big", 1))
    file = tmp_path / "genzoo_dog_big" / "models" / "dog.big" / "1" / name
    same = file.read_bytes() == (other / name).read_bytes()
    file.write_bytes((other / name).read_bytes() + (b"\0" if same else b""))
    with pytest.raises(IntegrityError, match=f"dog.big:1: .*{name}"):
        locate("dog.big")


def test_no_other_registry_gets_the_name_of_a_model_that_is_not_installed(lab, tmp_path):
    other = tiny.registry(tmp_path / "other", tiny.bundle(tmp_path / "other-cat", name="cat", version=9, seed=9))
    catalogue.add("evil", str(other))
    for text in ("cat", "cat:9", f"cat@sha256:{'9' * 64}"):
        with pytest.raises(NotFoundError, match="^cat( of registry 'default')? is not installed"):
            locate(text)
    assert locate("evil/cat").worker
    with pytest.raises(NotFoundError, match="^cat is not installed; run: "):
        locate("cat")  # now it is pulled
    assert locate("cat", registries=[str(other)]).reference == "evil/cat:9"  # asked for


def test_no_plugins_keeps_our_own_models(tmp_path, monkeypatch):
    from tests.fake_plugins import install
    from zoo.plugins.finding import registries

    install(tmp_path / "site", "one", extra="[zoo.registry]\ndefault = zoo_one\nmine = zoo_one\n")
    monkeypatch.syspath_prepend(tmp_path / "site")

    def names() -> list[str]:
        return [found.name for found in registries() if found.distribution == "zoo-one"]

    assert names() == ["default", "mine"]
    monkeypatch.setenv("ZOO_NO_PLUGINS", "1")
    assert names() == ["default"]


def test_a_checkout_has_all_models_and_installed_ones_count_first(lab, brought, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "default_folder", lambda: lab)
    brought.append(distribution(lab, tmp_path, "cat", 1))
    assert locate("cat:1").folder.is_relative_to(tmp_path / "genzoo_cat")
    assert locate("cat").folder == lab / "models" / "cat" / "2"  # the highest version of all parts
    assert sorted(m.reference for m in listing.models(all_versions=True)) == ["cat:1", "cat:2", "dog.big:1"]
    assert default.absent([]) == []


def test_the_registry_is_shown_as_one(lab, brought, tmp_path):
    brought += [distribution(lab, tmp_path, "cat", 2), distribution(lab, tmp_path, "dog.big", 1)]
    (row,) = json.loads(zoo("registry", "list", "--json").out)
    assert (row["name"], row["models"], row["in_process"]) == ("default", 2, True)
    assert not [r for r in json.loads(zoo("plugin", "list", "--json").out) if r["registry"]]


def test_a_damaged_list_is_one_line(core, caplog):
    (core / "registry.json").write_text("{")
    with pytest.raises(InvalidFileError, match=r"registry\.json cannot be read \(.*\); reinstall genzoo"):
        default.parts()
    assert catalogue.registries() == [] and "skipping the registry 'default'" in caplog.text


def test_names_of_distributions_begin_with_the_cores():
    assert places.distribution_of("a_b.c--d") == f"{installation.DISTRIBUTION}-a-b-c-d"
