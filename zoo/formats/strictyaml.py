"""YAML for files that strangers write: limited, without surprises, and with line numbers in every error.

Four steps: directives are refused before anything is parsed; an event scan (`yamltree.py`) limits depth, nodes and
scalar length and refuses anchors, aliases, tags, merge keys and duplicate keys; plain scalars are read by JSON's rules
only (`no` and `010` stay text); then a typed schema (msgspec), whose findings become `file:line: field: reason`. Why
not `yaml.safe_load`: 25,000 opening brackets crash its C parser, a 424-byte merge bomb takes seconds, and it raises six
types of exceptions.

Each command reads the same registries and manifests, so what the first three steps make of their text is remembered in
the store as JSON: `parsed/<digest of their code>/<digest of the text>.json`. The schema is applied
every time.
"""

import re
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ..errors import InvalidFileError, StoreError
from ..system.files import write_atomically
from ..system.places import home
from ..text import did_you_mean, safe_text
from .fields import MAX_BYTES, digest_of

if TYPE_CHECKING:
    from . import yamltree

T = TypeVar("T")

PARSED = "parsed"
"""The folder in the store."""


class Lines:
    """The line of each node of a document, by the path of its keys and indices; only errors need them."""

    def __init__(self, data: bytes, source: str, found: "yamltree.Lines | None" = None):
        self._document, self._found = (data, source), found

    def _all(self) -> "yamltree.Lines":
        if self._found is None:
            from .yamltree import compose

            _, self._found = compose(*self._document)
        return self._found

    def __getitem__(self, path: tuple) -> int:
        return self._all()[path]

    def __contains__(self, path: tuple) -> bool:
        return path in self._all()


def load(data: bytes, source: str, schema: type[T], *, remember: bool = False) -> T:
    """The document as an instance of `schema` (a msgspec Struct).

    Args:
        data: the file's bytes, at most 1 MiB of UTF-8.
        source: the file's name, for messages.
        remember: a text without secrets that is often read: keep what it says, so that it is parsed once.

    Raises:
        InvalidFileError: `source:line: field: reason`, for anything that is wrong with the document.
    """
    tree, lines = parse(data, source, remember=remember)
    return convert(tree, lines, source, schema)


def parse(data: bytes, source: str, *, remember: bool = False) -> tuple[Any, Lines]:
    """The document as dicts, lists, str, int, float, bool and None, with the line of each node.

    Args and errors: as for `load`.
    """
    kept = _kept(data) if remember else None
    if kept is not None:
        with suppress(OSError, msgspec.DecodeError):  # absent, or damaged
            return msgspec.json.decode(kept.read_bytes()), Lines(data, source)
    from .yamltree import compose

    tree, lines = compose(data, source)
    if kept is not None:
        _keep(kept, tree)
    return tree, Lines(data, source, lines)


def _kept(data: bytes) -> Path | None:
    """Where the tree of a text is remembered; None if there is no store."""
    if len(data) > MAX_BYTES:
        return None
    with suppress(OSError, StoreError):
        return home() / PARSED / _code() / f"{digest_of(data)}.json"
    return None


def _keep(path: Path, tree: Any) -> None:
    with suppress(OSError, StoreError):  # where the store cannot be written, the text is parsed each time
        if not home().is_dir():  # reading alone makes no store
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(tree), synced=False)


@cache
def _code() -> str:
    """Changes with the code that makes a tree of a text."""
    return digest_of(Path(__file__).with_name("yamltree.py").read_bytes())[:16]


# Models may be loaded in several threads, and msgspec crashes if several are the first to convert to a type.
_CONVERTING = threading.Lock()

_AT = re.compile(r" - at `(key in )?\$(?P<path>.*)`\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)


def convert(tree: Any, lines: Lines, source: str, schema: type[T]) -> T:
    """The parsed tree as an instance of `schema`; its findings name file, line and field."""
    try:
        with _CONVERTING:
            return msgspec.convert(tree, schema, str_keys=True)
    except msgspec.ValidationError as e:
        message = str(e)
        at = _AT.search(message)
        path = _keys(at["path"] if at else "", tree, schema, message)
        reason = message[: at.start()] if at else message
        if unknown := _UNKNOWN.match(reason):
            name = unknown["name"]
            reason = f"unknown field '{name}'{did_you_mean(name, _field_names(schema, path))}"
            path = (*path, name)
        else:
            reason = reason[0].lower() + reason[1:]
        line = next(lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines)
        field = ".".join(map(str, path)) or "the document"
        raise InvalidFileError(f"{safe_text(source)}:{line}: {safe_text(field)}: {safe_text(reason)}") from None


def _keys(path: str, tree: Any, schema: type, message: str) -> tuple:
    """msgspec's `.models[...].files[0]` as the keys it went through.

    `[...]` is a mapping's key that msgspec does not name: it is the key that by itself gives the same message.
    """
    keys: tuple = ()
    for name, index in re.findall(r"\.([^.\[\]]+)|\[([^\]]*)\]", path):
        if index == "...":
            mapping = _get(tree, keys)
            for key in mapping:
                alone = _replace(tree, keys, {key: mapping[key]})
                try:
                    msgspec.convert(alone, schema, str_keys=True)
                except msgspec.ValidationError as e:
                    if str(e) == message:
                        tree, keys = alone, (*keys, key)
                        break
        else:
            keys = (*keys, int(index) if index else name)
    return keys


def _get(tree: Any, keys: tuple) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def _replace(tree: Any, keys: tuple, value: Any) -> Any:
    """The tree with the node at `keys` replaced; everything off that path is shared."""
    if not keys:
        return value
    copy = tree.copy()
    copy[keys[0]] = _replace(tree[keys[0]], keys[1:], value)
    return copy


def _field_names(schema: Any, path: tuple) -> list[str]:
    """The field names that were possible at `path`; empty if they are unknown."""
    node = msgspec.inspect.type_info(schema)
    for step in path:
        if isinstance(node, msgspec.inspect.UnionType):
            node = next((t for t in node.types if isinstance(t, msgspec.inspect.StructType)), node)
        if isinstance(node, msgspec.inspect.StructType):
            node = next((f.type for f in node.fields if f.encode_name == step), None)
        elif isinstance(node, msgspec.inspect.DictType):
            node = node.value_type
        elif isinstance(node, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)):
            node = node.item_type
        else:
            return []
    return [f.encode_name for f in node.fields] if isinstance(node, msgspec.inspect.StructType) else []


def dump(value: Any) -> bytes:
    """A msgspec Struct (or plain tree) as YAML that `load` can read: innermost values on one line, keys in order."""
    from . import yamltree

    return yamltree.dump(msgspec.to_builtins(value, str_keys=True))
