"""The reader of files that strangers write: what it gives, and what it refuses, with the line."""

import time

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.clean import is_clean
from zoo.errors import InvalidFileError
from zoo.formats import strictyaml, yamltree

# name: (document, what the message says)
EVIL = {
    "deep flow sequence": ("[" * 25_000, ":1: nested more than 16 deep"),
    "deep flow mapping": ("{a: " * 25_000, ":1: nested more than 16 deep"),
    "deep block mapping": ("\n".join(" " * n + "a:" for n in range(40)), ":18: nested more than 16 deep"),
    "deep block sequence": ("- " * 40 + "x", ":1: nested more than 16 deep"),
    "anchor": ("a: &x 1", ":1: anchors and aliases are not allowed"),
    "anchor on a mapping": ("a: &x {b: 1}", "anchors and aliases are not allowed"),
    "anchor on a key": ("&x a: 1", "a key must be plain text"),
    "alias": ("a: 1\nb: *x", ":2: anchors and aliases are not allowed"),
    "alias as a key": ("*x : 1", "a key must be plain text"),
    "alias bomb": ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", ":1: anchors and aliases are not allowed"),
    "self reference": ("&a [*a]", "anchors and aliases are not allowed"),
    "merge key": ("a: {b: 1}\n<<: {c: 1}", ":2: merge keys (<<) are not allowed"),
    "merge bomb": ("{<<: [{a: 1}, {b: 2}]}", "merge keys (<<) are not allowed"),
    "quoted merge key": ('"<<": 1', "merge keys (<<) are not allowed"),
    "python object": (
        "!!python/object/apply:os.system ['true']",
        "tags are not allowed: tag:yaml.org,2002:python/object",
    ),
    "python name": ("a: !!python/name:os.system", "tags are not allowed"),
    "explicit int": ("a: !!int x", "tags are not allowed: tag:yaml.org,2002:int"),
    "explicit float": ("a: !!float '_'", "tags are not allowed"),
    "explicit timestamp": ("a: !!timestamp x", "tags are not allowed"),
    "explicit bool": ("a: !!bool x", "tags are not allowed"),
    "explicit set": ("!!set {a, b}", "tags are not allowed"),
    "binary": ("a: !!binary aGk=", "tags are not allowed"),
    "local tag": ("a: !evil x", "tags are not allowed: !evil"),
    "tag of a key": ("!!str a: 1", "a key must be plain text"),
    "undefined tag handle": ("a: !e!x 1", "not valid YAML"),
    "tag with an escape code": ("a: !%1b 1", "tags are not allowed: !\\x1b"),
    "duplicate key": ("a: 1\nb: 2\na: 3", ":3: 'a' is here twice"),
    "duplicate key by quoting": ("a: 1\n'a': 2", ":2: 'a' is here twice"),
    "duplicate key by escape": ('a: 1\n"\\x61": 2', ":2: 'a' is here twice"),
    "key that is a list": ("? [a]\n: 1", "a key must be plain text"),
    "key that is a mapping": ("{{a: 1}: 2}", "a key must be plain text"),
    "long key": ("? " + "k" * 300 + "\n: 1", "a key of 300 characters"),
    "long text": ("a: " + "x" * 5000, "a text of 5,000 characters; at most 4,096"),
    "long block text": ("a: |\n" + "  xxxxxxxxx\n" * 500, "characters; at most 4,096"),
    "many nodes": ("[" + "1," * 30_000 + "]", "more than 20,000 nodes"),
    "two documents": ("a: 1\n---\nb: 2", "a second document"),
    "many documents": ("---\n" * 100, "a second document"),
    "empty": ("", "the file is empty"),
    "only a comment": ("# nothing", "the file is empty"),
    "tab as indentation": ("a:\n\tb: 1", ":2: not valid YAML"),
    "open quote": ("a: 'x", "not valid YAML"),
    "open bracket": ("a: [1, 2", "not valid YAML"),
    "bad escape": ('a: "\\q"', "not valid YAML"),
    "lone surrogate": ('a: "\\ud800"', ""),
    "control character": ("a: \x07", "not valid YAML"),
    "nul": ("a: \x00", "not valid YAML"),
    "escape code": ("a: \x1b[31mred", "not valid YAML"),
    "wrong indentation": ("a: 1\n b: 2", "not valid YAML"),
    "value twice": ("a: 1: 2", "not valid YAML"),
    "directive of a version": ("%YAML 1.2\n---\na: 1", ":1: directives (lines that begin with %) are not allowed"),
    "directive that is unknown": ("%X\n---\na: 1", ":1: directives"),
    "directive after a comment": ("# a\n%TAG !a! tag:x\n---\na: 1", ":2: directives"),
    "directive of a second document": ("a: 1\n...\n%TAG !a! x\n---\nb: 1", ":3: directives"),
    "directive after a byte order mark": ("\ufeff%TAG !a! x\n---\na: 1", ":1: directives"),
    "directives, 1 MiB": ("".join(f"%TAG !{n}! x\n" for n in range(60_000)) + "---\na: 1", ":1: directives"),
    "directives after NEL": ("#\x85" + "".join(f"%TAG !{n}! x\x85" for n in range(50_000)) + "---\na: 1", "directives"),
    "directives after CR": ("#\r" + "".join(f"%TAG !{n}! x\r" for n in range(60_000)) + "---\na: 1", "directives"),
    "reserved indicator": ("a: @x", "not valid YAML"),
    "backtick": ("a: `x`", "not valid YAML"),
}


class Anything(msgspec.Struct):
    a: object = None


@pytest.mark.parametrize("name", EVIL)
def test_evil_document_is_refused_quickly_with_one_printable_line(name):
    text, says = EVIL[name]
    begin = time.process_time()
    with pytest.raises(InvalidFileError) as e:
        strictyaml.load(text.encode("utf-8"), "evil.yaml", Anything)
    assert time.process_time() - begin < 2
    assert str(e.value).startswith("evil.yaml") and says in str(e.value)
    assert is_clean(e.value) and len(str(e.value)) < 1000


@pytest.mark.parametrize("unit", ["\n", "\n\ufeff", "\ufeff", " %\n", "a%\n", "\r"])
def test_the_search_for_directives_is_linear(unit):
    begin = time.process_time()
    with pytest.raises(InvalidFileError):
        strictyaml.parse((unit * ((1 << 20) // len(unit.encode()))).encode(), "x.yaml")
    assert time.process_time() - begin < 2


def test_a_percent_sign_within_a_line_is_text():
    text = "a: '%TAG x'\nb: 100 %\nc: |\n  %TAG x\n"
    assert strictyaml.parse(text.encode(), "x.yaml")[0] == {"a": "%TAG x", "b": "100 %", "c": "%TAG x\n"}


def test_there_are_enough_of_them():
    assert len(EVIL) >= 40


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a: \xc3", b"\x80", "a: 1".encode("utf-16")])
def test_other_encodings_are_refused(data):
    with pytest.raises(InvalidFileError, match="evil.yaml: not (UTF-8 text|valid YAML)"):
        strictyaml.parse(data, "evil.yaml")


def test_size_is_looked_at_before_anything_else():
    with pytest.raises(InvalidFileError, match=r"1,048,577 bytes; a YAML file may have at most 1,048,576"):
        strictyaml.parse(b"#" * ((1 << 20) + 1), "x.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("NULL", "NULL"), ("True", "True"), ("010", "010"),
        ("0x1F", "0x1F"),
        ("0b1", "0b1"), ("1:30", "1:30"), ("1_000", "1_000"), ("2024-13-45", "2024-13-45"), (".5", ".5"), ("5.", "5."),
        ("1e5", "1e5"), (".inf", ".inf"), (".nan", ".nan"), ("+1", "+1"), ("9" * 5000, None), ("9" * 30, "9" * 30),
        ("=", "="), ("true", True), ("false", False), ("null", None), ("~", None), ("", None), ("0", 0), ("-7", -7),
        ("1.5", 1.5), ("-1.0e-3", -0.001), ("'1'", "1"), ('"null"', "null"), ("|-\n  x", "x"), ("a b", "a b"),
    ],
)  # fmt: skip
def test_plain_text_means_what_json_would_mean(text, value):
    if len(text) > 4096:
        with pytest.raises(InvalidFileError):
            strictyaml.parse(f"a: {text}".encode(), "x.yaml")
        return
    tree, _ = strictyaml.parse(f"a: {text}\n".encode(), "x.yaml")
    assert tree == {"a": value} and type(tree["a"]) is type(value)


# --- The schema's findings --------------------------------------------------------------------------------------------


class Part(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    color: str = ""


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    parts: dict[str, Part] = {}
    list: tuple[Part, ...] = ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parts: {}", "x.yaml:1: the document: object missing required field `format`"),
        ("format: 1\nparts:\n  a:\n    size: big", "x.yaml:4: parts.a.size: expected `int`, got `str`"),
        (
            "format: 1\nparts:\n  a:\n    size: 1\n  b:\n    size: 1\n    colour: red",
            "x.yaml:7: parts.b.colour: unknown field 'colour'; did you mean 'color'?",
        ),
        ("format: 1\nlist:\n- size: 1\n- size: no", "x.yaml:4: list.1.size: expected `int`, got `str`"),
        ("- 1", "x.yaml:1: the document: expected `object`, got `array`"),
        ("format: 1\n\"\\e[31m\": 1", "x.yaml:2: \\x1b[31m: unknown field '\\x1b[31m'"),
    ],
)  # fmt: skip
def test_finding_names_file_line_field_and_reason(text, message):
    with pytest.raises(InvalidFileError) as e:
        strictyaml.load(text.encode(), "x.yaml", Whole)
    assert str(e.value) == message


# --- Properties -------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
scalars = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | texts
keys = texts.filter(lambda key: key != "<<")  # refused
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@settings(max_examples=60)
@given(trees)
@example({"a": "no", "b": "010", "c": "1_000", "d": "~", "e": "", "f": "1.5", "g": "null", "h": "-0"})
@example({"a": "\u2028\x85\ufeff\x07\x1b"})
@example(["- x", "# x", "a: b", "&x", "*x", "!x", "'", '"', "|", ">", "%", "@", "`", "? x", ": x", "\n", " x ", "\t"])
def test_what_is_dumped_is_read_back(tree):
    assert strictyaml.parse(strictyaml.dump(tree), "x.yaml")[0] == tree


@given(st.binary(max_size=200) | st.text("[]{}:,-?&*!|>'\"%@`#<\n\t ab01~.", max_size=60).map(str.encode))
def test_whatever_the_bytes_there_is_a_tree_or_one_printable_line(data):
    try:
        strictyaml.parse(data, "x.yaml")
    except InvalidFileError as e:
        assert is_clean(e)


# --- What is remembered -----------------------------------------------------------------------------------------------


def remembered(home):
    return sorted(home.glob("parsed/*/*.json"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_text_is_parsed_once_and_its_lines_are_still_known(home, monkeypatch):
    text = b"a: 1\nb: [1.5, 'no', null, true]\n"
    first, _ = strictyaml.parse(text, "x.yaml", remember=True)
    assert len(remembered(home)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(yamltree, "compose", None)  # would raise
        again, lines = strictyaml.parse(text, "y.yaml", remember=True)
    assert again == first == {"a": 1, "b": [1.5, "no", None, True]}
    assert lines["b", 1] == 2
    with pytest.raises(InvalidFileError, match=r"y\.yaml:1: a: expected `str`, got `int`"):
        strictyaml.load(text, "y.yaml", Words, remember=True)


class Words(msgspec.Struct):
    a: str


@pytest.mark.parametrize("damage", [b"", b'{"a": 1', b"\xff"])
def test_what_is_damaged_is_parsed_again(home, damage):
    strictyaml.parse(b"a: 1", "x.yaml", remember=True)
    [kept] = remembered(home)
    kept.write_bytes(damage)
    assert strictyaml.parse(b"a: 1", "x.yaml", remember=True)[0] == {"a": 1}
    assert kept.read_bytes() == b'{"a":1}'


def test_another_text_another_reader_and_what_is_refused_are_not_mixed_up(home, monkeypatch):
    strictyaml.parse(b"a: 1", "x.yaml", remember=True)
    assert strictyaml.parse(b"a: 2", "x.yaml", remember=True)[0] == {"a": 2}
    for _ in range(2):
        with pytest.raises(InvalidFileError, match="anchors and aliases"):
            strictyaml.parse(b"a: &x 1", "x.yaml", remember=True)
    assert len(remembered(home)) == 2
    monkeypatch.setattr(strictyaml, "_code", lambda: "other")
    monkeypatch.setattr(yamltree, "compose", lambda data, source: ("read anew", {}))
    assert strictyaml.parse(b"a: 1", "x.yaml", remember=True)[0] == "read anew"


def test_nothing_is_kept_unless_it_is_asked_for(home):
    strictyaml.parse(b"url: https://example.org/?token=secret", "registries.yaml")
    assert not remembered(home)


def test_reading_makes_no_store(home):
    home.rmdir()
    assert strictyaml.parse(b"a: 1", "x.yaml", remember=True)[0] == {"a": 1}
    assert not home.exists()


def test_where_the_store_cannot_be_written_the_text_is_parsed_each_time(home):
    (home / "parsed").write_text("a file, not a folder")
    for _ in range(2):
        assert strictyaml.parse(b"a: 1", "x.yaml", remember=True)[0] == {"a": 1}
