import pytest

from tests import tiny
from tests.http_server import FaultServer
from zoo.errors import InvalidFileError, NotFoundError, StoreError, TransportError, UsageError
from zoo.plugins import PluginRegistry
from zoo.store import catalogue, transport


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty store, a default registry with `inside`, no plugin registries, short waits."""
    default = tiny.registry(tmp_path / "default", tiny.bundle(tmp_path / "b" / "inside", name="inside"))
    monkeypatch.setattr("zoo.system.places.default_folder", lambda: default)
    monkeypatch.setattr("zoo.plugins.registries", list, raising=False)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.01)
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path):
    return tiny.registry(tmp_path / "lab", tiny.bundle(tmp_path / "b" / "one"))


@pytest.fixture
def server(folder):
    with FaultServer(folder) as server:
        yield server


def names(*extra, **options):
    return [r.name for r in catalogue.registries(extra, **options)]


def test_default_registry_alone(home):
    assert names() == ["default"]
    assert not home.exists()


def test_added_folder_and_url_come_after_the_default(folder, server):
    catalogue.add("mine", str(folder))
    catalogue.add("lab", server.url(""))
    assert names() == ["default", "lab", "mine"]
    assert catalogue.added() == {"lab": server.url(), "mine": (folder / "registry.yaml").as_uri()}
    catalogue.remove("lab")
    assert names() == ["default", "mine"]


def test_given_with_the_call_comes_first_and_keeps_its_name(folder, server):
    (given,) = (r for r in catalogue.registries([str(folder)]) if r.name != "default")
    assert given.name.startswith("lab-") and names(str(folder)) == [given.name, "default"]
    assert names(str(folder / "registry.yaml")) == names(str(folder))
    assert names(server.url(""))[0].startswith("127-0-0-1-")
    catalogue.add("mine", str(folder))
    assert names(str(folder)) == ["mine", "default"]


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("https://h/models", "https://h/models/registry.yaml"),
        ("https://h/models/", "https://h/models/registry.yaml"),
        ("https://h/r/my.yaml", "https://h/r/my.yaml"),
        ("https://h/my.yaml?key=1", "https://h/my.yaml?key=1"),
        ("file:///a/b", "file:///a/b/registry.yaml"),
        ("/a b/c", "file:///a%20b/c/registry.yaml"),
    ],
)
def test_place_becomes_the_url_of_the_file(place, url):
    assert catalogue.place_url(place) == url


@pytest.mark.parametrize("place", ["ftp://h/x", "s3://bucket", "javascript://x"])
def test_place_of_another_kind_is_refused(place):
    with pytest.raises(UsageError, match="is not a registry"):
        catalogue.place_url(place)


@pytest.mark.parametrize("place", ["http://[", "https://[::1/registry.yaml", "http://h:99999/", "file://[/x"])
def test_place_that_is_not_a_url_is_refused_in_one_line(place, home):
    with pytest.raises(UsageError, match="is not a URL"):
        catalogue.add("lab", place)
    with pytest.raises(UsageError, match="is not a URL"):
        catalogue.registries([place])
    assert not home.exists()


def test_added_registry_that_is_not_a_url_is_skipped_with_a_line(home, caplog):
    home.mkdir()
    (home / "registries.yaml").write_text("format: 1\nregistries: {bad: 'http://[', worse: 'file://[/x'}\n")
    assert names() == names(refresh=True) == ["default"]
    assert "skipping the registry 'bad'" in caplog.text and "skipping the registry 'worse'" in caplog.text


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "-x", "x" * 65, "a b", "\x1b[31m"])
def test_name_that_is_none_is_refused(name, folder, home):
    with pytest.raises(UsageError, match="is not a registry name"):
        catalogue.add(name, str(folder))
    assert not home.exists()


def test_name_that_is_taken_is_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="there is already a registry 'default'"):
        catalogue.add("default", str(folder))
    catalogue.add("lab", str(folder))
    catalogue.add("lab", str(folder))  # the same again changes nothing
    with pytest.raises(UsageError, match="there is already a registry 'lab'"):
        catalogue.add("lab", str(tmp_path / "default"))


def test_what_cannot_be_read_is_not_added(tmp_path, server):
    with pytest.raises(NotFoundError, match=r"is not a registry: it has no registry\.yaml"):
        catalogue.add("lab", str(tmp_path / "nowhere"))
    with pytest.raises(TransportError, match="answered 404"):
        catalogue.add("lab", server.url("nowhere/"))
    assert catalogue.added() == {}


def test_unknown_registry_cannot_be_removed(folder):
    catalogue.add("lab", str(folder))
    with pytest.raises(NotFoundError, match=r"no registry 'lob' was added; did you mean 'lab'\?"):
        catalogue.remove("lob")


# --- The kept copy ----------------------------------------------------------------------------------------------------


def test_only_a_refresh_asks_the_network(server):
    catalogue.add("lab", server.url())
    before = server.count()
    assert names() == ["default", "lab"]
    assert server.count() == before
    assert names(refresh=True) == ["default", "lab"]
    assert server.count() == before + 2  # registry.sig, which is not there, and registry.yaml


def test_refresh_shows_what_is_new(server, folder, tmp_path):
    catalogue.add("lab", server.url())
    tiny.registry(folder, tiny.bundle(tmp_path / "b" / "two", version=2))
    assert sorted(catalogue.registries()[1].document.models["tiny"].versions) == [1]
    assert sorted(catalogue.registries(refresh=True)[1].document.models["tiny"].versions) == [1, 2]
    assert sorted(catalogue.registries()[1].document.models["tiny"].versions) == [1, 2]


def test_without_network_the_kept_copy_serves(folder, caplog):
    with FaultServer(folder) as server:
        catalogue.add("lab", server.url())
    assert names(refresh=True) == ["default", "lab"]
    (line,) = caplog.messages
    assert (
        line.startswith("using the last copy of the registry 'lab', read on 20")
        and "no connection" in line
        and line.isprintable()
    )


@pytest.mark.parametrize("behaviour", ["html_page", "wrong_bytes", "endless", "missing", "gzipped"])
def test_registry_that_became_something_else_leaves_the_kept_copy(folder, behaviour, caplog):
    with FaultServer(folder) as server:
        catalogue.add("lab", server.url())
        url = server.url()
        server.content = {"registry.yaml": b"<html>" if behaviour == "html_page" else b"\0" * 2_000_000}
        assert [r.document.models.keys() for r in catalogue.registries(refresh=True)] == [{"inside"}, {"tiny"}]
        assert "using the last copy of the registry" in caplog.text
        with pytest.raises((TransportError, InvalidFileError)):
            catalogue.registries([url.replace("normal", behaviour)], refresh=True)


def test_registry_over_the_cap_is_refused(server):
    server.content = {"registry.yaml": b"#" * (1 << 20) + b"\n"}
    with pytest.raises(TransportError, match="more than the allowed 1,048,576 bytes"):
        catalogue.add("lab", server.url())


def test_published_version_that_changes_is_refused(server, folder, tmp_path, caplog):
    catalogue.add("lab", server.url())
    before = catalogue.registries()[1].document
    server.content = tiny.registry(tmp_path / "changed", tiny.bundle(tmp_path / "b" / "changed", seed=5))
    assert catalogue.registries(refresh=True)[1].document == before
    assert "lab/tiny:1 had the digest" in caplog.text and "a published version never changes" in caplog.text
    catalogue.registries([server.url()])  # the kept copy, no network


def test_kept_copy_of_another_url_does_not_stand_in(server, folder, home):
    catalogue.add("lab", server.url())
    catalogue.remove("lab")
    assert list((home / "registries").iterdir()) == []
    catalogue.add("lab", server.url())
    catalogue._write_list({"lab": "http://127.0.0.1:9/registry.yaml"})  # edited by hand
    assert names() == ["default"]


def test_remote_registry_cannot_name_local_files(server, folder):
    text = (folder / "registry.yaml").read_text()
    server.content = {"registry.yaml": text.replace("url: models/tiny/1/README.md", "url: file:///etc/passwd").encode()}
    catalogue.add("lab", server.url())
    remote = catalogue.registries()[1]
    with pytest.raises(InvalidFileError, match="has the scheme 'file'; it may be http or https"):
        remote.file_url(remote.document.models["tiny"].versions[1].files["README.md"])


# --- What is broken must not break the rest ---------------------------------------------------------------------------


def test_broken_folder_registry_is_left_out_in_one_line(folder, caplog):
    catalogue.add("lab", str(folder))
    (folder / "registry.yaml").write_text("models: [\x1b]0;owned")
    assert names() == ["default"]
    (line,) = caplog.messages
    assert line.startswith("skipping the registry 'lab': ") and line.isprintable()


def test_broken_default_registry_is_left_out(folder, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("zoo.system.places.default_folder", lambda: tmp_path / "nowhere")
    catalogue.add("lab", str(folder))
    assert names() == ["lab"]


def test_broken_list_of_registries_is_left_out(home, caplog):
    home.mkdir()
    (home / "registries.yaml").write_text("registries: 7\nformat: 1\n")
    assert names() == ["default"]
    assert "registries.yaml:1: registries: expected `object`" in caplog.text
    with pytest.raises(InvalidFileError):
        catalogue.added()


def test_given_with_the_call_and_broken_is_an_error(tmp_path):
    with pytest.raises(NotFoundError, match="is not a registry"):
        catalogue.registries([str(tmp_path / "nowhere")])


def test_plugin_registries(folder, monkeypatch, tmp_path, caplog):
    found = [
        PluginRegistry(name="carried", distribution="zoo-x", version="1", folder=folder),
        PluginRegistry(name="gone", distribution="zoo-y", version="1", folder=None),
        PluginRegistry(name="broken", distribution="zoo-z", version="1", folder=tmp_path),
        PluginRegistry(name="carried", distribution="zoo-late", version="1", folder=tmp_path / "other"),
        PluginRegistry(name="default", distribution="zoo-evil", version="1", folder=folder),  # can't take the name
    ]
    monkeypatch.setattr("zoo.plugins.registries", lambda: found)
    assert names() == ["default", "carried"]
    assert catalogue.registries()[0].document.models.keys() == {"inside"}
    assert "skipping the registry 'gone' of zoo-y" in caplog.text and "skipping the registry 'broken'" in caplog.text
    assert "skipping the registry 'carried' of zoo-late: zoo-x has that name" in caplog.text
    assert "skipping the model of zoo-evil 1, which this zoo does not list: " in caplog.text


def test_an_added_registry_whose_name_a_plugin_took_is_left_out_with_a_line(folder, server, monkeypatch, caplog):
    catalogue.add("lab", server.url())
    monkeypatch.setattr(
        "zoo.plugins.registries",
        lambda: [PluginRegistry(name="lab", distribution="zoo-x", version="1", folder=folder)],
    )
    assert [r.url for r in catalogue.registries() if r.name == "lab"] == [(folder / "registry.yaml").as_uri()]
    assert "skipping the added registry 'lab': zoo-x has that name" in caplog.text


def test_store_that_cannot_be_written_still_lists(server, home, caplog):
    home.write_text("a file")
    assert names(server.url())[1:] == ["default"]
    assert "was read, but no copy can be kept" in caplog.text
    with pytest.raises(StoreError):
        catalogue.add("lab", server.url())


def test_a_registry_with_a_token_is_private(tmp_path):
    (tmp_path / "home").mkdir()
    catalogue._write_list({"open": "https://h/registry.yaml"})
    assert (tmp_path / "home" / "registries.yaml").stat().st_mode & 0o044
    (tmp_path / "home" / "registries.yaml").unlink()
    catalogue._write_list({"signed": catalogue.place_url("https://h/?token=1")})
    assert (tmp_path / "home" / "registries.yaml").stat().st_mode & 0o077 == 0
    assert catalogue.added() == {"signed": "https://h/registry.yaml?token=1"}


@pytest.mark.parametrize("place", ["http://[::1", "ftp://h/x", "http:/h", "http://", "http://u:p@h/", "x://y", ""])
def test_a_place_that_is_no_registry_is_refused_before_it_is_read(place):
    with pytest.raises(UsageError):
        catalogue.place_url(place)
