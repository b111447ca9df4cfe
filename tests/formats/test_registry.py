import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.clean import is_clean
from zoo.errors import IntegrityError, InvalidFileError, NotFoundError, StoreError, UsageError, ZooError
from zoo.formats import manifest, registry, strictyaml
from zoo.formats.reference import Reference
from zoo.formats.registry import Entry, Registry, RegistryDocument, RegistryFile, RegistryModel, RegistryVersion
from zoo.system import places

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
versions = st.integers(1, 999_999_999)
lines = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), min_size=1, max_size=60
)
reserved = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", re.IGNORECASE)  # by Windows
file_names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}[a-z]x", fullmatch=True).filter(
    lambda name: not reserved.match(name)
)
files = st.builds(RegistryFile, size=st.integers(0, 1 << 50), sha256=digests, url=lines)


@st.composite
def registry_versions(draw):
    listed = draw(
        st.dictionaries(file_names, files, max_size=3).filter(lambda d: len({n.lower() for n in d}) == len(d))
    )
    own = draw(files)
    return RegistryVersion(digest=own.sha256, files={"model.yaml": own, **listed})


models = st.builds(
    RegistryModel,
    summary=lines,
    family=names,
    license=lines,
    tasks=st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True), max_size=3).map(tuple),
    versions=st.dictionaries(versions, registry_versions(), min_size=1, max_size=3),
)
documents = st.builds(RegistryDocument, format=st.just(1), models=st.dictionaries(names, models, max_size=3))


@settings(max_examples=30)
@given(documents)
def test_what_is_written_is_read_back(document):
    data = strictyaml.dump(document)
    assert registry.parse(data, "lab", "https://h/registry.yaml").document == document


@given(st.builds(Reference, names, st.none() | names, st.none() | versions, st.none() | digests))
def test_reference_is_read_back(reference):
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_one_printable_line(text):
    try:
        assert str(Reference.parse(text)) == text
    except UsageError as e:
        assert is_clean(e)


@pytest.mark.parametrize(
    "text",
    ["", "A", "a b", "a:", "a:0", "a:01", "a:-1", "a:1.0", "a:1e3", "a@", "a@sha256:", "a@sha256:" + "A" * 64,
     "a@sha512:" + "a" * 64, "a@sha256:" + "a" * 63, "a/b/c", "/a", "a/", "../a", "./a", "-a", ".a", "_a", "a\n", "a\0",
     "a:1\n", "\u0430", "a" * 65, "a:9999999999", "a@sha256:" + "a" * 64 + ":1", "a%2fb", "a\\b", "C:\\a", "~a",
     "$(a)"],
)  # fmt: skip
def test_what_is_no_reference(text):
    with pytest.raises(UsageError, match="is not a model reference; use name"):
        Reference.parse(text)


# --- Resolving --------------------------------------------------------------------------------------------------------


def make(name: str, *, url: str = "https://h/registry.yaml", **models_: dict[int, str]) -> Registry:
    """A registry of models, each with its versions and the digit that the version's digest is made of."""
    document = RegistryDocument(
        format=1,
        models={
            model: RegistryModel(
                summary="s",
                family="f",
                license="MIT",
                tasks=("run",),
                versions={
                    number: RegistryVersion(
                        digest=digit * 64,
                        files={"model.yaml": RegistryFile(size=1, sha256=digit * 64, url="model.yaml")},
                    )
                    for number, digit in numbers.items()
                },
            )
            for model, numbers in models_.items()
        },
    )
    return Registry(name, url, document)


KNOWN = [make("default", cat={1: "a", 2: "b", 10: "c"}), make("lab", cat={3: "d"}, dog={1: "e"})]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cat", "cat:10"), ("cat:2", "cat:2"), ("lab/cat", "lab/cat:3"), ("dog", "lab/dog:1"),
        ("cat@sha256:" + "a" * 64, "cat:1"), ("cat:1@sha256:" + "a" * 64, "cat:1"),
        ("lab/cat@sha256:" + "d" * 64, "lab/cat:3"),
    ],
)  # fmt: skip
def test_highest_version_of_the_first_registry_that_has_it(text, found):
    entry = registry.resolve(Reference.parse(text), KNOWN)
    assert str(entry) == found
    assert registry.resolve(entry.reference, KNOWN) == entry


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cta", "no model 'cta' in registry 'default', registry 'lab'; did you mean 'cat'?"),
        ("zebra", "`zoo list` lists all models"),
        ("lob/cat", "no registry 'lob'; there are default, lab; did you mean 'lab'?"),
        ("cat:3", "cat has no version 3 in registry 'default'; versions there: 1, 2, 10"),
        ("lab/cat:7", "cat has no version 7 in registry 'lab'; versions there: 3"),
        ("cat@sha256:" + "d" * 64, "cat has no digest dddddddddddd… in registry 'default'"),
        ("cat:2@sha256:" + "a" * 64, "cat has no digest aaaaaaaaaaaa…"),
        ("default/dog", "no model 'dog' in registry 'default'"),
    ],
)
def test_what_misses_is_told_with_the_nearest(text, says):
    with pytest.raises(NotFoundError) as e:
        registry.resolve(Reference.parse(text), KNOWN)
    assert says in str(e.value)


def test_no_registries_at_all():
    with pytest.raises(NotFoundError):
        registry.resolve(Reference.parse("cat"), [])


# --- URLs of files ----------------------------------------------------------------------------------------------------


def file_url(base: str, url: str) -> str:
    return Registry("lab", base, RegistryDocument(format=1)).file_url(RegistryFile(size=1, sha256="a" * 64, url=url))


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("models/x/1/model.yaml", "https://h/r/models/x/1/model.yaml"),
        ("https://mirror/x", "https://mirror/x"),
        ("http://mirror/x", "http://mirror/x"),
        ("../x", "https://h/x"),
        ("/x", "https://h/x"),
    ],
)
def test_urls_are_relative_to_the_registry(url, absolute):
    assert file_url("https://h/r/registry.yaml", url) == absolute


REFUSED_URLS = [
    "file:///etc/passwd", "FILE:///etc/passwd", "ftp://h/x", "data:,x", "javascript:x", "gopher://h", "s3://b/x",
    "jar:file:///x", "file:/etc/passwd", "file:etc/passwd", "ldap://h", "about:blank", "\x0bfile:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_remote_registry_names_only_http(url):
    with pytest.raises(InvalidFileError, match="it may be http or https") as e:
        file_url("https://h/r/registry.yaml", url)
    assert is_clean(e.value)


@pytest.mark.parametrize(
    "url",
    ["../x", "../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "models/../../x", "%2e%2e/x",
     "a/%2e%2e/%2e%2e/x", "link/passwd", "file://localhost/etc/passwd", "..%2fx", "//etc/passwd"],
)  # fmt: skip
def test_folder_registry_cannot_leave_its_folder(tmp_path, url):
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "link").symlink_to("/etc")
    base = (folder / "registry.yaml").as_uri()
    with pytest.raises(InvalidFileError, match=r"leaves the registry's folder|must not name a host"):
        file_url(base, url)


NOT_URLS = [
    "http://[", "http://[::1/x", "//[", "http://h:99999/x", "http://h:port/x", "http://h\u2100x/y",
    "file://[/x", "//h:-1/x",
]  # fmt: skip


@pytest.mark.parametrize("base", ["https://h/r/registry.yaml", "file:///srv/registry/registry.yaml"])
@pytest.mark.parametrize("url", NOT_URLS)
def test_what_is_not_a_url_is_refused_in_one_line(base, url):
    with pytest.raises(InvalidFileError, match=r"registry 'lab': the URL .* is not a URL") as e:
        file_url(base, url)
    assert is_clean(e.value)


def test_links_in_a_circle_are_refused_in_one_line(tmp_path):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with pytest.raises(InvalidFileError, match="is not a path that can be read"):
        file_url((tmp_path / "registry.yaml").as_uri(), "one/x")


bracketed = st.text("[]:/@%?#.\u2100\u2047\uff0fahtpfile019", max_size=40)


@given(bracketed | bracketed.map("http://".__add__) | bracketed.map("//".__add__))
def test_any_url_of_a_remote_registry_is_http_or_refused(url):
    try:
        result = file_url("https://h/registry.yaml", url or "x")
    except ZooError as e:
        assert is_clean(e)
        return
    assert result.startswith(("http:", "https:"))


@given(st.text(max_size=60) | bracketed)
def test_any_url_stays_inside_or_is_refused(url):
    try:
        result = file_url("file:///srv/registry/registry.yaml", url or "x")
    except ZooError as e:
        assert is_clean(e)
        return
    if result.startswith("file:"):
        assert registry.path_of(result).resolve().is_relative_to("/srv/registry")
    else:
        assert result.startswith(("http:", "https:"))


# --- What a document must not say -------------------------------------------------------------------------------------

HOSTILE_FILE_NAMES = [
    "../x", "..", ".", "/x", "a/b", "a\\b", "C:x", "con", "CON", "nul.txt", "com1", "lpt9.bin", "aux", "a.", "a ",
    " a", ".git", ".hidden", "-rf", "a\0", "a\n", "a\tb", "ü", "\u202ex", "a" * 101, "", "a:b", "a*", "a?", "a|b",
    "a<b", "~", "$x",
    "a%2fb", "\uff0fx", "\u2215x", "\x1b[31m", "model.yaml/..", "a//b", "con.tar.gz", "PRN",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_FILE_NAMES)
def test_hostile_file_name_is_refused(name):
    document = msgspec.to_builtins(make("lab", cat={1: "a"}).document, str_keys=True)
    document["models"]["cat"]["versions"]["1"]["files"][name] = {"size": 1, "sha256": "a" * 64, "url": "x"}
    with pytest.raises(InvalidFileError) as e:
        registry.parse(strictyaml.dump(document), "lab", "https://h/registry.yaml")
    assert str(e.value).startswith("https://h/registry.yaml") and is_clean(e.value)


@pytest.mark.parametrize("name", ["../x", "A", "", ".x", "a/b", "a\n", "x" * 65, "ü", "a b"])
def test_hostile_model_name_is_refused(name):
    document = msgspec.to_builtins(make("lab", cat={1: "a"}).document, str_keys=True)
    document["models"][name] = document["models"]["cat"]
    with pytest.raises(InvalidFileError):
        registry.parse(strictyaml.dump(document), "lab", "https://h/registry.yaml")


FILE = {"size": 1, "sha256": "a" * 64, "url": "x"}


def cat(document):
    return document["models"]["cat"]


def version(document):
    return cat(document)["versions"]["1"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format=2), "format 2; this version of zoo reads format 1: upgrade zoo"),
        (lambda d: cat(d).update(versions={}), "a model must have at least one version"),
        (lambda d: cat(d)["versions"].update({"0": version(d)}), "expected `int` >= 1"),
        (lambda d: version(d).update(digest="b" * 64), "the digest must be the SHA-256 of its"),
        (lambda d: version(d)["files"].clear(), "which must be listed"),
        (lambda d: version(d).update(digest="A" * 64), "digest: expected `str` matching regex"),
        (lambda d: version(d).update(digest="a" * 64 + "\n"), "digest: expected `str` matching regex"),
        (lambda d: version(d)["files"]["model.yaml"].update(size=-1), "size: expected `int` >= 0"),
        (lambda d: version(d)["files"].update({"A.bin": FILE, "a.bin": FILE}), "'a.bin' differs only in case"),
        (lambda d: cat(d).update(sumary="x"), "unknown field 'sumary'; did you mean 'summary'?"),
        (lambda d: cat(d).update(summary="a\nb"), "summary: expected `str` matching regex"),
    ],
)  # fmt: skip
def test_document_that_is_wrong_is_told(change, says):
    document = msgspec.to_builtins(make("lab", cat={1: "a"}).document, str_keys=True)
    change(document)
    with pytest.raises(InvalidFileError) as e:
        registry.parse(strictyaml.dump(document), "lab", "https://h/registry.yaml")
    assert says in str(e.value)


# --- Publishing -------------------------------------------------------------------------------------------------------


def test_versions_are_added_and_never_change(tmp_path):
    folder = tiny.registry(tmp_path / "r", tiny.bundle(tmp_path / "one"), tiny.bundle(tmp_path / "two", version=2))
    known = registry.read(folder, "lab")
    assert registry.read(folder / "registry.yaml", "lab") == known
    assert list(known.document.models["tiny"].versions) == [1, 2]
    other = manifest.read(tiny.bundle(tmp_path / "other", summary="Another"))
    with pytest.raises(
        IntegrityError, match=r"is already published with digest \w{12}…, this bundle has bbbbbbbbbbbb…"
    ):
        registry.add_version(known.document, other, "b" * 64, 1)
    entry = Entry(known, "tiny", 1)
    again = registry.add_version(
        known.document, manifest.read(tmp_path / "one"), entry.digest, entry.files["model.yaml"].size
    )
    assert again == known.document


def test_summary_is_that_of_the_newest_version(tmp_path):
    two = tiny.bundle(tmp_path / "two", version=2, summary="New")
    folder = tiny.registry(tmp_path / "r", two, tiny.bundle(tmp_path / "one", summary="Old"))
    assert registry.read(folder, "lab").document.models["tiny"].summary == "New"


def test_write_replaces_in_one_step_or_not_at_all(tmp_path, monkeypatch):
    folder = tiny.registry(tmp_path / "r", tiny.bundle(tmp_path / "one"))
    before = (folder / "registry.yaml").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*registry\.yaml: No space left on device"):
        registry.write(RegistryDocument(format=1), folder)
    assert (folder / "registry.yaml").read_bytes() == before
    assert [p for p in folder.iterdir() if p.name.startswith(".registry")] == []


def test_default_registry_of_this_project_is_valid():
    assert registry.read(places.default_folder(), registry.DEFAULT).document.models
